"""What a trainer asks of a source of activations, be it captured shards or a model at work.

Shape legend: N rows, B rows of a batch, D width of the activations, E width of what is to be predicted from them.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Pair = tuple[Tensor, Tensor]  # activations [B, D], and what is to be predicted from them [B, E]
Ranges = list[tuple[int, int]]  # rows, from the first to before the second
RowsT = TypeVar("RowsT")
RowsT_co = TypeVar("RowsT_co", covariant=True)


class RowSource(Protocol[RowsT_co]):
    """Rows of one hook point, or of two whose rows correspond: a batch is a tensor, or a :data:`Pair`."""

    width: int
    target_width: int
    dtype: str

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each hook point."""

    def __len__(self) -> int:
        """Rows there are."""

    def sequence_ends(self) -> NDArray[np.int64]:
        """The row behind each sequence, ascending."""

    def expect(self, ranges: Ranges) -> None:
        """Take note that these rows will be read next, all at once."""

    def read(self, ranges: Ranges, into: tuple[Tensor, ...], slots_N: Tensor) -> None:
        """Copy the rows of ``ranges``, one after the other, to ``slots_N`` of ``into``; those of slot -1 are left out.

        What a row holds depends on ``ranges``, if only by rounding, and never on what is left out or was expected.
        """

    def acts(self, start: int, stop: int) -> RowsT_co:
        """Rows ``start`` to ``stop``; not to be written to."""

    def meta(self, start: int, stop: int) -> dict[str, NDArray[np.int32]]:
        """Document, sequence, position and token id of rows ``start`` to ``stop``, each [N]."""

    def pack(self, parts: tuple[Tensor, ...]) -> RowsT_co:
        """Rows of each hook point as one batch."""


class OrderedRows(Protocol):
    """Rows of one hook point, to be read in order."""

    hook: str
    width: int

    @property
    def shards(self) -> Sequence[Any]:
        """The shards that they are stored in, or would be."""

    def __len__(self) -> int:
        """Rows there are."""

    def acts(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` [N, D]; not to be written to."""

    def meta(self, start: int, stop: int) -> dict[str, NDArray[np.int32]]:
        """Document, sequence, position and token id of rows ``start`` to ``stop``, each [N]."""

    def chunks(self, shard: int, rows: int) -> Iterator[tuple[int, int]]:
        """Ranges of about ``rows`` rows that together cover one shard and never cut a sequence."""


class ActivationStream(Protocol[RowsT_co]):
    """Batches without end, in an order that can be taken up again: tensors, or a :data:`Pair` each."""

    @property
    def width(self) -> int:
        """Width of the activations."""

    @property
    def target_width(self) -> int:
        """Width of what is to be predicted from them; the same where that is the activations themselves."""

    @property
    def dtype(self) -> str:
        """Number format of the rows: float16, bfloat16 or float32."""

    def __len__(self) -> int:
        """Rows of one pass over the corpus."""

    def sample(self, num_rows: int) -> RowsT_co:
        """About ``num_rows`` rows from all over the corpus, without moving the stream."""

    def next_batch(self) -> RowsT_co:
        """The next rows; the last batch of a pass may be smaller."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides which rows come next: tensors, and what JSON can hold."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where ``state_dict`` was taken."""
