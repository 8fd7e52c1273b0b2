"""Which sequences each shard of a hook point holds, and how many rows of each: enough to open it without its shards.

One Arrow file a hook point and split, one row a shard. Width and number format are in its metadata.

Shape legend: S sequences, in the order of their rows.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mistudio.artifacts import Artifact

_SEQUENCES = pa.list_(pa.field("item", pa.int32(), nullable=False))
_FIELDS = [pa.field("sequence", _SEQUENCES, nullable=False), pa.field("rows", _SEQUENCES, nullable=False)]
_WIDTH_KEY, _DTYPE_KEY = b"mistudio.width", b"mistudio.dtype"


class ShardSequences(NamedTuple):
    """The sequences of one shard."""

    sequence_S: NDArray[np.int32]  # numbers in the corpus
    rows_S: NDArray[np.int32]  # how many rows each has, at least one

    @property
    def num_rows(self) -> int:
        """Rows of the shard."""
        return int(self.rows_S.sum())


class ShardIndex(NamedTuple):
    """What is known of the shards of one hook point and split."""

    width: int
    dtype: str
    shards: list[ShardSequences]


def shard_path(hook: str, split: str, number: int) -> str:
    """Where in the artifact a shard lies."""
    return f"{hook}/{split}/shard-{number:05d}.arrow"


def index_path(hook: str, split: str) -> str:
    """Where in the artifact the index of its shards lies."""
    return f"{hook}/{split}/index.arrow"


def write_index(sink: Any, width: int, dtype: str, shards: Iterable[ShardSequences]) -> None:
    """Write the index of shards of ``width``-wide rows in ``dtype`` to a file or a path."""
    schema = pa.schema(_FIELDS, metadata={_WIDTH_KEY: str(width).encode(), _DTYPE_KEY: dtype.encode()})
    with pa.ipc.new_file(sink, schema) as writer:
        for shard in shards:
            writer.write_batch(pa.record_batch([_as_list(column) for column in shard], schema=schema))


def read_index(artifact: Artifact, hook: str, split: str) -> ShardIndex:
    """The index of a hook point and split; no shard is read.

    Raises:
        NotFound: there is none.
        DamagedArtifact: it is not what was published.
    """
    path = artifact.file(index_path(hook, split))
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        metadata = reader.schema.metadata
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        shards = [ShardSequences(*(_values(column) for column in batch.columns)) for batch in batches]
    return ShardIndex(int(metadata[_WIDTH_KEY]), metadata[_DTYPE_KEY].decode(), shards)


def sequences_of(column_N: Sequence[int] | NDArray[np.int32]) -> ShardSequences:
    """The sequences of a shard from its column of sequence numbers."""
    column_N = np.asarray(column_N, dtype=np.int32)
    first_S = np.flatnonzero(np.diff(column_N, prepend=-1))
    return ShardSequences(column_N[first_S], np.diff(first_S, append=len(column_N)).astype(np.int32))


def _as_list(values_S: NDArray[np.int32]) -> Any:
    return pa.ListArray.from_arrays(pa.array([0, len(values_S)], pa.int32()), pa.array(values_S), type=_SEQUENCES)


def _values(column: Any) -> NDArray[np.int32]:
    values_S: NDArray[np.int32] = column.values.to_numpy().copy()  # the file is closed
    return values_S
