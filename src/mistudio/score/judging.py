"""What the scorers that ask a language model share.

A scorer turns each case into requests, and the replies into figures. Cases stream: those whose replies are awaited
are as many as the judge draws ahead. An answer that cannot be read counts as wrong for every example that it was to
judge, and each of them as a failure.

Shape legend: N examples.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mistudio.explain.judge import BUDGET_REACHED, Judge, Reply, Request
from mistudio.explain.llm_answers import Tally, expected_numbers, find_numbers
from mistudio.explain.prompts import pick_inactive
from mistudio.explain.records import Example
from mistudio.score.bootstrap import UNDEFINED, Estimate, auroc, balanced_accuracy
from mistudio.score.config import JudgeConfig
from mistudio.score.records import Case, Score

Content = TypeVar("Content")
_Waiting = tuple[Case, Sequence[Request], Content | None]  # a case, what was asked about it, and what marking needs


class Question(NamedTuple):
    """An example as it is shown to the judge, and the right answer."""

    example: Example
    text: str
    truth: int


class Figure(NamedTuple):
    """One figure of one explanation."""

    metric: str
    estimate: Estimate
    num_examples: int
    num_failures: int


class JudgeScorer(ABC, Generic[Content]):
    """Asks a judge about each case; subclasses say what, and what the answers come to."""

    name: str
    metrics: tuple[str, ...]

    def __init__(self, judge: Judge, resamples: int, seed: int = 0) -> None:
        self.judge, self.resamples, self.seed = judge, resamples, seed

    @abstractmethod
    def prepare(self, case: Case, draw: np.random.Generator) -> tuple[Sequence[Request], Content]:
        """What to ask about one case, and what marking needs; no request where the examples allow no figure."""

    @abstractmethod
    def mark(self, case: Case, content: Content, replies: Sequence[Reply]) -> Iterator[Figure]:
        """All figures of one case, from one reply a request."""

    def score(self, cases: Iterable[Case]) -> Iterator[Score]:
        """All figures of every explanation; what was not explained, or has too few examples, gets NaN.

        Raises:
            InputError: the judge cannot be used, or none of its answers can.
        """
        waiting: deque[_Waiting[Content]] = deque()
        tally, got = Tally(self.judge), list[Reply]()
        for reply in self.judge.ask(self._requests(cases, waiting)):
            yield from self._unasked(waiting)
            got.append(reply)
            case, requests, content = waiting[0]
            if len(got) == len(requests) and content is not None:
                figures = [_unless_spent(figure, got) for figure in self.mark(case, content, got)]
                tally.count(requests, got[-1], _trouble(figures, got))
                yield from (self._row(case, figure) for figure in figures)
                waiting.popleft()
                got = []
        yield from self._unasked(waiting)
        tally.refuse_if_useless()

    def _requests(self, cases: Iterable[Case], waiting: "deque[_Waiting[Content]]") -> Iterator[Request]:
        for case in cases:
            requests: Sequence[Request] = ()
            content = None
            if case.explanation.status == "explained":
                requests, content = self.prepare(case, np.random.default_rng([self.seed, case.explanation.feature]))
            waiting.append((case, requests, content))
            yield from requests

    def _unasked(self, waiting: "deque[_Waiting[Content]]") -> Iterator[Score]:
        """Rows of the cases in front about which there was nothing to ask."""
        while waiting and not waiting[0][1]:
            case, *_ = waiting.popleft()
            yield from (self._row(case, Figure(metric, UNDEFINED, 0, 0)) for metric in self.metrics)

    def _row(self, case: Case, figure: Figure) -> Score:
        explanation, (metric, estimate, num_examples, num_failures) = case.explanation, figure
        who = (explanation.feature, explanation.explainer, self.name, metric)
        return Score(*who, *estimate, num_examples, num_failures)


class ExampleScorer(JudgeScorer[Content]):
    """Asks a judge about the examples of each case."""

    def __init__(self, judge: Judge, judged: JudgeConfig, resamples: int, seed: int = 0) -> None:
        super().__init__(judge, resamples, seed)
        self.config = judged


def shuffled_examples(case: Case, draw: np.random.Generator) -> list[Example]:
    """The examples of a case in random order: the first of them are as strong as all, not the strongest."""
    return [case.examples[place] for place in draw.permutation(len(case.examples))]


def pick_both(case: Case, config: JudgeConfig, draw: np.random.Generator) -> tuple[list[Example], list[Example]]:
    """Examples that the feature fires on, drawn at random, and others, half of them hard negatives."""
    examples = shuffled_examples(case, draw)
    active = [example for example in examples if example.is_active]
    return active[: config.num_active], pick_inactive(examples, config.num_inactive)


def in_groups(questions: Sequence[Question], size: int, draw: np.random.Generator) -> list[list[Question]]:
    """The questions in random order, ``size`` to a prompt; the last has what is left."""
    shuffled = [questions[place] for place in draw.permutation(len(questions))]
    return [shuffled[start : start + size] for start in range(0, len(shuffled), size)]


def mark_two_way(
    groups: Sequence[Sequence[Question]], replies: Sequence[Reply], resamples: int, seed: int
) -> Iterator[Figure]:
    """Balanced accuracy, and the area under the curve where log-probabilities exist, of answers that are 1 or 0."""
    questions = [question for group in groups for question in group]
    both = [_answers(reply, len(group)) for group, reply in zip(groups, replies, strict=True)]
    answers = [answer for answers, _ in both for answer in answers]
    chances = [chance for _, chances in both for chance in chances]
    truth_N = np.array([question.truth for question in questions], dtype=bool)
    document_N = documents_of([question.example for question in questions])
    right_N = np.array([answer == question.truth for answer, question in zip(answers, questions, strict=True)])
    failures = sum(answer is None for answer in answers)
    accuracy = balanced_accuracy(right_N, truth_N, document_N, resamples, seed)
    yield Figure("balanced_accuracy", accuracy, len(questions), failures)
    area = UNDEFINED
    if any(chance is not None for chance in chances):
        area = auroc(_or_worst(chances, answers, truth_N), truth_N, document_N, resamples, seed)
    yield Figure("auroc", area, len(questions), failures)


def documents_of(examples: Sequence[Example]) -> NDArray[np.int64]:
    """The document of each example [N]."""
    return np.array([example.document for example in examples], dtype=np.int64)


def _answers(reply: Reply, count: int) -> tuple[list[float | None], list[float | None]]:
    """What a reply says to each of ``count`` questions, 1 or 0, and how likely it finds 1."""
    nothing: list[float | None] = [None] * count
    found = None if reply.failure else find_numbers(reply, count)
    if found is None:
        return nothing, nothing
    answers: list[float | None] = [value if value in (0, 1) else None for value in found]
    return answers, [*(expected_numbers(reply, count, 0, 1) or nothing)]


def _or_worst(
    chances: Sequence[float | None], answers: Sequence[float | None], truth_N: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The chance of 1; without one the answer, and without that as wrong as can be."""
    worst = (~truth_N).astype(float)
    return np.array(
        [
            bad if answer is None else answer if chance is None else chance
            for chance, answer, bad in zip(chances, answers, worst, strict=True)
        ]
    )


def _unless_spent(figure: Figure, replies: Sequence[Reply]) -> Figure:
    """The figure, but none at all where the budget did not last for every answer: that says nothing of the judge."""
    spent = any(reply.failure and reply.failure.startswith(BUDGET_REACHED) for reply in replies)
    return figure._replace(estimate=UNDEFINED) if spent else figure


def _trouble(figures: Sequence[Figure], replies: Sequence[Reply]) -> str | None:
    """Why a case came to nothing, or None."""
    if any(figure.num_failures < figure.num_examples for figure in figures):
        return None
    return next((reply.failure for reply in reversed(replies) if reply.failure), "the answers cannot be read")
