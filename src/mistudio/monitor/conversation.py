"""A conversation that a client sends piece by piece: the values of its tokens, as it grows.

With each piece all of it is read again, up to a bound: the tokens at its end may become others by what follows. Told
is what is new, from the first token that changed.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from mistudio.errors import InputError
from mistudio.instrument.messages import Message
from mistudio.monitor.direct import DirectReader
from mistudio.monitor.live_events import short
from mistudio.monitor.records import Sample
from mistudio.monitor.watch.watching import TokenValues

_CHARACTERS_PER_TOKEN = 16  # at most, about: what is longer is refused before it is tokenised


class Conversation:
    """One conversation: plain text that grows, or a chat.

    Args:
        reader: reads it.
        names: of the watched columns.
        most_tokens: of all of it.
    """

    def __init__(self, reader: DirectReader, names: Sequence[str], most_tokens: int) -> None:
        self._reader, self._names, self._most_tokens = reader, tuple(names), most_tokens
        self._text = ""
        self._known: tuple[int, ...] = ()

    def add(self, text: str) -> dict[str, Any]:
        """Go on with a piece of text; the tokens that are new by it.

        Raises:
            InputError: it is too long by it, and stays as it was; or cannot be read.
        """
        whole = self._text + text
        self._check(len(whole))
        told = self._told(Sample(whole))
        self._text = whole
        return told

    def chat(self, messages: Sequence[Message]) -> dict[str, Any]:
        """Read a chat in place of what was there; errors as :meth:`add`."""
        self._check(sum(len(message.content) for message in messages))
        told = self._told(Sample(tuple(messages)))
        self._text = ""
        return told

    def begin_again(self) -> None:
        """Forget all of it."""
        self._text, self._known = "", ()

    def _check(self, num_characters: int) -> None:
        most = self._most_tokens * _CHARACTERS_PER_TOKEN
        if num_characters > most:
            message = f"The conversation has {num_characters:,} characters, and at most {most:,} are read: begin again."
            raise InputError(message)

    def _told(self, sample: Sample) -> dict[str, Any]:
        if not sample.content:
            return {"kind": "tokens", "from": 0, "tokens": []}
        found = self._reader.tokens(sample)
        if len(found.ids) > self._most_tokens:
            most = self._most_tokens
            message = f"The conversation has {len(found.ids):,} tokens, and at most {most:,} are read: begin again."
            raise InputError(message)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._known, found.ids, strict=False)))
        self._known = found.ids
        return {
            "kind": "tokens",
            "from": same,
            "tokens": [self._token(found, place) for place in range(same, len(found.ids))],
        }

    def _token(self, found: TokenValues, place: int) -> dict[str, Any]:
        body: dict[str, Any] = {"token": place, "text": found.strings[place]}
        if found.role_T is not None:
            body["role"] = found.role_T[place]
        if found.is_read_T[place]:
            body["watched"] = dict(zip(self._names, map(short, found.value_TW[place].tolist()), strict=True))
        return body
