"""Answers under way, and what the cache holds of each.

Shape legend: T tokens, J terms of a row's edits.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.instrument.compiled import CompiledEdits, Gate
from mistudio.instrument.sampling import Choosing
from mistudio.instrument.table import Factors, Latent, RowEdits
from mistudio.instrument.where import PromptTokens

Finish = Literal["stop", "length", "feature"]


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
        self.signature: list[int] = []  # what was done to each token that the cache holds

    @property
    def held(self) -> int:
        """Tokens in the cache."""
        return len(self.signature)

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

    def signatures(self, factor_TJ: Factors | None, num_tokens: int) -> list[int]:
        """A number for what is done to each token."""
        if self.edits is None or factor_TJ is None:
            return [0] * num_tokens
        numbers: list[int] = self.edits.signatures(factor_TJ).tolist()
        return numbers

    @property
    def is_steady(self) -> bool:
        """Whether the last token has the factors that all further ones have, until a condition fires."""
        if self.edits is None:
            return True
        is_special = self.generation.tokens[-1] in self._special_ids
        return not is_special and self.edits.is_constant(self.generation.length - 1)

    def follow(self, leader: "Row") -> None:
        """Take over what is known of another row with the same prompt and edits."""
        self.signature = list(leader.signature)
        if self.edits is not None and leader.edits is not None:
            self.edits.fired = dict(leader.edits.fired)

    def _exempt(self, start: int) -> NDArray[np.bool_]:
        """Special tokens, and those of a template, from some place on [T]."""
        prompt = self.generation.prompt
        behind = self.generation.tokens[max(start - prompt.length, 0) :]
        special = np.array([token in self._special_ids for token in behind], dtype=np.bool_)
        return np.concatenate([prompt.exempt_P[start:], special])


def shared_beginning(row: Row, signature: Sequence[int], other: Row) -> int:
    """How many tokens of a row's prompt another one's cache begins with, under the same edits; never all of them."""
    ids = row.generation.prompt.ids
    most = min(other.held, len(ids) - 1)
    theirs = other.ids(0)[:most]
    mine = list(ids[:most])
    if mine == theirs and list(signature[:most]) == other.signature[:most]:
        return most
    return next(
        place
        for place in range(most + 1)
        if place == most or mine[place] != theirs[place] or signature[place] != other.signature[place]
    )
