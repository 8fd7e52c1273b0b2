"""Whoever follows answers as they are written: what it reads of each token, and how it ends one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # torch comes with it
    from mistudio.instrument.table import Latent


class Followed(Protocol):
    """One who follows the answers to one request, on the thread that generates: it has to be quick, and not raise."""

    @property
    def latents(self) -> "Sequence[Latent]":
        """What is read of each token, beside what the request itself watches; always the same."""

    def wrote(self, index: int, text: str, values: Sequence[float]) -> str | None:
        """A token was written.

        Args:
            index: which of the answers.
            text: what the answer goes on with; empty where that is not a whole character yet.
            values: of the latents, after the edits, where the token was predicted.

        Returns:
            Why the answer has to end with it; None where it may go on.
        """

    def ended(self) -> None:
        """Nothing more will be written; also where nothing was. It may be told twice."""


class Listener(Protocol):
    """One who follows all requests."""

    def follow(self, request: str, key: str | None) -> Followed | None:
        """Begin to follow a request.

        Args:
            request: its id, which others may have too.
            key: name of the key that asks; None: nobody in particular.

        Returns:
            Who is told of its answers; None: nobody.
        """


class Relay:
    """A listener in place of one that is made later, if ever.

    Attributes:
        listener: who is asked; None: nobody yet.
    """

    def __init__(self) -> None:
        self.listener: Listener | None = None

    def follow(self, request: str, key: str | None) -> Followed | None:
        """Pass a request on."""
        return None if self.listener is None else self.listener.follow(request, key)
