"""With the true explanation every scorer is all but perfect; with another's, or shuffled activations, it is at chance.

The judge is an oracle that applies the explanation in the prompt to the texts in the prompt, so what is tested is
everything else: what is shown, what is hidden, how answers are read and what is made of them.
"""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from mistudio.score.config import SCORERS as TABLE
from mistudio.score.config import JudgeConfig, ScoreConfig, SimulationConfig
from mistudio.score.detection import DetectionScorer
from mistudio.score.embedding import EmbeddingScorer
from mistudio.score.fuzzing import FuzzingScorer
from mistudio.score.intruder import IntruderScorer
from mistudio.score.judging import JudgeScorer
from mistudio.score.records import Case, Score
from mistudio.score.simulation import SimulationScorer
from mistudio.score.surprisal import SurprisalScorer
from tests.support.oracle import Direct, explained_by_another, planted_cases, shuffled

NUM_FEATURES = 12
NUM_EXAMPLES = 150  # of each kind
CONFIG = ScoreConfig(
    judged=JudgeConfig(num_active=NUM_EXAMPLES, num_inactive=NUM_EXAMPLES),
    simulation=SimulationConfig(num_examples=40),
    resamples=20,
)
SCORERS: list[tuple[type[JudgeScorer], float]] = [
    (DetectionScorer, 0.5),
    (FuzzingScorer, 0.5),
    (SimulationScorer, 0.0),
    (SurprisalScorer, 0.5),
    (EmbeddingScorer, 0.5),
    (IntruderScorer, 0.2),
]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return planted_cases(NUM_FEATURES, NUM_EXAMPLES)


def scores_of(scorer_type: type[JudgeScorer], cases: Sequence[Case]) -> list[Score]:
    return list(TABLE.new(scorer_type.name, CONFIG, Direct(), 0).score(cases))


@pytest.mark.parametrize(("scorer_type", "chance"), SCORERS, ids=lambda value: getattr(value, "name", None))
def test_the_true_explanation_scores_high_and_the_controls_are_at_chance(
    scorer_type: type[JudgeScorer], chance: float, cases: list[Case]
) -> None:
    true, other, mixed = (scores_of(scorer_type, of) for of in (cases, explained_by_another(cases), shuffled(cases)))
    assert len(true) == len(other) == len(mixed) == NUM_FEATURES * len(scorer_type.metrics)
    assert all(score.num_failures == 0 for score in true + other + mixed)
    assert min(score.value for score in true) >= 0.95
    for metric in scorer_type.metrics:
        for control in (other, mixed):
            values = [score.value for score in control if score.metric == metric]
            assert not any(math.isnan(value) for value in values)
            assert np.mean(values) == pytest.approx(chance, abs=0.03), (metric, values)
