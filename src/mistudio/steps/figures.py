"""The figures of a step by which two runs are compared, and what MLflow is told of what a step published."""

from collections.abc import Iterator, Mapping
from contextlib import suppress

from mistudio.artifacts import Artifact, JsonScalar, Line, canonical_json, open_artifact
from mistudio.errors import MistudioError
from mistudio.plain_text import in_markdown
from mistudio.report.metrics import OUTLIER_FIGURES
from mistudio.steps.naming import autoencoder_words, corpus_name, facts
from mistudio.tracking import Dataset, Model
from mistudio.tracking.views import NOTE

_MEASURED = (
    "ce_recovered",
    "explained_variance",
    *OUTLIER_FIGURES,
    "fvu",
    "l0",
    "dead_fraction",
    "kl",
    "ce_clean",
    "ce_spliced",
)
_SCORED = ("interpretable", "scored", "explained", "dead", "dense", "program_f1", "shuffled_f1")
_HEADLINES = {"evaluate": _MEASURED, "compare": _MEASURED, "score": _SCORED}
MEASURED_BY = {"evaluation": "evaluate", "scores": "score"}  # role of an input -> the step that published it
_MAIN = {
    "ce_recovered": "CE recovered",
    "explained_variance": "explained variance",
    "l0": "L0",
    "dead_fraction": "silent features",
    "interpretable": "interpretable features",
}
_MODEL_SETTINGS = ("hook", "target_hook", "tokens")
_SUMMARY = "report.md"


def headlines(step: str, summary: Mapping[str, JsonScalar]) -> dict[str, JsonScalar]:
    """The figures of a step that stand on its pipeline's run, and on the autoencoder that they are of."""
    return {name: summary[name] for name in _HEADLINES.get(step, ()) if summary.get(name) is not None}


def description(step: str, artifact: Artifact) -> str:
    """What was published, in Markdown: the page of a report under its main figures, else its figures as a table."""
    if _SUMMARY in artifact.paths():
        _title, _, page = artifact.file(_SUMMARY).read_text(encoding="utf-8").partition("\n")
        return f"**{main_figures(artifact)}**\n\n{page.strip()}\n"
    lines = [f"`{artifact.uri}`, made by {step}", "", "| figure | value |", "| --- | ---: |"]
    lines += [f"| {in_markdown(name)} | {in_markdown(_shown(value))} |" for name, value in _rows(artifact)]
    return "\n".join(lines) + "\n"


def main_figures(artifact: Artifact) -> str:
    """The figures of the evaluation and scores behind an artifact that matter most, in a line."""
    behind = [(step, artifact.manifest.inputs.get(role)) for role, step in MEASURED_BY.items()]
    figures: dict[str, JsonScalar] = {}
    for step, ref in behind:
        with suppress(MistudioError):
            figures |= headlines(step, open_artifact(artifact.store, ref.uri).manifest.summary) if ref else {}
    return ", ".join(f"{words} {_shown(figures[name])}" for name, words in _MAIN.items() if name in figures)


def datasets(artifact: Artifact) -> list[Dataset]:
    """Corpus and activations behind an artifact, and what for: training, or evaluation on held-out documents."""
    context = "training" if artifact.manifest.short_kind in ("sae", "activations", "corpus") else "evaluation"
    found = [each for kind in ("corpus", "activations") if (each := _behind(artifact, kind)) is not None]
    return [_dataset(each, context) for each in found if each.uri != artifact.uri]


def measured_on(artifact: Artifact) -> Dataset | None:
    """The corpus that the figures of an artifact are of, as far as it is known."""
    corpus = _behind(artifact, "corpus")
    return None if corpus is None else _dataset(corpus, "evaluation")


def autoencoder(artifact: Artifact) -> Model | None:
    """The autoencoder behind an artifact, or itself, as MLflow is told of it."""
    sae = _behind(artifact, "sae")
    if sae is None:
        return None
    known = facts(sae)
    name = " ".join(known[each] for each in ("model", "hook") if each in known)
    settings = {key: sae.manifest.config[key] for key in _MODEL_SETTINGS if sae.manifest.config.get(key) is not None}
    words = autoencoder_words(known)
    return Model(
        name=" ".join([*words, name]).strip() or sae.uri,
        digest=sae.digest,
        uri=sae.uri,
        params={**settings, **known},
        tags={**lineage(sae), NOTE: description("train", sae)},
        manifest=canonical_json(sae.manifest.model_dump(mode="json")),
    )


def lineage(artifact: Artifact) -> dict[str, str]:
    """Where everything lies that an autoencoder was made from, with digests, and which code made it."""
    line = Line(artifact.store, artifact)
    tags: dict[str, str] = {}
    with suppress(MistudioError):
        sae = line.find("sae")
        for kind in ("sae", "activations", "corpus"):
            found = line.find(kind)
            tags |= {} if found is None else {f"{kind}.uri": found.uri, f"{kind}.digest": found.digest}
        producer = None if sae is None else sae.manifest.producer
        tags |= {} if producer is None else {"mistudio.version": producer.version}
        code = {"git.commit": producer and producer.git_commit, "image": producer and producer.image}
        tags |= {name: value for name, value in code.items() if value}
        subject = line.activations.manifest.inputs.get("subject")
        tags |= {} if subject is None else {"subject.uri": subject.uri, "subject.digest": subject.digest}
    return tags


def _behind(artifact: Artifact, kind: str) -> Artifact | None:
    with suppress(MistudioError):
        return Line(artifact.store, artifact).find(kind)
    return None


def _dataset(artifact: Artifact, context: str) -> Dataset:
    manifest = artifact.manifest
    if manifest.short_kind == "corpus":
        name = corpus_name(artifact)
    else:
        known = facts(artifact)
        name = " ".join(known[each] for each in ("model", "hook") if each in known) or artifact.uri
    return Dataset(name, artifact.digest, artifact.uri, artifact.store.url, context, manifest.summary)


def _rows(artifact: Artifact) -> Iterator[tuple[str, JsonScalar]]:
    yield from ((name, value) for name, value in artifact.manifest.summary.items() if value is not None)


def _shown(value: JsonScalar) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
