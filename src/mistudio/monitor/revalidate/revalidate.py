"""A new version of the watched model: does the watch list still see what it saw, and if not, can it be made to?

Each column is *kept* where its values on reference texts are what they were; *realigned* where they are after a map of
the activations that was made without labels; and *refused* where neither holds: it has to be made anew. Maps are fitted
on half of the texts, and columns judged on the other half.

An artifact of kind ``realignment`` holds the verdict of each column, the maps, and what realigned columns read now:
``vector · x + offset`` of the new version's activations, before what the autoencoder makes of it.

Shape legend: S texts, W columns, N tokens, D width of a hook point.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mistudio.artifacts import Artifact, Draft, InputRef, Produced, Recipe, Summary, open_artifact, produce
from mistudio.errors import InputError
from mistudio.monitor.revalidate.config import RevalidateConfig
from mistudio.monitor.revalidate.realignment import (
    KIND,
    MAPS_NAME,
    VECTORS_NAME,
    VERDICTS_NAME,
    Likeness,
    Maps,
    Outcome,
    Verdict,
)
from mistudio.monitor.revalidate.reference import ReferenceTexts, open_reference
from mistudio.subject import SubjectConfig, SubjectSource

if TYPE_CHECKING:
    from mistudio.instrument.served import Served
    from mistudio.monitor.revalidate.realign import Realigned
    from mistudio.monitor.watch.columns import Column


def revalidate(
    reference: Artifact, source: SubjectSource, config: RevalidateConfig, subject_config: SubjectConfig | None = None
) -> Produced:
    """Publish what became of each column in a new version of the model.

    Args:
        reference: artifact of kind ``reference``, made with the old version.
        source: the new version.
        config: when a column is good enough.
        subject_config: how to load it; None: as usual.

    Raises:
        InputError: an autoencoder does not fit the new version, or its tokenizer is another.
        SubjectError: it cannot be loaded.
        DamagedArtifact: a file differs from what was published.
    """
    inputs = {"reference": reference.ref, "subject": InputRef(uri=source.uri, digest=source.digest)}
    recipe = Recipe(kind=KIND, config=config.model_dump(mode="json"), inputs=inputs)

    def build(draft: Draft) -> Summary:
        return _build(draft, reference, source, config, subject_config or SubjectConfig())

    return produce(reference.store, recipe, "revalidate", build)


def _build(
    draft: Draft, artifact: Artifact, source: SubjectSource, config: RevalidateConfig, subject_config: SubjectConfig
) -> Summary:
    from mistudio.monitor.revalidate.reading import ColumnReader
    from mistudio.monitor.revalidate.realign import realign

    old = open_reference(artifact)
    with _served_anew(artifact, old, source, subject_config) as served:
        reader = ColumnReader(served, old.record.watch_list)
        where = old.token_ids, old.record.num_prefix, old.record.num_suffix, old.row_N
        as_is = reader.read(*where)
        is_fitting_S = np.random.default_rng(0).permutation(len(old.token_ids)) % 2 == 0
        is_known_N, is_fitting_N = _parts(old, is_fitting_S)
        maps = {
            hook: realign(
                as_is.acts[hook][is_known_N], old.acts[hook][is_known_N], is_fitting_N[is_known_N], config.ridges
            )
            for hook in reader.hooks
        }
        mapped = reader.read(*where, maps)
        columns = reader.columns.columns
        vectors = _vectors(served, reader, maps)
    values = (old.value_SW[~is_fitting_S], as_is.value_SW[~is_fitting_S], mapped.value_SW[~is_fitting_S])
    verdicts = tuple(_verdict(old, column, number, values, config) for number, column in enumerate(columns))
    about: dict[str, dict[str, float | str]] = {
        hook: {"kind": each.kind, "unexplained": each.unexplained, "unexplained_as_is": each.unexplained_as_is}
        for hook, each in maps.items()
    }
    found = Maps(
        subject=source.uri,
        subject_digest=source.digest,
        num_judged=int((~is_fitting_S).sum()),
        verdicts=verdicts,
        maps=about,
    )
    return _write(draft, found, maps, vectors)


def _served_anew(artifact: Artifact, old: ReferenceTexts, source: SubjectSource, config: SubjectConfig) -> "Served":
    """The new version with the autoencoders of the old one, which its directions are taken to be of too."""
    from mistudio.artifacts import Line
    from mistudio.instrument.served import Served, ServedFeatures
    from mistudio.instrument.session import Session, place_autoencoder
    from mistudio.subject import load_subject

    refs = [ref for name, ref in artifact.manifest.inputs.items() if name.startswith("sae")]
    saes = [open_artifact(artifact.store, ref.uri, "sae") for ref in refs]
    subject = load_subject(source, config)
    largest = max(int(ids.max()) for ids in old.token_ids)
    if largest >= subject.vocab_size:
        message = (
            f"The reference texts have token ids up to {largest:,}, and {source.uri} knows {subject.vocab_size:,}: its "
            "tokenizer is another. Make a reference with it."
        )
        raise InputError(message)
    as_old = SubjectSource(source.name, old.record.subject, source.path, source.revision, old.record.subject_digest,
                           source.tokenizer_digest)  # fmt: skip
    session = Session(subject, [place_autoencoder(subject, sae) for sae in saes], as_old)
    features = tuple(ServedFeatures(sae.uri, Line(artifact.store, sae)) for sae in saes)
    return Served(session, features, source.name, artifact.store)


def _parts(old: ReferenceTexts, is_fitting_S: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Tokens of the fitting half, and those of them that maps are fitted on; the rest chooses between maps [N], [N]."""
    around = old.record.num_prefix + old.record.num_suffix
    ends_S = np.cumsum([max(len(ids) - around, 0) for ids in old.token_ids])
    text_N = np.searchsorted(ends_S, old.row_N, side="right")
    return is_fitting_S[text_N], text_N % 5 != 0


