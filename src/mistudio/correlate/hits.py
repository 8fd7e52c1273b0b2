"""Features that a look-up has found, with what is known of each, and what a reply comes from."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mistudio.artifacts import Artifact
from mistudio.correlate.dictionary import Dictionary
from mistudio.correlate.replies import Hit, Origin
from mistudio.subject import SubjectSource

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
    labels, scores, densities = (_of(dictionary, name, features) for name in ("label", "score", "density"))
    norms = dictionary.placed.sae.W_dec.detach()[features].float().norm(dim=1).tolist() if features else []
    return tuple(
        Hit(
            feature=each.feature,
            autoencoder=dictionary.name,
            measure=measure,
            value=rounded(each.value),
            values={name: rounded(value) for name, value in each.values.items()},
            by_token=each.by_token,
            label=label,
            explanation=each.explanation,
            explainer=each.explainer,
            score=score,
            density=density,
            decoder_norm=rounded(norm),
            page=dictionary.page(each.feature),
        )
        for each, label, score, density, norm in zip(found, labels, scores, densities, norms, strict=True)
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


def _of(dictionary: Dictionary, column: str, features: Sequence[int]) -> list[object]:
    """One value of each feature; None where it is not known."""
    known = dictionary.features
    if known is None or column not in known.names:
        return [None] * len(features)
    values = known.column(column)
    found = [values[feature].as_py() for feature in features]
    return [None if isinstance(each, float) and math.isnan(each) else each for each in found]
