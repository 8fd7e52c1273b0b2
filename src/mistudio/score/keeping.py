"""Which explanations are scored now, and whose scores are taken over from an earlier artifact.

A score is of one explanation on one sample of held-out documents: it is kept where the explanation has not changed.

Shape legend: F features.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.artifacts import Artifact, canonical_json, open_input
from mistudio.errors import InputError
from mistudio.explain import EXPLANATIONS_NAME, TOKEN_SETS_NAME, read_explanations
from mistudio.explain.config import PROGRAM
from mistudio.explain.keeping import Kept
from mistudio.explain.tables import holds_token_sets
from mistudio.plain_text import shortened
from mistudio.progress import say
from mistudio.score.records import Score
from mistudio.score.tables import read_scores

SHUFFLED = "program-shuffled"


class Share(NamedTuple):
    """How the features are shared out."""

    new_F: NDArray[np.bool_]  # scored now
    kept_F: NDArray[np.bool_]  # whose scores the base holds and go over
    explained_F: NDArray[np.bool_]  # that somebody was asked about
    num_selected: int  # asked for, whether they have an explanation or not
    num_lacking: int  # of them, those without an explanation
    num_held: int  # that the base has scores of

    @property
    def scored_F(self) -> NDArray[np.bool_]:
        """Those that have scores in the end."""
        return self.new_F | self.kept_F

    @property
    def kept(self) -> Kept:
        """What goes over."""
        return Kept(int(self.kept_F.sum()), self.num_held)

    def say_not_explained(self, only: str | None) -> None:
        """Say how many of the features that were selected have nothing to be scored."""
        if only is not None and self.num_lacking:
            have = "has" if self.num_lacking == 1 else "have"
            say(f"{self.num_lacking:,} of {self.num_selected:,} selected features {have} no explanation to be scored.")


def share(
    only: str | None,
    selected_S: NDArray[np.int64],
    explanations: Artifact,
    base: Artifact | None,
    num_features: int,
) -> Share:
    """Which of the selected features are to be scored, and whose scores are kept.

    A feature whose examples a language model never judged was not paid for, and is scored again where it is selected.

    Raises:
        InputError: none of the selected features has an explanation.
    """
    selected_F = np.zeros(num_features, dtype=bool)
    selected_F[selected_S] = True
    explained_F = np.zeros(num_features, dtype=bool)
    for each in read_explanations(explanations):
        explained_F[each.feature] = True
    if only is not None and not (selected_F & explained_F).any():
        message = (
            f"only {shortened(only)} selects {len(selected_S):,} features, and {explanations.uri} explains none of "
            "them: explain them first, or ask for others."
        )
        raise InputError(message)
    same_F, open_F, num_held = _in_base(base, explanations, num_features)
    new_F = selected_F & explained_F & (~same_F | open_F)
    num_lacking = int((selected_F & ~explained_F).sum())
    return Share(new_F, same_F & ~new_F, explained_F, len(selected_S), num_lacking, num_held)


def _in_base(
    base: Artifact | None, explanations: Artifact, num_features: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], int]:
    """Features whose scores in the base still hold [F], those that a judge never answered for [F]; how many it has."""
    there_F, open_F = np.zeros(num_features, dtype=bool), np.zeros(num_features, dtype=bool)
    if base is None:
        return there_F, open_F, 0
    for each in read_scores(base):
        there_F[each.feature] = True
        open_F[each.feature] |= _is_open(each)
    num_held = int(there_F.sum())
    scored = open_input(base.store, base.manifest.inputs["explanations"], "explanations")
    if scored.digest != explanations.digest:
        before, now = _said(scored), _said(explanations)
        there_F &= [before.get(feature) == now.get(feature) for feature in range(num_features)]
    return there_F, open_F, num_held


def _is_open(score: Score) -> bool:
    """Whether a figure is missing because the judge gave no answer: one that was not asked for lacks no answers."""
    return score.scorer not in (PROGRAM, SHUFFLED) and score.num_failures > 0 and math.isnan(score.value)


def _said(explanations: Artifact) -> dict[int, bytes]:
    """All that is said of each feature."""
    rows: dict[int, list[object]] = {}
    for name in (EXPLANATIONS_NAME, *([TOKEN_SETS_NAME] if holds_token_sets(explanations) else [])):
        for each in read_explanations(explanations, name):
            rows.setdefault(each.feature, []).append(each.model_dump(mode="json"))
    return {feature: canonical_json(said) for feature, said in rows.items()}
