"""A key-value cache of fixed size, whose rows are sequences of different lengths at their own places.

A token at place p of its sequence is kept at slot p of its row, so that the rows of a batch need no padding between
them; what pads a row in a pass is written to one slot behind the last, which nobody reads. Rows of a pass are side by
side, and layers return views of them: nothing is copied as sequences grow.

Shape legend: R rows of a pass, T tokens of a row in it, S slots that a pass looks at, H heads, D width of a head.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_SLOT_STEP = 32  # a pass looks at a multiple of so many slots


class _Span:
    """Which rows and slots the pass that is under way has to do with; shared by all layers."""

    first: int = 0
    rows: int = 0
    slots: int = 0
    row_R1: Tensor
    slot_RT: Tensor


class _RowLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer."""

    def __init__(self, num_rows: int, num_slots: int, span: _Span) -> None:
        super().__init__()
        self._num_rows, self._num_slots, self._span = num_rows, num_slots, span

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate, for the heads and the number format of what comes first."""
        heads = key_states.shape[1]
        shape = (self._num_rows, heads, self._num_slots + 1)
        self.keys = key_states.new_zeros(*shape, key_states.shape[-1])
        self.values = value_states.new_zeros(*shape, value_states.shape[-1])
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keep what a pass computed [R, H, T, D]; all that its rows have now [R, H, S, D]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        span = self._span
        self.keys[span.row_R1, :, span.slot_RT] = key_states.transpose(1, 2)
        self.values[span.row_R1, :, span.slot_RT] = value_states.transpose(1, 2)
        rows = slice(span.first, span.first + span.rows)
        return self.keys[rows, :, : span.slots], self.values[rows, :, : span.slots]

    def copy(self, source: int, target: int, num_slots: int) -> None:
        """Copy the first slots of one row to another."""
        if self.is_initialized:
            self.keys[target, :, :num_slots] = self.keys[source, :, :num_slots]
            self.values[target, :, :num_slots] = self.values[source, :, :num_slots]

    def wipe(self, row: int) -> None:
        """Set all that is kept of a row to zero."""
        if self.is_initialized:
            self.keys[row] = 0
            self.values[row] = 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Of the masks that a model makes itself, which it is not asked to."""
        return self._span.slots, 0

    def get_seq_length(self) -> int:
        """Rows have different lengths: places are given with each pass."""
        return 0

    def get_max_length(self) -> int:
        """Slots of a row."""
        return self._num_slots


class RowCache(Cache):  # type: ignore[misc]
    """Keys and values of all layers.

    Args:
        num_layers: of the model.
        num_rows: sequences at once.
        num_slots: tokens of a sequence.
    """

    def __init__(self, num_layers: int, num_rows: int, num_slots: int) -> None:
        self.num_rows, self.num_slots, self._span = num_rows, num_slots, _Span()
        super().__init__(layers=[_RowLayer(num_rows, num_slots, self._span) for _ in range(num_layers)])

    def begin(self, first: int, place_RT: Tensor) -> Tensor:
        """Get ready for a pass of rows ``first`` and on; a place below 0 is padding.

        Returns:
            Which slots each token may look at [R, 1, T, S], bool: those of its row up to its own.
        """
        rows = len(place_RT)
        span = self._span
        slots = int(place_RT.max()) + 1
        span.first, span.rows = first, rows
        span.slots = min(-(-slots // _SLOT_STEP) * _SLOT_STEP, self.num_slots)
        span.row_R1 = torch.arange(first, first + rows, device=place_RT.device)[:, None]
        span.slot_RT = torch.where(place_RT >= 0, place_RT, self.num_slots)
        slot_S = torch.arange(span.slots, device=place_RT.device)
        return slot_S <= place_RT.clamp(min=0)[:, None, :, None]

    def copy(self, source: int, target: int, num_slots: int) -> None:
        """Copy the first slots of one row to another, in all layers."""
        for layer in self.layers:
            layer.copy(source, target, num_slots)

    def wipe(self, row: int) -> None:
        """Set all that is kept of a row to zero, in all layers."""
        for layer in self.layers:
            layer.wipe(row)
