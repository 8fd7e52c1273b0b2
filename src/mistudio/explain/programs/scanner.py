"""Where in a text a token stands: inside brackets, a string or a comment, and where in its line.

One pass over the characters that matter, found by a regular expression. It knows Python's strings and comments,
and copes with any other text: a quote between letters is an apostrophe, an ordinary string ends at its line's end
at the latest, a bracket that closes nothing is passed over, and a bracket left open is given up at a blank line.

Shape legend: N tokens of one document.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_SIGN = re.compile(r'"""|\'\'\'|\\.|["\'#()\[\]{}\n]', re.DOTALL)
_CLOSES = {")": "(", "]": "[", "}": "{"}
_PARTS = ("(", "[", "{", "string", "long string", "comment")
_OPEN = {name: 1 << bit for bit, name in enumerate(_PARTS)}
_TAB = 4


class Scan(NamedTuple):
    """What is known of each token of a document; of a token that holds several characters, of its first visible one."""

    inside_N: NDArray[np.uint8]  # bits, in the order of ``PARTS``
    depth_N: NDArray[np.int16]  # open brackets
    line_place_N: NDArray[np.int32]  # tokens of the line before it; a line's end belongs to the line
    head_N: NDArray[np.int64]  # the line's first token that is no space, -1 before it, as a place in the document
    indent_N: NDArray[np.int16]  # spaces at the line's start


PARTS = _PARTS


def scan(strings: Sequence[str]) -> Scan:
    """Scan the tokens of one document."""
    lengths = np.fromiter(map(len, strings), dtype=np.int64, count=len(strings))
    starts_N = np.cumsum(lengths) - lengths
    blanks = np.fromiter((len(each) - len(each.lstrip()) for each in strings), dtype=np.int64, count=len(strings))
    visible_N = starts_N + np.where(blanks < lengths, blanks, 0)
    text = "".join(strings)
    at, inside, depth = _states(text)
    state_N = np.searchsorted(at, visible_N, side="right") - 1
    line_place_N, head_N, indent_N = _lines(text, strings, starts_N, visible_N)
    return Scan(inside[state_N], depth[state_N], line_place_N, head_N, indent_N)


def _states(text: str) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.int16]]:
    """The places from which on the state is another, and the states: a sign itself is outside what it opens."""
    at, inside, depth = [0], [0], [0]
    scanner = _Scanner()
    for match in _SIGN.finditer(text):
        if not scanner.take(match.group(), text, match.start(), match.end()):
            continue
        # What closes is still inside; what opens is not inside yet.
        at.append(match.end())
        inside.append(scanner.bits())
        depth.append(len(scanner.brackets))
    return np.array(at), np.array(inside, dtype=np.uint8), np.array(depth, dtype=np.int16)


class _Scanner:
    """The state between two signs."""

    def __init__(self) -> None:
        self.brackets: list[str] = []
        self.quote = ""
        self.is_comment = False
        self.line_end = -1

    def bits(self) -> int:
        """What is open, as bits."""
        bits = 0
        for bracket in self.brackets:
            bits |= _OPEN[bracket]
        if self.quote:
            bits |= _OPEN["long string" if len(self.quote) == 3 else "string"]
        return bits | (_OPEN["comment"] if self.is_comment else 0)

    def take(self, sign: str, text: str, start: int, end: int) -> bool:
        """Read one sign; whether the state is another behind it."""
        if sign == "\n":
            return self._line(start)
        if self.is_comment or sign[0] == "\\":
            return False
        if self.quote:
            if sign != self.quote:
                return False
            self.quote = ""
            return True
        return self._open(sign, text, start, end)

    def _line(self, start: int) -> bool:
        blank, self.line_end = start == self.line_end + 1, start
        changed = self.is_comment or len(self.quote) == 1 or (blank and bool(self.brackets) and not self.quote)
        if len(self.quote) != 3:
            self.quote = ""
            if blank:
                self.brackets.clear()
        self.is_comment = False
        return changed

    def _open(self, sign: str, text: str, start: int, end: int) -> bool:
        if sign[0] in "\"'":
            before, after = text[start - 1 : start], text[end : end + 1]
            if sign == "'" and before.isalpha() and after.isalpha():
                return False
            self.quote = sign
        elif sign == "#":
            self.is_comment = True
        elif sign in _CLOSES:
            if _CLOSES[sign] not in self.brackets:
                return False
            while self.brackets.pop() != _CLOSES[sign]:
                pass
        else:
            self.brackets.append(sign)
        return True


def _lines(
    text: str, strings: Sequence[str], starts_N: NDArray[np.int64], visible_N: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int16]]:
    """Place in the line, the line's first word and its indentation, of each token."""
    breaks = np.array([-1, *(match.start() for match in re.finditer("\n", text))])
    line_N = np.searchsorted(breaks, visible_N, side="left") - 1
    num = len(strings)
    first_N = np.flatnonzero(np.diff(line_N, prepend=-1)) if num else np.empty(0, np.int64)
    run_N = np.repeat(np.arange(len(first_N)), np.diff(first_N, append=num))
    line_place_N = np.arange(num) - first_N[run_N] if num else np.empty(0, np.int64)
    word_N = np.fromiter((not each.isspace() for each in strings), dtype=bool, count=num)
    head_of_run = np.full(len(first_N), num, dtype=np.int64)
    np.minimum.at(head_of_run, run_N[word_N], np.flatnonzero(word_N))
    head_N = np.where(head_of_run[run_N] <= np.arange(num), head_of_run[run_N], -1)
    indents = [_indent(text, start + 1) for start in breaks.tolist()]
    return line_place_N.astype(np.int32), head_N, np.array(indents, dtype=np.int16)[line_N]


_SPACES = re.compile(r"[ \t]*")


def _indent(text: str, start: int) -> int:
    match = _SPACES.match(text, start)
    return min(len(match.group().expandtabs(_TAB)), 1000) if match else 0
