"""Explaining and scoring some features: which are worked on now, and what an earlier artifact holds of the others.

What was made for a selection is kept and added to: the *base* is an artifact of the same features and settings, whose
rows go over into the new one as they are. Only what it lacks is made, and paid for.

Shape legend: F features, S features worked on.
"""

from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.artifacts import Artifact, Catalog, Recipe, Store, canonical_json, open_artifact
from mistudio.artifacts.index import Entry
from mistudio.artifacts.manifest import InputRef, Manifest
from mistudio.errors import DamagedArtifact, InputError, NotFound
from mistudio.explain.config import PERSON
from mistudio.explain.judge import UNUSABLE, Judge
from mistudio.features import EXPLANATIONS, FeatureSet
from mistudio.features.selection import parse_selection
from mistudio.features.tables import TableReader
from mistudio.plain_text import shortened

ONLY = "only"  # the setting
BASE, BEST_BY = "base", "best_by"  # roles of inputs in recipes: what is added to, and the scores that choose


class Kept(NamedTuple):
    """How many features an artifact has rows of that can be kept, and how many it has rows of."""

    num_kept: int
    num_held: int


class Base(NamedTuple):
    """An artifact that is added to, and of how many of its features the rows go over."""

    artifact: Artifact
    num_kept: int
    num_held: int

    def __str__(self) -> str:
        """In words."""
        return f"Kept {self.num_kept:,} of {self.num_held:,} from {self.artifact.uri}"


class Share(NamedTuple):
    """How the features are shared out."""

    new_S: NDArray[np.int64]  # worked on now, ascending
    kept_F: NDArray[np.bool_]  # whose rows the base holds and go over
    num_selected: int  # asked for, whether they are new or in the base
    num_held: int = 0  # that the base has rows of

    @property
    def kept(self) -> Kept:
        """What goes over."""
        return Kept(int(self.kept_F.sum()), self.num_held)

    @property
    def is_partial(self) -> bool:
        """Whether features are left that nothing is said of."""
        return len(self.new_S) + int(self.kept_F.sum()) < len(self.kept_F)


def select(
    only: str | None,
    found: FeatureSet,
    scores: Artifact | None = None,
    explanations: Artifact | None = None,
    scores_role: str = "scores",
) -> NDArray[np.int64]:
    """The features that the setting ``only`` asks for, ascending; None: all.

    Args:
        only: the setting.
        found: all features.
        scores: that choose the best.
        explanations: that tell the unlabelled.
        scores_role: what the step calls its input of the scores.

    Raises:
        InputError: see :meth:`mistudio.features.selection.Selection.features`.
    """
    if only is None:
        return np.arange(found.num_features)
    return parse_selection(only).features(found, scores, explanations, scores_role)


def choosing_inputs(only: str | None, scores: Artifact | None, base: Artifact | None) -> dict[str, InputRef]:
    """What stands in a recipe of the artifacts that features are chosen by, and that is added to.

    Raises:
        InputError: scores are given, and nothing is chosen by them.
    """
    needs = only is not None and parse_selection(only).needs_scores
    if scores is not None and not needs:
        message = f"{scores.uri} is there to choose the best features: ask for them (only best:50), or leave it out."
        raise InputError(message)
    given = {BEST_BY: scores, BASE: base}
    return {role: artifact.ref for role, artifact in given.items() if artifact is not None}


def add_spending(before: Mapping[str, float] | None, judge: Judge | None) -> dict[str, float] | None:
    """What the answers in use take: those behind what is kept, and those of this run; None where none is."""
    now = judge.spending.totals() if judge is not None else {}
    names = dict.fromkeys((*(before or {}), *now))
    return {name: (before or {}).get(name, 0) + now.get(name, 0) for name in names} or None


