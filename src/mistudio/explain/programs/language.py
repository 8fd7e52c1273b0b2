"""The language of programs: alternatives of a few branches, each a conjunction of a few conditions.

A program is data: it is written as JSON, and run by looking things up in a :class:`Context`. There is nothing in
it to be evaluated.

Shape legend: N tokens.
"""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from mistudio.explain.programs.columns import CURRENT, Context
from mistudio.explain.tokens import NO_TOKEN

Column = Literal["current", "previous", "second to last", "next", "induced", "line"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Member(_Part):
    """The token of a column is one of a set."""

    kind: Literal["member"] = "member"
    column: Column = Field(
        description="of which token: current, previous, second to last, next, induced (what followed the current token "
        "when it last occurred), or line (the first word of its line)"
    )
    tokens: tuple[int, ...] = Field(description="token ids, those that matter most first; -1 for no token")
    negated: bool = Field(default=False, description="the token is none of them")

    def holds(self, context: Context) -> NDArray[np.bool_]:
        """Of which tokens it holds [N]."""
        table = np.full(context.vocabulary_size + 1, self.negated)  # the last place is found by -1
        ids = np.array(self.tokens, dtype=np.int64)
        table[ids[(ids >= NO_TOKEN) & (ids < context.vocabulary_size)]] = not self.negated
        holds: NDArray[np.bool_] = table.take(context.column(self.column), mode="wrap")
        return holds


class Pair(_Part):
    """The previous and the current token together are one of a set of pairs."""

    kind: Literal["pair"] = "pair"
    pairs: tuple[tuple[int, int], ...] = Field(description="token ids, pairs that matter most first")
    negated: bool = False

    def holds(self, context: Context) -> NDArray[np.bool_]:
        """Of which tokens it holds [N]."""
        size = context.vocabulary_size
        codes = np.sort(np.array([first * size + second for first, second in self.pairs], dtype=np.int64))
        if not len(codes):
            return np.full(len(context), self.negated)
        place_N = np.minimum(np.searchsorted(codes, context.pair_N), len(codes) - 1)
        holds: NDArray[np.bool_] = (codes[place_N] == context.pair_N) ^ self.negated
        return holds


class Flag(_Part):
    """Something holds of the token, or does not."""

    kind: Literal["flag"] = "flag"
    name: str
    negated: bool = False

    def holds(self, context: Context) -> NDArray[np.bool_]:
        """Of which tokens it holds [N]."""
        return context.flag(self.name) ^ self.negated


Condition = Annotated[Member | Pair | Flag, Field(discriminator="kind")]


class Branch(_Part):
    """Conditions that hold together, and how strong the feature then is."""

    conditions: tuple[Condition, ...] = Field(min_length=1)
    value: float = Field(description="mean activation where the branch holds, in the feature's units")
    values: dict[int, float] = Field(
        default_factory=dict, description="the same for some current tokens alone, by token id"
    )

    def holds(self, context: Context) -> NDArray[np.bool_]:
        """Of which tokens all conditions hold [N]."""
        holds_N = self.conditions[0].holds(context)
        for condition in self.conditions[1:]:
            holds_N &= condition.holds(context)
        return holds_N

    def predict(self, id_R: NDArray[np.int32]) -> NDArray[np.float32]:
        """The activation on tokens of which it holds, by their ids [R]."""
        if not self.values:
            return np.full(len(id_R), self.value, dtype=np.float32)
        ids = np.array(sorted(self.values), dtype=np.int64)
        values = np.array([self.values[token] for token in ids.tolist()], dtype=np.float32)
        place_R = np.minimum(np.searchsorted(ids, id_R), len(ids) - 1)
        return np.where(ids[place_R] == id_R, values[place_R], np.float32(self.value))


class Program(_Part):
    """Alternatives: a token's prediction is that of the first branch that holds of it, and 0 where none does."""

    version: Literal[1] = 1
    branches: tuple[Branch, ...] = ()

    def predict(self, context: Context) -> NDArray[np.float32]:
        """The activation of every token [N], in the feature's units; above 0 where the feature is said to fire."""
        value_N = np.zeros(len(context), dtype=np.float32)
        open_N = np.ones(len(context), dtype=bool)
        id_N = context.column(CURRENT)
        for branch in self.branches:
            row_R = np.flatnonzero(branch.holds(context) & open_N)
            value_N[row_R] = branch.predict(id_N[row_R])
            open_N[row_R] = False
        return value_N

    def to_json(self) -> str:
        """The program as JSON on one line; the same program gives the same bytes."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> "Program":
        """Read what :meth:`to_json` wrote."""
        return cls.model_validate_json(text)
