"""Tokens as they come, as text: characters are given out when they are whole, and never a part of a stop string."""

from collections.abc import Sequence
from typing import Any

_BROKEN = "\N{REPLACEMENT CHARACTER}"
_MOST_BROKEN = 4  # tokens to wait for a character that may never be whole


class TextStream:
    """The text of one answer.

    Args:
        tokenizer: of the model.
        stops: texts that end the answer.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._ids: list[int] = []
        self._start, self._read = 0, 0  # of the tokens that are decoded together, and of those not given out
        self._held = ""  # text that may be the beginning of a stop string
        self.text = ""  # all that was given out
        self.stopped_by: str | None = None

    def add(self, token: int) -> str:
        """The text that is certain with one more token; see ``stopped_by`` for whether it is the last."""
        self._ids.append(token)
        return self._given(self._decoded(last=False), last=False)

    def finish(self) -> str:
        """What is left when no token follows."""
        return "" if self.stopped_by is not None else self._given(self._decoded(last=True), last=True)

    def _decoded(self, *, last: bool) -> str:
        """Text of the newest tokens, decoded behind those before: a token alone may read otherwise."""
        whole = self._decode(self._ids[self._start :])
        end = self._certain(whole) if whole.endswith(_BROKEN) and not last else len(self._ids)
        if end == self._read:
            return ""
        before, text = self._decode(self._ids[self._start : self._read]), self._decode(self._ids[self._start : end])
        self._start, self._read = self._read, end
        return text[len(before) :]

    def _certain(self, whole: str) -> int:
        """How many tokens are certain, where the last character may not be whole.

        It may begin behind bytes that will never be one. Where a token that follows leaves a text as it is and makes it
        longer, no character goes on beyond that text.
        """
        num, behind = len(self._ids), whole
        for end in range(num - 1, max(self._read, num - _MOST_BROKEN), -1):
            text = self._decode(self._ids[self._start : end])
            if len(text) < len(behind) and behind.startswith(text):
                return end
            behind = text
        return self._read if num - self._read < _MOST_BROKEN else num

    def _given(self, new: str, *, last: bool) -> str:
        text = self._held + new
        ends = [(place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if ends:
            place, self.stopped_by = min(ends)
            text, self._held = text[:place], ""
        else:
            held = 0 if last else max((_overlap(text, stop) for stop in self._stops), default=0)
            text, self._held = text[: len(text) - held], text[len(text) - held :]
        self.text += text
        return text

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text may be the beginning of a stop string."""
    most = min(len(text), len(stop) - 1)
    return next((size for size in range(most, 0, -1) if text.endswith(stop[:size])), 0)
