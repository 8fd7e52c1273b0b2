"""What programs look at: columns of token ids around each token, and flags that hold of it or not.

Everything is worked out once for some tokens, and then looked up by every program. 130 bytes a token.

Shape legend: N tokens, Q flags, D documents.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mistudio.explain.programs.classes import CLASSES, class_table
from mistudio.explain.programs.scanner import PARTS, Scan, scan
from mistudio.explain.tokens import NO_TOKEN, Tokens

# Columns of token ids: which token, seen from a token.
CURRENT, PREVIOUS, SECOND, NEXT, INDUCED, HEAD = COLUMNS = (
    "current",
    "previous",
    "second to last",
    "next",
    "induced",
    "line",
)
_INDENTS = {
    "on a line without indentation": (0, 0),
    "on a line indented by 1 to 4": (1, 4),
    "on a line indented by 5 to 8": (5, 8),
    "on a line indented by more than 8": (9, 1000),
}
_INSIDE = dict(
    zip(
        PARTS,
        ("parentheses", "square brackets", "braces", "a string", "a triple-quoted string", "a comment"),
        strict=True,
    )
)
NESTED = "inside brackets within brackets"
PLAIN = "outside brackets, strings and comments"
LINE_START = "at the start of a line"
LINE_WORD = "as the first word of a line"
FIRST = "as the first token of its sequence"
EARLY = "among the first 8 tokens of its sequence"
OPENING = "among the first 32 tokens of its document"
REPEATED = "that occurred before in its sequence"
REPEATED_PAIR = "where the previous and this token occurred together before"


class Context:
    """The columns and flags of some tokens.

    Args:
        tokens: whole sequences; of whole documents, or brackets and lines begin where the tokens do.
    """

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def prepare(self) -> None:
        """Find every column and flag now, for processes that share them; else each is found when it is asked for."""
        _ = self.pair_N, self._flags

    @property
    def vocabulary_size(self) -> int:
        """Token ids there are."""
        return len(self.tokens.strings)

    def column(self, name: str) -> NDArray[np.int32]:
        """Token ids as seen from each token [N]; -1 where there is no such token."""
        return self._columns[name]

    @cached_property
    def pair_N(self) -> NDArray[np.int64]:
        """The previous and the current token as one number; no pair where there is no previous token: -1."""
        previous = self._columns[PREVIOUS].astype(np.int64)
        return np.where(previous < 0, NO_TOKEN, previous * self.vocabulary_size + self._columns[CURRENT])

    @cached_property
    def flag_names(self) -> tuple[str, ...]:
        """The flags, by column of ``flags_NQ``."""
        return tuple(self._flags)

    @cached_property
    def flags_NQ(self) -> NDArray[np.uint8]:
        """Which flags hold of which tokens."""
        return np.stack([flag.view(np.uint8) for flag in self._flags.values()], axis=1)

    def flag(self, name: str) -> NDArray[np.bool_]:
        """Of which tokens a flag holds [N]; a task that these tokens do not have holds of none."""
        flag = self._flags.get(name)
        return np.zeros(len(self), dtype=bool) if flag is None else flag

    @cached_property
    def _columns(self) -> dict[str, NDArray[np.int32]]:
        tokens = self.tokens
        return {
            CURRENT: tokens.id_N,
            PREVIOUS: tokens.near(-1),
            SECOND: tokens.near(-2),
            NEXT: tokens.near(1),
            INDUCED: self._induced(),
            HEAD: np.where(self._scan.head_N >= 0, tokens.id_N[self._scan.head_N], NO_TOKEN).astype(np.int32),
        }

    @cached_property
    def _flags(self) -> dict[str, NDArray[np.bool_]]:
        tokens, scanned = self.tokens, self._scan
        flags = {f"inside {what}": (scanned.inside_N >> bit & 1) > 0 for bit, what in enumerate(_INSIDE.values())}
        flags[NESTED] = scanned.depth_N > 1
        flags[PLAIN] = scanned.inside_N == 0
        flags[LINE_START] = scanned.line_place_N == 0
        flags[LINE_WORD] = scanned.head_N == np.arange(len(tokens))
        flags |= {
            name: (scanned.indent_N >= low) & (scanned.indent_N <= high) for name, (low, high) in _INDENTS.items()
        }
        flags[FIRST] = tokens.place_N == 0
        flags[EARLY] = tokens.place_N < 8
        flags[OPENING] = tokens.position_N < 32
        flags[REPEATED] = self._last_same >= 0
        flags[REPEATED_PAIR] = self._repeats_pair()
        table = class_table(tokens.strings)
        for row, name in enumerate(CLASSES):
            flags[f"is {name}"] = table[row][tokens.id_N]
            flags[f"after {name}"] = table[row][tokens.near(-1)]
        flags |= {f"in {task} text": tokens.task_N == code for code, task in enumerate(tokens.tasks)}
        return flags

    @cached_property
    def _scan(self) -> Scan:
        starts = self.tokens.document_starts
        parts = []
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(self.tokens)], strict=True):
            part = scan([self.tokens.strings[token] for token in self.tokens.id_N[start:stop].tolist()])
            parts.append(part._replace(head_N=np.where(part.head_N >= 0, part.head_N + start, -1)))
        return Scan._make(np.concatenate(column) for column in zip(*parts, strict=True))

    @cached_property
    def _last_same(self) -> NDArray[np.int64]:
        """The token before it in the same sequence that is the same; -1 where there is none."""
        return _last_same(self.tokens.sequence_N, self.tokens.id_N)

    def _induced(self) -> NDArray[np.int32]:
        """What followed the last time that the current token occurred in its sequence."""
        last_N = self._last_same
        return np.where(last_N >= 0, self.tokens.id_N[np.minimum(last_N + 1, len(self) - 1)], NO_TOKEN).astype(np.int32)

    def _repeats_pair(self) -> NDArray[np.bool_]:
        return (_last_same(self.tokens.sequence_N, self.pair_N) >= 0) & (self.pair_N >= 0)


def _last_same(group_N: NDArray[np.int32], key_N: NDArray[np.integer]) -> NDArray[np.int64]:
    order = np.lexsort((key_N, group_N))
    same = (np.diff(group_N[order]) == 0) & (np.diff(key_N[order]) == 0)
    last_N = np.full(len(group_N), -1, dtype=np.int64)
    last_N[order[1:][same]] = order[:-1][same]
    return last_N
