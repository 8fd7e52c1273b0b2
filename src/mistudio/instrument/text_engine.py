"""What generates texts with edits, whichever back end does it.

Shape legend: T tokens of an answer, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self

from torch import Tensor

from mistudio.instrument.compiled import CompiledEdits
from mistudio.instrument.rows import Generation, Written
from mistudio.instrument.where import PromptTokens


class Judged(NamedTuple):
    """What a model with or without edits makes of tokens that are there."""

    logits_TV: Tensor  # of each token, float32
    dose: dict[str, float]  # mean norm of what was changed over the activation's, by hook point


class TextEngine(Protocol):
    """What generates texts with edits: :class:`~mistudio.instrument.engine.Engine` or another back end.

    Between calls answers may be started and stopped; what is written comes back from the call that made it. One thread
    uses an engine, inside its ``with`` block.
    """

    num_rows: int
    num_slots: int
    special_ids: frozenset[int]

    def __enter__(self) -> Self:
        """Put hooks into the model."""

    def __exit__(self, *error: object) -> None:
        """Take them out, and let go of all answers."""

    @property
    def has_cache(self) -> bool:
        """Whether keys and values are kept from token to token."""

    @property
    def running(self) -> Sequence[Generation]:
        """Answers under way."""

    @property
    def free_rows(self) -> int:
        """How many more can be started."""

    def check(self, generation: Generation) -> None:
        """Refuse what cannot be started, now or ever."""

    def start(self, generations: Sequence[Generation]) -> list[Written]:
        """Take up answers; the first tokens of those whose prompts were read at once, and maybe tokens of others."""

    def step(self) -> list[Written]:
        """Another pass: the next token of each answer whose prompt has been read."""

    def stop(self, generation: Generation) -> None:
        """End an answer; nothing happens where it is not under way."""

    def judge(self, prompt: PromptTokens, tokens: Sequence[int], edits: CompiledEdits | None = None) -> Judged:
        """What the model with edits makes of tokens behind a prompt."""