def share(selected_S: NDArray[np.int64], base: Artifact | None, num_features: int) -> Share:
    """Which of the selected features are to be explained, and whose explanations are kept.

    A feature that a language model never answered for was not paid for, and is asked for again where it is selected.
    """
    there_F, open_F = np.zeros(num_features, dtype=bool), np.zeros(num_features, dtype=bool)
    if base is not None:
        columns = ("feature", "explainer", "status", "prompt", "text")
        for batch in TableReader(base, EXPLANATIONS).batches(columns):
            for feature, explainer, status, prompt, text in zip(*map(_listed, batch.columns), strict=True):
                there_F[feature] |= explainer != PERSON
                open_F[feature] |= status == "failed" and prompt is not None and text != UNUSABLE
    new_S = selected_S[~there_F[selected_S] | open_F[selected_S]]
    num_held = int(there_F.sum())
    there_F[new_S] = False
    return Share(new_S, there_F, len(selected_S), num_held)


def best_base(
    store: Store,
    recipe: Recipe,
    free: Set[str],
    keeps: Callable[[Artifact], Kept],
    is_preferred: Callable[[Entry], bool] = lambda _entry: False,
) -> Base | None:
    """Of the artifacts that differ from a recipe in which features they are of alone, the one that keeps most.

    Among those that keep as much the preferred ones come first, then the newest. None where nothing is kept.

    Args:
        store: holds the artifacts.
        recipe: of what is to be made.
        free: inputs that may differ.
        keeps: what of an artifact goes over.
        is_preferred: whether it comes first among those that keep as much.
    """

    def rank(entry: Entry, num_kept: int) -> tuple[int, bool, str]:
        return num_kept, is_preferred(entry), str(entry.created_at)

    with Catalog(store) as catalog:
        fitting = catalog.newest(recipe.kind, where=lambda entry: not difference(entry, recipe, free))
    best, best_rank = None, (0, True, "~")  # nothing that keeps none
    # None keeps more than it holds: those that hold most are looked at first, and few of the others are read.
    for entry in sorted(fitting, key=lambda entry: (is_preferred(entry), _num_held(entry)), reverse=True):
        if rank(entry, _num_held(entry)) <= best_rank:
            continue
        with suppress(NotFound, DamagedArtifact):  # what it was made from is gone, so that nobody can tell
            base = open_artifact(store, entry.uri, recipe.kind)
            kept = keeps(base)
            if rank(entry, kept.num_kept) > best_rank:
                best, best_rank = Base(base, *kept), rank(entry, kept.num_kept)
    return best


def _num_held(entry: Entry) -> int:
    """How many features an artifact says something of."""
    summary = entry.summary
    num_explained = int(summary["features"] or 0) - int(summary.get("not_explained") or 0)
    return int(summary.get("scored", num_explained) or 0)


def check_base(base: Artifact, recipe: Recipe, free: Set[str]) -> None:
    """Refuse a base that was made otherwise than what is to be added to it.

    Raises:
        InputError: it was; the message names the first thing in which they differ.
    """
    if problem := difference(base.manifest, recipe, free):
        message = f"base {base.uri} cannot be added to: {problem}. Give one that was made alike, or none to start anew."
        raise InputError(message)


def difference(made: Manifest | Entry, recipe: Recipe, free: Set[str]) -> str:
    """In what an artifact differs from a recipe, besides which features it is of; empty where in nothing."""
    for name, (has, wanted) in _pairs(made.config, recipe.config, {ONLY}).items():
        if canonical_json(has) != canonical_json(wanted):
            return f"its {name} is {shortened(has)}, not {shortened(wanted)}"
    for role, (ref, other) in _pairs(made.inputs, recipe.inputs, free).items():
        if _digest(ref) != _digest(other):
            return f"its {role} is {_name(ref)}, not {_name(other)}"
    return "" if made.seed == recipe.seed else f"its seed is {made.seed}, not {recipe.seed}"


def _pairs(one: Mapping[str, Any], other: Mapping[str, Any], free: Set[str]) -> dict[str, tuple[Any, Any]]:
    names = dict.fromkeys((*one, *other))
    return {name: (one.get(name), other.get(name)) for name in names if name not in free}


def _digest(ref: InputRef | None) -> str | None:
    return ref.digest if ref is not None else None


def _name(ref: InputRef | None) -> str:
    return "none" if ref is None else f"{ref.uri} ({ref.digest[:12]})"


def _listed(column: Any) -> list[Any]:
    listed: list[Any] = column.to_pylist()
    return listed
