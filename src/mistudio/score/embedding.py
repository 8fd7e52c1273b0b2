"""Embedding: are texts that activate the feature nearer to the explanation than others?

The cheapest judgement there is: one vector for the explanation and one for each text. It asks what a text is about, so
it does not see features of a single token well.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from mistudio.explain.judge import Embedding, Reply, Request
from mistudio.explain.prompts import plain_text
from mistudio.explain.records import Example
from mistudio.score.judging import ExampleScorer, Figure, pick_both
from mistudio.score.records import Case
from mistudio.score.surprisal import area_of


class EmbeddingScorer(ExampleScorer[list[Example]]):
    """Area under the curve of cosine similarity, activating texts against others; 0.5 by chance."""

    name = "embedding"
    metrics = ("auroc",)

    def prepare(self, case: Case, draw: np.random.Generator) -> tuple[Sequence[Request], list[Example]]:
        """All texts in one request, the explanation first."""
        active, inactive = pick_both(case, self.config, draw)
        if not active or not inactive:
            return [], []
        chosen = active + inactive
        return [Embedding((case.explanation.text, *map(plain_text, chosen)))], chosen

    def mark(self, case: Case, content: list[Example], replies: Sequence[Reply]) -> Iterator[Figure]:
        """The area."""
        vectors = replies[0].vectors
        similar: list[float | None] = [None] * len(content)
        if vectors is not None:
            similar = [_cosine(np.array(vectors[0]), np.array(vector)) for vector in vectors[1:]]
        yield area_of(similar, content, self.resamples, self.seed)


def _cosine(left: np.ndarray, right: np.ndarray) -> float | None:
    """The cosine, if both vectors have a direction and as many components."""
    if left.shape != right.shape:
        return None
    lengths = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / lengths if lengths > 0 and np.isfinite(lengths) else None
