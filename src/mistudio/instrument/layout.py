"""Where the tokens of several rows lie in one pass of the model.

Shape legend: R rows, T tokens of a line, U columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Where the tokens of each row lie in a pass.

    Attributes:
        shape: lines, and tokens of a line.
        spans: of each row, its line and its tokens in it.
    """

    shape: tuple[int, int]
    spans: tuple[tuple[int, slice], ...]

    @classmethod
    def side_by_side(cls, lengths: Sequence[int]) -> "Layout":
        """A line for each row, padded on the left."""
        width = max(lengths)
        return cls((len(lengths), width), tuple((row, slice(width - n, width)) for row, n in enumerate(lengths)))

    @classmethod
    def end_to_end(cls, lengths: Sequence[int]) -> "Layout":
        """All rows in one line."""
        ends = list(accumulate(lengths))
        return cls((1, ends[-1]), tuple((0, slice(end - n, end)) for end, n in zip(ends, lengths, strict=True)))

    @property
    def has_lines(self) -> bool:
        """Whether each row has a line of its own."""
        return self.shape[0] == len(self.spans)

    def last(self, value_RTU: Tensor) -> Tensor:
        """What was read on the last token of each row [R, U]."""
        lines, tokens = zip(*((line, span.stop - 1) for line, span in self.spans), strict=True)
        return value_RTU[list(lines), list(tokens)]
