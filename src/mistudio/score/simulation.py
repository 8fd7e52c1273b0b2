"""Simulation: told what a feature fires on, does the judge predict how strongly it fires on each token?

After Bills et al. 2023, "Language models can explain neurons in language models", with all tokens of a text in one
answer. Where log-probabilities exist, a prediction is the mean of the judge's distribution over 0 to 10.

Shape legend: N tokens of all texts.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from mistudio.explain.judge import Chat, Judge, Reply, Request
from mistudio.explain.llm_answers import expected_numbers, find_numbers
from mistudio.explain.prompts import DATA_NOTE, STRONGEST, pick_inactive, quoted
from mistudio.explain.records import Example
from mistudio.score.bootstrap import correlation
from mistudio.score.config import JudgeConfig, SimulationConfig
from mistudio.score.judging import ExampleScorer, Figure, shuffled_examples
from mistudio.score.records import Case

_SYSTEM = f"""A feature of a language model fires on some tokens of a text. You are told what it fires on. For each \
token of a text, predict how strongly it fires there: 0 where it does not, which is the case for most tokens, up to \
10. A feature sees only what stands before a token, and the token itself. {DATA_NOTE}

Answer with nothing but a JSON list of as many whole numbers as there are tokens, in their order."""


class SimulationScorer(ExampleScorer[list[Example]]):
    """Correlation of predicted with true activations over tokens; 0 by chance."""

    name = "simulation"
    metrics = ("correlation",)

    def __init__(
        self, judge: Judge, judged: JudgeConfig, simulation: SimulationConfig, resamples: int, seed: int = 0
    ) -> None:
        super().__init__(judge, judged, resamples, seed)
        self.num_examples = simulation.num_examples

    def prepare(self, case: Case, draw: np.random.Generator) -> tuple[Sequence[Request], list[Example]]:
        """Half texts that activate the feature, half others; one a request."""
        examples = shuffled_examples(case, draw)
        half = self.num_examples // 2
        active = [example for example in examples if example.is_active][:half]
        chosen = active + pick_inactive(examples, self.num_examples - half) if active else []
        return [_request(case, example, self.config.alternatives) for example in chosen], chosen

    def mark(self, case: Case, content: list[Example], replies: Sequence[Reply]) -> Iterator[Figure]:
        """The correlation; the examples that count are texts."""
        predicted = [_predicted(reply, len(example.tokens)) for example, reply in zip(content, replies, strict=True)]
        predicted_N = np.concatenate(
            [values or _wrong(example) for values, example in zip(predicted, content, strict=True)]
        )
        true_N = np.concatenate([example.values for example in content])
        document_N = np.repeat([example.document for example in content], [len(example.tokens) for example in content])
        known = np.isfinite(true_N)
        figures = (predicted_N[known], true_N[known], document_N[known])
        estimate = correlation(*figures, self.resamples, self.seed)
        yield Figure("correlation", estimate, len(content), sum(values is None for values in predicted))


def _request(case: Case, example: Example, alternatives: int) -> Chat:
    lines = [f"{place}: {quoted(token)}" for place, token in enumerate(example.tokens, start=1)]
    head, tail = f"Description: {quoted(case.explanation.text)}", f"{len(example.tokens)} numbers:"
    return Chat(_SYSTEM, "\n".join([head, *lines, tail]), 16 + 4 * len(example.tokens), alternatives)


def _predicted(reply: Reply, count: int) -> list[float] | None:
    if reply.failure:
        return None
    numbers = find_numbers(reply, count)
    if numbers is None or not all(0 <= value <= STRONGEST for value in numbers):
        return None
    return expected_numbers(reply, count, 0, STRONGEST) or numbers


def _wrong(example: Example) -> list[float]:
    """What stands for an answer that cannot be read: silence where the feature fires, and firing where it is silent."""
    return [0.0 if example.is_active else float(STRONGEST)] * len(example.tokens)
