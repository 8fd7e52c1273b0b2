"""Which features a step works on: one grammar for the setting ``only``, and what it selects.

A selection is terms with commas between them, united: numbers and ranges (``12,40-90``), the first so many in an order
(``best:50``, ``densest:50``, ``rarest:50``, ``coherent:50``), a place on the map (``group:7``, ``cluster:3``), and
``unlabelled``. Like ones are taken by number, so that the same selection of the same artifacts is the same features.

Shape legend: F features, S selected features.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.errors import ConfigError, InputError
from mistudio.features.figures import main_figure
from mistudio.plain_text import shortened

if TYPE_CHECKING:
    from mistudio.artifacts import Artifact
    from mistudio.features.feature_set import FeatureSet

Features = NDArray[np.int64]

_RANGE = re.compile(r"(\d{1,10})(?:-(\d{1,10}))?", re.ASCII)
_COUNTED = re.compile(r"([a-z]+):(\d{1,10})", re.ASCII)
_BEST, _UNLABELLED, _NUMBERS = "best", "unlabelled", "numbers"
_ORDERS = (_BEST, "densest", "rarest", "coherent")
_PLACES = ("group", "cluster")
_HOW = (
    "write numbers and ranges (12,40-90), best:50, densest:50, rarest:50, coherent:50, group:7, cluster:3 or "
    "unlabelled, with commas between them"
)


class _Term(NamedTuple):
    """One part of a selection: its kind, and a number, or the first and last of a range."""

    kind: str
    first: int = 0
    last: int = 0

    def __str__(self) -> str:
        if self.kind == _UNLABELLED:
            return self.kind
        if self.kind != _NUMBERS:
            return f"{self.kind}:{self.first}"
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True)
class Selection:
    """Some features, as they were asked for; made by :func:`parse_selection`."""

    terms: tuple[_Term, ...]

    def __str__(self) -> str:
        """The one way to write it: no spaces, each term once."""
        return ",".join(map(str, self.terms))

    @property
    def needs_scores(self) -> bool:
        """Whether it takes scores to know which features these are."""
        return any(term.kind == _BEST for term in self.terms)

    @property
    def needs_explanations(self) -> bool:
        """Whether it takes explanations to know which features these are."""
        return any(term.kind == _UNLABELLED for term in self.terms)

    def at_most(self, num_features: int) -> int:
        """How many of so many features are selected at most, told before they are known."""
        if any(term.kind in (*_PLACES, _UNLABELLED) for term in self.terms):
            return num_features
        counts = (term.last - term.first + 1 if term.kind == _NUMBERS else term.first for term in self.terms)
        return min(sum(counts), num_features)

    def features(
        self,
        found: "FeatureSet",
        scores: "Artifact | None" = None,
        explanations: "Artifact | None" = None,
        scores_role: str = "scores",
    ) -> Features:
        """The numbers of the features selected, ascending [S].

        Args:
            found: all features.
            scores: artifact of kind ``scores`` of these features, for ``best``.
            explanations: artifact of kind ``explanations`` of these features, for ``unlabelled``.
            scores_role: what the step calls its input of the scores, for the message that says that they are missing.

        Raises:
            InputError: a number is beyond the features, there is no such group or cluster, what a term needs was not
                given or is of other features, or nothing is selected.
        """
        chosen_F = np.zeros(found.num_features, dtype=bool)
        self._check_scores(scores, scores_role)
        for term in self.terms:
            chosen_F[_select(term, found, scores, explanations)] = True
        if not chosen_F.any():
            message = f"only {shortened(str(self))} selects none of {found.num_features:,} features: ask for others."
            raise InputError(message)
        return np.flatnonzero(chosen_F)

    def _check_scores(self, scores: "Artifact | None", role: str) -> None:
        best = next((term for term in self.terms if term.kind == _BEST), None)
        if best is not None and scores is None:
            option = f"--{role.replace('_', '-')} scores/…"
            message = f"only has the term {best}, which needs scores of these features to know the best: give {option}."
            raise InputError(message)


def parse_selection(text: str) -> Selection:
    """Read a selection of features.

    Raises:
        ConfigError: a term is malformed, a range is reversed, or a count is 0.
    """
    terms = [_parse_term(part.strip()) for part in text.split(",")]
    return Selection(tuple(dict.fromkeys(terms)))


def _parse_term(text: str) -> _Term:
    if numbers := _RANGE.fullmatch(text):
        first, last = int(numbers[1]), int(numbers[2] or numbers[1])
        if last < first:
            message = f"only has the range {text}, which ends before it begins: write {last}-{first}."
            raise ConfigError(message)
        return _Term(_NUMBERS, first, last)
    if text == _UNLABELLED:
        return _Term(_UNLABELLED)
    counted = _COUNTED.fullmatch(text)
    if counted is None or counted[1] not in (*_ORDERS, *_PLACES):
        what = f"the term {shortened(text)}, which selects nothing known" if text else "an empty term"
        message = f"only has {what}: {_HOW}."
        raise ConfigError(message)
    kind, number = counted[1], int(counted[2])
    if kind in _ORDERS and number == 0:
        message = f"only has the term {text}, which asks for no features: ask for one or more, such as {kind}:50."
        raise ConfigError(message)
    return _Term(kind, number)


def _select(
    term: _Term, found: "FeatureSet", scores: "Artifact | None", explanations: "Artifact | None"
) -> Features | slice:
    if term.kind == _NUMBERS:
        return _numbers(term, found.num_features)
    if term.kind in _PLACES:
        return _on_the_map(term, found)
    if term.kind == _UNLABELLED:
        return _unlabelled(found, explanations)
    value_F = _best(found, scores) if term.kind == _BEST and scores is not None else _ordered(term.kind, found)
    order_F = np.argsort(-value_F, kind="stable")[: term.first]
    return order_F[~np.isnan(value_F[order_F])]


def _numbers(term: _Term, num_features: int) -> slice:
    if term.last >= num_features:
        message = f"only has the term {term}, but there are features 0 to {num_features - 1}: ask for these."
        raise InputError(message)
    return slice(term.first, term.last + 1)


def _on_the_map(term: _Term, found: "FeatureSet") -> Features:
    place_F = _column(found, term.kind)
    selected = np.flatnonzero(place_F == term.first)
    if not len(selected):
        there = np.unique(place_F[~np.isnan(place_F)]).astype(int).tolist()
        known = f"there are {', '.join(map(str, there[:10]))}{', …' if len(there) > 10 else ''}" if there else "none"
        what = "group of near-duplicates" if term.kind == "group" else "cluster on the map"
        message = f"only has the term {term}, but {found.artifact.uri} has no such {what}: {known}."
        raise InputError(message)
    return selected


def _ordered(kind: str, found: "FeatureSet") -> NDArray[np.float64]:
    """What the features are ordered by, the largest first; NaN for those that do not count."""
    if kind == "coherent":
        return _column(found, "coherence")
    density_F = np.where(_column(found, "count") > 0, _column(found, "density"), np.nan)
    return density_F if kind == "densest" else -density_F


def _best(found: "FeatureSet", scores: "Artifact") -> NDArray[np.float64]:
    """The main figure of the explanation that each feature's label comes from; NaN where it has none."""
    from mistudio.artifacts import open_input
    from mistudio.features.feature_set import FeatureSet

    explanations = open_input(scores.store, scores.manifest.inputs["explanations"], "explanations")
    check_same(scores.uri, explanations, found.artifact)
    return _main_values(FeatureSet(found.artifact, explanations, scores))


