"""Samples held-out examples of a feature, for those who judge whether a description fits them.

Examples that it fires on are drawn evenly over the quantiles of its activation. Examples that it does not fire on
anywhere are of two kinds: drawn at random, and hard negatives, in which features with a similar direction fire.

Shape legend: N tokens, F features, A tokens that a feature fires on, n neighbours.
"""

import numpy as np
from numpy.typing import NDArray

from mistudio.explain.firings import Firings
from mistudio.explain.records import Example, ExampleKind, Explanation
from mistudio.explain.tokens import Tokens
from mistudio.score.config import ExamplesConfig
from mistudio.score.records import Case

_TRIES = 20  # candidates drawn for each example that is wanted


class ExampleSampler:
    """Samples the examples of features from held-out tokens.

    Args:
        tokens: the tokens.
        firings: the features' activations over them.
        neighbours_Fn: the features of the most similar directions, nearest first; -1 where there are no more.
        config: how many examples, and how long.
        seed: of the draws; the examples depend on it and the feature alone.
    """

    def __init__(
        self,
        tokens: Tokens,
        firings: Firings,
        neighbours_Fn: NDArray[np.int32],
        config: ExamplesConfig,
        seed: int = 0,
    ) -> None:
        self.tokens, self.firings, self.config, self.seed = tokens, firings, config, seed
        self._neighbours_Fn = neighbours_Fn[:, : config.neighbours]
        starts = tokens.sequence_starts
        lengths = np.diff(starts, append=len(tokens))
        self._first_N = np.repeat(starts, lengths)
        self._stop_N = np.repeat(starts + lengths, lengths)

    def case(self, explanation: Explanation) -> Case:
        """An explanation with examples of its feature; without any that it fires on, if it never does."""
        draw = np.random.default_rng([self.seed, explanation.feature])
        token_A, value_A = self.firings.of(explanation.feature)
        active = self._stratified(token_A, value_A, draw)
        hard_negatives = self._inactive(self._near(explanation.feature), token_A, self.config.num_hard_negatives, draw)
        anywhere = draw.choice(len(self.tokens), size=min(_TRIES * self.config.num_random, len(self.tokens)))
        random = self._inactive(anywhere, token_A, self.config.num_random, draw)
        kinds: dict[ExampleKind, NDArray[np.int64]] = {
            "sampled": active,
            "random": random,
            "hard_negative": hard_negatives,
        }
        examples = [
            self._example(kind, int(token), token_A, value_A) for kind, chosen in kinds.items() for token in chosen
        ]
        return Case(explanation, tuple(examples))

    def _stratified(
        self, token_A: NDArray[np.int32], value_A: NDArray[np.float32], draw: np.random.Generator
    ) -> NDArray[np.int64]:
        """Tokens drawn evenly over the quantiles of the activation, of different documents as far as they go."""
        if not len(token_A):
            return np.empty(0, dtype=np.int64)
        by_value = np.argsort(value_A, kind="stable")
        strata = [part for part in np.array_split(by_value, self.config.strata) if len(part)]
        each = -(-self.config.num_active // len(strata))
        chosen = [self._from_many_documents(token_A[part], each, draw) for part in strata]
        return np.concatenate(chosen)[: self.config.num_active].astype(np.int64)

    def _from_many_documents(
        self, tokens: NDArray[np.integer], most: int, draw: np.random.Generator
    ) -> NDArray[np.integer]:
        """Some of the tokens: first one of each document, then others, if need be."""
        order = draw.permutation(tokens)
        first = np.unique(self.tokens.document_N[order], return_index=True)[1]
        is_first = np.zeros(len(order), dtype=bool)
        is_first[first] = True
        chosen: NDArray[np.integer] = np.concatenate([order[is_first], order[~is_first]])[:most]
        return chosen

    def _near(self, feature: int) -> NDArray[np.int64]:
        """Tokens that the features of the most similar directions fire on."""
        nearest = [each for each in self._neighbours_Fn[feature].tolist() if each >= 0]
        fired = [self.firings.of(neighbour)[0] for neighbour in nearest]
        return np.concatenate([np.empty(0, dtype=np.int64), *fired]).astype(np.int64)

    def _inactive(
        self, candidates: NDArray[np.int64], token_A: NDArray[np.int32], most: int, draw: np.random.Generator
    ) -> NDArray[np.int64]:
        """Some candidates around which the feature is nowhere active."""
        if not len(candidates) or not most:
            return np.empty(0, dtype=np.int64)
        tried = np.unique(draw.choice(candidates, size=min(_TRIES * most, len(candidates)), replace=False))
        starts, stops = self._window(tried)
        quiet = np.searchsorted(token_A, starts) == np.searchsorted(token_A, stops)
        chosen: NDArray[np.int64] = self._from_many_documents(tried[quiet], most, draw).astype(np.int64)
        return chosen

    def _window(self, tokens: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the example around each token starts and ends, within its sequence."""
        return (
            np.maximum(tokens - self.config.before, self._first_N[tokens]),
            np.minimum(tokens + self.config.after + 1, self._stop_N[tokens]),
        )

    def _example(
        self, kind: ExampleKind, token: int, token_A: NDArray[np.int32], value_A: NDArray[np.float32]
    ) -> Example:
        start, stop = (int(edge[0]) for edge in self._window(np.array([token])))
        first, last = np.searchsorted(token_A, [start, stop])
        value_R = np.zeros(stop - start)
        value_R[token_A[first:last] - start] = value_A[first:last]
        tokens = self.tokens
        return Example(
            kind=kind,
            tokens=tuple(tokens.strings[each] for each in tokens.id_N[start:stop].tolist()),
            values=tuple(value_R.tolist()),
            peak=token - start,
            document=int(tokens.document_N[token]),
            sequence=int(tokens.sequence_N[token]),
            position=int(tokens.position_N[token]),
            task=tokens.tasks[int(tokens.task_N[token])],
        )
