"""Answers under way, and what the cache holds of each.

Shape legend: T tokens, J terms of a row's edits.
"""

import random
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.instrument.compiled import CompiledEdits, Gate
from mistudio.instrument.sampling import Choosing
from mistudio.instrument.table import Factors, Latent, RowEdits
from mistudio.instrument.where import PromptTokens

Finish = Literal["stop", "length", "feature", "broken"]  # broken: the logits are no numbers any more


@dataclass(eq=False)
class Generation:
    """One answer: what it is to go on from, how, and how far it has come.

    Attributes:
        prompt: tokens that are there.
        limit: tokens to generate at most.
        edits: what is changed in the model meanwhile.
        choosing: how tokens are chosen.
        ends: tokens that end it, which belong to it.
        alternatives: likeliest tokens to report with each; None: not even the chosen one's log-probability.
        watched: latents to report with each token, by autoencoder: their activations, after the edits, on the token
            from which it was predicted.
        tokens: generated so far.
    """

    prompt: PromptTokens
    limit: int
    edits: CompiledEdits | None = None
    choosing: Choosing = field(default_factory=Choosing)
    ends: frozenset[int] = frozenset()
    alternatives: int | None = None
    watched: tuple[Latent, ...] = ()
    tokens: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens so far, the prompt's counted."""
        return self.prompt.length + len(self.tokens)


class Written(NamedTuple):
    """A token of an answer, or its end."""

    generation: Generation
    token: int | None  # None: it was ended before this one
    finish: Finish | None = None  # nothing follows
    stopped_by: Gate | None = None  # the feature that ended it
    logprob: float | None = None  # of the chosen token, before temperature and all that narrows the choice
    alternatives: tuple[tuple[int, float], ...] = ()  # likeliest first
    watched: tuple[float, ...] | None = None


class Row:
    """An answer under way, and what the cache holds of it.

    Args:
        generation: the answer.
        special_ids: tokens that edits leave alone unless told otherwise.
    """

    def __init__(self, generation: Generation, special_ids: frozenset[int]) -> None:
        self.generation, self._special_ids = generation, special_ids
        self.draws: random.Random = generation.choosing.draws()
        compiled = generation.edits
        self.edits = RowEdits(compiled, generation.prompt) if compiled is not None else None
        self.held = 0  # tokens in the cache
        self.last_factors: Factors | None = None  # on the token of the last step
        self._done: list[Factors] = []  # what the terms were multiplied by on these, piece by piece

    def ids(self, start: int) -> list[int]:
        """Tokens from some place on."""
        prompt, tokens = self.generation.prompt, self.generation.tokens
        if start >= prompt.length:
            return tokens[start - prompt.length :]
        return [*prompt.ids[start:], *tokens]

    def factors(self, start: int) -> Factors | None:
        """What the terms of the edits are multiplied by on tokens from some place on [T, J]; None without edits."""
        if self.edits is None:
            return None
        return self.edits.factors(np.arange(start, self.generation.length), self._exempt(start))

    def hold(self, num_tokens: int, factor_TJ: Factors | None) -> None:
        """Note that the cache has so many more tokens, and what was done to them."""
        self.held += num_tokens
        if factor_TJ is not None:
            self._done.append(factor_TJ)

    def forget(self, num_tokens: int) -> None:
        """Note that only the first tokens in the cache hold."""
        done = self.done()
        # Without a cache nothing is held, and the next pass is over the whole sequence again.
        self.held = min(num_tokens, self.held)
        self._done = [] if done is None else [done[:num_tokens]]

    def done(self) -> Factors | None:
        """What the terms of the edits were multiplied by on the tokens in the cache; None without edits."""
        if self.edits is None:
            return None
        if len(self._done) != 1:
            terms = len(self.edits.compiled.terms)
            self._done = [np.concatenate([np.zeros((0, terms), dtype=np.float32), *self._done])]
        return self._done[0]

    @property
    def is_steady(self) -> bool:
        """Whether the last token has the factors that all further ones have, until a condition fires."""
        if self.edits is None:
            return True
        is_special = self.generation.tokens[-1] in self._special_ids
        return not is_special and self.edits.is_constant(self.generation.length - 1)

    def follow(self, leader: "Row") -> None:
        """Take over what is known of another row with the same prompt and edits."""
        done = leader.done()
        self.held, self._done = leader.held, [] if done is None else [done]
        if self.edits is not None and leader.edits is not None:
            self.edits.fired = dict(leader.edits.fired)

    def _exempt(self, start: int) -> NDArray[np.bool_]:
        """Special tokens, and those of a template, from some place on [T]."""
        prompt = self.generation.prompt
        behind = self.generation.tokens[max(start - prompt.length, 0) :]
        special = np.array([token in self._special_ids for token in behind], dtype=np.bool_)
        return np.concatenate([prompt.exempt_P[start:], special])


def shared_beginning(row: Row, other: Row) -> int:
    """How many tokens of a row's prompt another one's cache begins with, under the same edits; never all of them."""
    mine, theirs = row.generation.edits, other.generation.edits
    if (mine.digest if mine else None) != (theirs.digest if theirs else None):
        return 0
    ids = np.array(row.generation.prompt.ids[:-1], dtype=np.int64)
    their_ids = np.array(other.ids(0)[: min(other.held, len(ids))], dtype=np.int64)
    same_T = ids[: len(their_ids)] == their_ids
    shared = len(same_T) if same_T.all() else int(same_T.argmin())
    done = other.done()
    if done is None or not shared:
        return shared
    factor_TJ = row.factors(0)
    assert factor_TJ is not None  # noqa: S101 - both have the same edits
    alike_T = (factor_TJ[:shared] == done[:shared]).all(axis=1)
    return shared if alike_T.all() else int(alike_T.argmin())
