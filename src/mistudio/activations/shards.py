"""Activation shards: Arrow IPC files, written block by block and read memory-mapped.

Every row is the activation at one token, beside the document, sequence, position and token it belongs
to. bfloat16, which Arrow does not know, is stored as its 16 bits in uint16; the schema's metadata says so.

Shape legend: N rows, D width of the hook point.
"""

import mmap
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from mistudio.artifacts import HashingWriter
from mistudio.errors import InputError

BLOCK_ROWS = 8192  # most rows of a block; of wide rows about a MiB, so that most of them need not be gathered
_BLOCK_BYTES = 1 << 20
_BLOCK_ROWS_STEP = 512
META_COLUMNS = ("document", "sequence", "position", "token_id")
_DTYPE_KEY = b"mistudio.dtype"
_STORAGE = {"float16": pa.float16(), "bfloat16": pa.uint16()}
_TORCH = {"float16": torch.float16, "bfloat16": torch.bfloat16}
# The bits of infinity. Whatever lies above them, the sign left aside, is no number.
_INFINITY_BITS = {"float16": 0x7C00, "bfloat16": 0x7F80}
_SIGN_BIT = 0x8000


class DoesNotFit(InputError):
    """An activation is larger than the number format of a shard can say."""


def shard_schema(width: int, dtype: str) -> pa.Schema:
    """The schema of a shard of ``width``-wide rows in ``dtype`` (float16 or bfloat16)."""
    fields = [pa.field("activation", pa.list_(pa.field("item", _STORAGE[dtype], nullable=False), width))]
    fields += [pa.field(name, pa.int32(), nullable=False) for name in META_COLUMNS]
    return pa.schema(fields, metadata={_DTYPE_KEY: dtype.encode()})


def block_rows(width: int) -> int:
    """Rows that are written together; the same for all shards of a width, so that equal rows give equal bytes."""
    rows = _BLOCK_BYTES // (2 * width) // _BLOCK_ROWS_STEP * _BLOCK_ROWS_STEP
    return min(max(rows, _BLOCK_ROWS_STEP), BLOCK_ROWS)


class ShardWriter:
    """Writes one shard; holds one block of rows in memory."""

    def __init__(self, sink: Path | HashingWriter, width: int, dtype: str) -> None:
        self._schema = shard_schema(width, dtype)
        self._dtype = dtype
        self._block_rows = block_rows(width)
        self._bits_ND = np.empty((self._block_rows, width), dtype=np.uint16)
        self._meta_N = {name: np.empty(self._block_rows, dtype=np.int32) for name in META_COLUMNS}
        self._filled = 0
        self._writer = pa.ipc.new_file(str(sink) if isinstance(sink, Path) else sink, self._schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def append(self, acts_ND: Tensor, meta_N: dict[str, NDArray[np.int32]]) -> None:
        """Add rows; ``meta_N`` has one array for each of ``META_COLUMNS``.

        Raises:
            InputError: a value does not fit the shard's number format.
        """
        self.append_narrow(narrowed(acts_ND, self._dtype), meta_N)

    def append_narrow(self, narrow_ND: Tensor, meta_N: dict[str, NDArray[np.int32]]) -> None:
        """Add rows that :func:`narrowed` has made and checked; whole blocks are written without a copy."""
        bits_ND = _bits(narrow_ND)
        start = 0
        while start < len(bits_ND):
            there = slice(start, min(start + self._block_rows - self._filled, len(bits_ND)))
            self._add(bits_ND[there], {name: column_N[there] for name, column_N in meta_N.items()})
            start = there.stop

    def _add(self, bits_ND: NDArray[np.uint16], meta_N: dict[str, NDArray[np.int32]]) -> None:
        """Write a whole block at once, and gather rows that fill none."""
        if len(bits_ND) == self._block_rows:
            self._write(bits_ND, meta_N)
            return
        here = slice(self._filled, self._filled + len(bits_ND))
        self._bits_ND[here] = bits_ND
        for name, column_N in self._meta_N.items():
            column_N[here] = meta_N[name]
        self._filled = here.stop
        if self._filled == self._block_rows:
            self._flush()

    def _flush(self) -> None:
        if self._filled:
            self._write(self._bits_ND[: self._filled], {name: c[: self._filled] for name, c in self._meta_N.items()})
        self._filled = 0

    def _write(self, bits_ND: NDArray[np.uint16], meta_N: dict[str, NDArray[np.int32]]) -> None:
        stored = np.uint16 if self._dtype == "bfloat16" else np.float16
        values = pa.array(bits_ND.reshape(-1).view(stored))
        columns = [pa.FixedSizeListArray.from_arrays(values, type=self._schema.field("activation").type)]
        columns += [pa.array(meta_N[name]) for name in META_COLUMNS]
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema))