def _main_values(scored: "FeatureSet") -> NDArray[np.float64]:
    """Of each feature the main figure of its label's explanation; where nobody scored that, of any."""
    explainer_F = np.array(scored.column("explainer").to_pylist(), dtype=object)
    figures = scored.figures
    general = main_figure(figures.values())
    value_F = np.full(scored.num_features, np.nan) if general is None else _column(scored, "/".join(general))
    for explainer in {figure[0] for figure in figures.values()}:
        own = main_figure(figure for figure in figures.values() if figure[0] == explainer)
        if own is not None:
            value_F = np.where(explainer_F == explainer, _column(scored, "/".join(own)), value_F)
    return value_F


def _unlabelled(found: "FeatureSet", explanations: "Artifact | None") -> Features:
    from mistudio.features.feature_set import FeatureSet

    if explanations is None:
        message = (
            f"only has the term {_UNLABELLED}, which needs explanations to know the labels: give explanations of these "
            "features, or leave the term out."
        )
        raise InputError(message)
    check_same(explanations.uri, explanations, found.artifact)
    labels = FeatureSet(found.artifact, explanations).column("label")
    return np.flatnonzero(labels.is_null().to_numpy(zero_copy_only=False))


def check_same(uri: str, explanations: "Artifact", features: "Artifact") -> None:
    """Refuse what was made of other features than these.

    Args:
        uri: what is refused: the explanations, or scores of them.
        explanations: artifact of kind ``explanations``.
        features: artifact of kind ``features``.

    Raises:
        InputError: the explanations are of other features.
    """
    of = explanations.manifest.inputs["features"]
    if of.digest != features.digest:
        message = f"{uri} is of {of.uri}, not of {features.uri}: give what was made of these features."
        raise InputError(message)


def _column(found: "FeatureSet", name: str) -> NDArray[np.float64]:
    """A column of numbers [F], with NaN where there is none."""
    return np.asarray(found.column(name).to_numpy(zero_copy_only=False), dtype=np.float64)
