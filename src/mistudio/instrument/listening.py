"""Whoever follows answers as they are written: what it reads of each token, and how it ends one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # torch comes with it
    from mistudio.instrument.table import Latent


class Listener(Protocol):
    """Told of every token of every answer, on the thread that generates: it has to be quick and must not raise."""

    @property
    def latents(self) -> "Sequence[Latent]":
        """What is read of each token, beside what a request itself watches; asked for when a request comes."""

    def wrote(self, request: str, index: int, text: str, values: Sequence[float]) -> str | None:
        """A token was written.

        Args:
            request: id of its request.
            index: which of the answers.
            text: what the answer goes on with; empty where that is not a whole character yet.
            values: of the latents, after the edits, where the token was predicted.

        Returns:
            Why the answer has to end with it; None where it may go on.
        """

    def ended(self, request: str) -> None:
        """Nothing more of a request will be written; also of one of which nothing was."""


class Relay:
    """A listener in place of one that is made later, if ever.

    Attributes:
        listener: who is told; None: nobody yet.
    """

    def __init__(self) -> None:
        self.listener: Listener | None = None

    @property
    def latents(self) -> "Sequence[Latent]":
        """What the listener reads."""
        return () if self.listener is None else self.listener.latents

    def wrote(self, request: str, index: int, text: str, values: Sequence[float]) -> str | None:
        """Pass a token on."""
        return None if self.listener is None else self.listener.wrote(request, index, text, values)

    def ended(self, request: str) -> None:
        """Pass on that nothing more comes."""
        if self.listener is not None:
            self.listener.ended(request)
