"""Features that a look-up has found, with what is known of each, and what a reply comes from."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mistudio.artifacts import Artifact
from mistudio.correlate.dictionary import Dictionary
from mistudio.correlate.replies import Hit, Origin
from mistudio.features import Row
from mistudio.subject import SubjectSource

_SHOWN = ("label", "score", "density")
_DIGITS = 6  # of a value: more than single precision holds would be noise


class Found(NamedTuple):
    """A feature and the figures of the look-up."""

    feature: int
    value: float
    values: Mapping[str, float] = {}
    by_token: tuple[float, ...] | None = None
    explanation: str | None = None
    explainer: str | None = None


def make_hits(dictionary: Dictionary, measure: str, found: Iterable[Found]) -> tuple[Hit, ...]:
    """Hits in the order of what was found, with label, score, density, decoder norm and page of each."""
    found = list(found)
    features = [each.feature for each in found]
    known = _known(dictionary, features)
    norms = dictionary.placed.sae.W_dec.detach()[features].float().norm(dim=1).tolist() if features else []
    return tuple(
        Hit(
            feature=each.feature,
            autoencoder=dictionary.name,
            measure=measure,
            value=rounded(each.value),
            values={name: rounded(value) for name, value in each.values.items()},
            by_token=each.by_token,
            label=row.get("label"),
            explanation=each.explanation,
            explainer=each.explainer,
            score=_finite(row.get("score")),
            density=row.get("density"),
            decoder_norm=rounded(norm),
            page=dictionary.page(each.feature),
        )
        for each, row, norm in zip(found, known, norms, strict=True)
    )


def rounded(value: float) -> float:
    """A figure without the digits that single precision does not hold."""
    return float(f"{value:.{_DIGITS}g}")


def lineage(dictionary: Dictionary, source: SubjectSource | None) -> dict[str, Origin]:
    """The artifacts that a reply comes from, by what each is."""
    line, placed = dictionary.served.line, dictionary.placed
    found: dict[str, Artifact | None] = {
        "features": line.features,
        "explanations": line.explanations,
        "scores": line.scores,
    }
    origins = {} if source is None else {"subject": Origin(uri=source.uri, digest=source.digest)}
    origins["sae"] = Origin(uri=placed.uri, digest=placed.digest)
    return origins | {
        name: Origin(uri=artifact.uri, digest=artifact.digest) for name, artifact in found.items() if artifact
    }


def _known(dictionary: Dictionary, features: Sequence[int]) -> list[Row]:
    """What is known of each feature; nothing where nothing was looked for."""
    known = dictionary.features
    if known is None:
        return [{} for _ in features]
    return known.rows(features, [name for name in _SHOWN if name in known.names])


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
