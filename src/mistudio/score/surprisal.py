"""Surprisal: does the explanation make texts that activate the feature likelier to the judge, and no others?

The judge's loss on a text is taken twice: after the explanation, and after a sentence that says nothing. What the
explanation gains, in nats a token, should be larger on the texts that the feature fires on. It needs a judge that
gives the log-probabilities of a prompt: an endpoint with completions and ``echo`` (vLLM has it), or a local model.

Shape legend: N examples.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from mistudio.explain.judge import Likelihood, Reply, Request
from mistudio.explain.prompts import plain_text
from mistudio.explain.records import Example
from mistudio.score.bootstrap import auroc
from mistudio.score.judging import ExampleScorer, Figure, documents_of, pick_both
from mistudio.score.records import Case

_TOLD = "The following text holds at least one of these: {}\n\n"
_UNTOLD = "The following text is one of many.\n\n"


class SurprisalScorer(ExampleScorer[list[Example]]):
    """Area under the curve of the gain in loss, activating texts against others; 0.5 by chance."""

    name = "surprisal"
    metrics = ("auroc",)

    def prepare(self, case: Case, draw: np.random.Generator) -> tuple[Sequence[Request], list[Example]]:
        """Two losses a text."""
        active, inactive = pick_both(case, self.config, draw)
        chosen = active + inactive if active and inactive else []
        told = _TOLD.format(case.explanation.text)
        return [Likelihood(before, plain_text(example)) for example in chosen for before in (told, _UNTOLD)], chosen

    def mark(self, case: Case, content: list[Example], replies: Sequence[Reply]) -> Iterator[Figure]:
        """The area; a text without both losses ranks as wrong as it can."""
        gains = [_gain(*replies[2 * place : 2 * place + 2]) for place in range(len(content))]
        yield area_of(gains, content, self.resamples, self.seed)


def area_of(values: Sequence[float | None], examples: Sequence[Example], resamples: int, seed: int) -> Figure:
    """How well a value tells the examples that are active; one that is missing ranks as wrong as it can."""
    active_N = np.array([example.is_active for example in examples])
    worst_N = np.where(active_N, -np.inf, np.inf)
    value_N = np.array([bad if value is None else value for value, bad in zip(values, worst_N, strict=True)])
    area = auroc(value_N, active_N, documents_of(examples), resamples, seed)
    return Figure("auroc", area, len(examples), sum(value is None for value in values))


def _gain(told: Reply, untold: Reply) -> float | None:
    return None if told.loss is None or untold.loss is None else untold.loss - told.loss
