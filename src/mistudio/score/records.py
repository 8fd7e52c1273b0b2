"""What scorers read, and the scores they give."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from mistudio.explain.records import Example, Explanation


class Case(NamedTuple):
    """One explanation, and examples of its feature from documents that no explainer saw."""

    explanation: Explanation
    examples: tuple[Example, ...]


class Score(NamedTuple):
    """One figure of how well an explanation predicts its feature."""

    feature: int
    explainer: str
    scorer: str  # program, detection, fuzzing, simulation, surprisal, embedding, intruder, intervention
    metric: str  # f1, balanced_accuracy, auroc, correlation, ...
    value: float  # NaN where it is not defined, as of a feature that the examples never show
    low: float  # 95% interval, by bootstrap over documents; NaN where there is none
    high: float
    num_examples: int  # tokens or examples that were judged
    num_failures: int = 0  # of them, how many the judge gave no usable answer to; they count as wrong


class Scorer(Protocol):
    """Scores explanations; other packages register theirs under the entry point ``mistudio.scorers``."""

    name: str

    def score(self, cases: Iterable[Case]) -> Iterator[Score]:
        """All figures of every explanation, in any order; none is left out."""