class ShardFile:
    """One shard, memory-mapped; rows are addressed from 0."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._reader = pa.ipc.open_file(pa.py_buffer(self._map))
        self.dtype = self._reader.schema.metadata[_DTYPE_KEY].decode()
        self.width: int = self._reader.schema.field("activation").type.list_size
        self._batches = [self._reader.get_batch(i) for i in range(self._reader.num_record_batches)]
        self._block_rows = self._batches[0].num_rows if self._batches else BLOCK_ROWS  # all but the last are equal
        self.num_rows = sum(batch.num_rows for batch in self._batches)
        self.release()

    def acts(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` [N, D]; where they lie in one block a view of the file, not to be written to."""
        parts = [_block_acts(batch, self.width, self.dtype)[rows] for batch, rows in self._slices(start, stop)]
        return joined(parts, self.width, self.dtype)

    def meta(self, name: str, start: int, stop: int) -> NDArray[np.int32]:
        """The column ``name`` of rows ``start`` to ``stop`` [N]."""
        parts = [batch.column(name).to_numpy()[rows] for batch, rows in self._slices(start, stop)]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)

    def release(self) -> None:
        """Let go of the pages read so far, which otherwise count as memory in use; views stay valid."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def _slices(self, start: int, stop: int) -> list[tuple[pa.RecordBatch, slice]]:
        slices = []
        while start < stop:
            block, offset = divmod(start, self._block_rows)
            count = min(stop - start, self._block_rows - offset)
            slices.append((self._batches[block], slice(offset, offset + count)))
            start += count
        return slices


def narrowed(acts_ND: Tensor, dtype: str) -> Tensor:
    """Rows [N, D] in the number format ``dtype`` of a shard, on the CPU.

    Raises:
        DoesNotFit: a value is too large for that format, and another has it.
        InputError: a value is no number.
    """
    narrow_ND = acts_ND.to("cpu", _TORCH[dtype])
    bits_ND = _bits(narrow_ND)
    limit = _INFINITY_BITS[dtype]
    # Read as signed, positive numbers order as their bits do, and as unsigned, negative ones: two passes over
    # integers are far faster than a test of each number.
    if len(bits_ND) and (bits_ND.view(np.int16).max() >= limit or bits_ND.max() >= limit + _SIGN_BIT):
        raise _overflow(acts_ND, dtype)
    return narrow_ND


def joined(parts: list[Tensor], width: int, dtype: str) -> Tensor:
    """Consecutive pieces of rows as one tensor [N, D]; without a copy where there is one piece."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts) if parts else torch.empty(0, width, dtype=_TORCH[dtype])


def _bits(narrow_ND: Tensor) -> NDArray[np.uint16]:
    bits_ND: NDArray[np.uint16] = narrow_ND.contiguous().view(torch.uint16).numpy()
    return bits_ND


def _block_acts(batch: pa.RecordBatch, width: int, dtype: str) -> Tensor:
    acts_ND = torch.utils.dlpack.from_dlpack(batch.column("activation").values).view(-1, width)
    return acts_ND.view(torch.bfloat16) if dtype == "bfloat16" else acts_ND


def _overflow(acts_ND: Tensor, dtype: str) -> InputError:
    if not bool(torch.isfinite(acts_ND).all()):
        message = "The model's activations hold NaN or infinity at this hook point. Load it in float32 or bfloat16."
        return InputError(message)
    largest = float(acts_ND.abs().max())
    message = (
        f"An activation of magnitude {largest:.4g} does not fit {dtype}. Run capture with storage_dtype bfloat16, "
        "which has the range of float32, and go on with what it makes."
    )
    return DoesNotFit(message)