def _verdict(
    old: ReferenceTexts,
    column: "Column",
    number: int,
    values: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
    config: RevalidateConfig,
) -> Verdict:
    before_S, as_is_S, mapped_S = (each[:, number] for each in values)
    watched = old.record.watch_list.watched[number]
    threshold, is_own = watched.threshold, True
    above_S = np.zeros(0, dtype=np.bool_) if threshold is None else before_S > threshold
    if threshold is None or min(above_S.sum(), (~above_S).sum()) < config.fewest_above:
        threshold, is_own = float(np.quantile(before_S, config.quantile)), False
    as_is, mapped = likeness(before_S, as_is_S, threshold), likeness(before_S, mapped_S, threshold)
    outcome: Outcome = "kept" if _holds(as_is, config) else "realigned" if _holds(mapped, config) else "refused"
    num_above = int((before_S > threshold).sum())
    return Verdict(
        name=watched.name,
        hook=column.hook,
        digest=column.digest,
        outcome=outcome,
        reason="" if outcome != "refused" else _reason(as_is, mapped, num_above),
        threshold=threshold,
        is_own_threshold=is_own,
        num_above=num_above,
        as_is=as_is,
        realigned=mapped,
    )


def likeness(before_S: NDArray[np.float32], after_S: NDArray[np.float32], threshold: float) -> Likeness:
    """How like the values of texts are."""
    above, now = before_S > threshold, after_S > threshold
    same = float((above == now).mean())
    by_chance = float(above.mean() * now.mean() + (1 - above.mean()) * (1 - now.mean()))
    is_constant = before_S.std() == 0 or after_S.std() == 0
    correlation = None if is_constant else float(np.corrcoef(before_S.astype(np.float64), after_S)[0, 1])
    agreement = None if above.all() or not above.any() else (same - by_chance) / (1 - by_chance)
    return Likeness(correlation=correlation, agreement=agreement, same=same)


def _holds(found: Likeness, config: RevalidateConfig) -> bool:
    return (
        found.correlation is not None
        and found.agreement is not None
        and found.correlation >= config.min_correlation
        and found.agreement >= config.min_agreement
    )


def _reason(as_is: Likeness, mapped: Likeness, num_above: int) -> str:
    if not num_above:
        return "it never fires in the reference texts, so that they say nothing of it"
    figures = [
        f"{name} {_shown(each.correlation)} and agreement {_shown(each.agreement)}"
        for name, each in (("as it is correlation", as_is), ("realigned", mapped))
    ]
    return ", ".join(figures)


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _vectors(served: "Served", reader: object, maps: Mapping[str, "Realigned"]) -> dict[str, NDArray[np.float32]]:
    """What each column reads of the new version's activations before the autoencoder's activation function."""
    from mistudio.monitor.revalidate.vectors import column_vectors

    return column_vectors(served, reader.columns.columns, maps)  # type: ignore[attr-defined]


def _write(
    draft: Draft, found: Maps, maps: Mapping[str, "Realigned"], vectors: Mapping[str, NDArray[np.float32]]
) -> Summary:
    from safetensors.numpy import save_file

    arrays = {f"{hook}.weight": np.ascontiguousarray(each.weight_DD) for hook, each in maps.items()}
    arrays |= {f"{hook}.shift": np.ascontiguousarray(each.shift_D) for hook, each in maps.items()}
    for name, content in ((MAPS_NAME, arrays), (VECTORS_NAME, dict(vectors))):
        with draft.stage(name) as path:
            save_file(content, path)
    draft.write(VERDICTS_NAME, json.dumps(found.model_dump(mode="json"), indent=1).encode())
    counts = {
        outcome: sum(one.outcome == outcome for one in found.verdicts) for outcome in ("kept", "realigned", "refused")
    }
    return {"columns": len(found.verdicts), "texts": found.num_judged, **counts}
