"""Random access to the sequences of a tokenised corpus, straight from memory-mapped files.

The small columns (lengths, documents, tasks) come from an index of each split and are held in memory, about 20 bytes a
sequence. Token ids stay in the shards, which are opened and checked when they are first read: a sequence is a view into
the mapped pages, read-only and without a copy.
"""

from collections.abc import Sequence as Indices
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mistudio.artifacts import Artifact
from mistudio.corpus.index import read_index
from mistudio.corpus.shards import STATISTICS_NAME, shard_path
from mistudio.corpus.statistics import SPLITS, CorpusStatistics, Split
from mistudio.corpus.tokens import TokenIds
from mistudio.errors import DamagedArtifact, InputError

__all__ = ["SPLITS", "Batch", "Sequence", "Split", "TokenCorpus"]


class Sequence(NamedTuple):
    """One sequence of one document."""

    token_ids: TokenIds  # [T], special tokens included; a view, read-only
    document: int
    start: int  # tokens of the document before this sequence
    task: str
    label: str | None


class Batch(NamedTuple):
    """Several sequences; the arrays run beside ``token_ids``."""

    token_ids: list[TokenIds]
    document: npt.NDArray[np.int32]
    start: npt.NDArray[np.int32]
    task: npt.NDArray[np.str_]


class TokenCorpus:
    """The sequences of an artifact of kind ``corpus``, by split and number.

    Raises:
        DamagedArtifact: a file differs from what was published; found when it is first read.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.statistics = CorpusStatistics.model_validate_json(artifact.file(STATISTICS_NAME).read_bytes())
        self._opened: dict[Split, _Sequences] = {}

    @property
    def context_length(self) -> int:
        """Most tokens in a sequence, special tokens included."""
        return self.statistics.context_length

    @property
    def num_prefix(self) -> int:
        """Special tokens at the start of every sequence."""
        return len(self.statistics.prefix_ids)

    @property
    def num_suffix(self) -> int:
        """Special tokens at the end of every sequence."""
        return len(self.statistics.suffix_ids)

    @property
    def tasks(self) -> list[str]:
        """The tasks of both splits, sorted."""
        return sorted({task for split in self.statistics.splits.values() for task in split.tasks})

    def num_sequences(self, split: Split) -> int:
        """How many sequences a split has."""
        return self.statistics.splits[split].sequences

    def lengths(self, split: Split) -> npt.NDArray[np.int32]:
        """Tokens of each sequence, special tokens included."""
        return self._split(split).lengths

    def documents(self, split: Split) -> npt.NDArray[np.int32]:
        """The document of each sequence."""
        return self._split(split).documents

    def sequence(self, split: Split, index: int) -> Sequence:
        """One sequence.

        Raises:
            InputError: there is no sequence of that number.
        """
        sequences = self._split(split)
        self._check(split, index)
        return Sequence(
            sequences.token_ids(index),
            int(sequences.documents[index]),
            int(sequences.starts[index]),
            str(sequences.tasks[sequences.task_codes[index]]),
            sequences.label(index),
        )

    def batch(self, split: Split, indices: Indices[int] | npt.NDArray[np.integer]) -> Batch:
        """The sequences of these numbers, in this order.

        Raises:
            InputError: there is no sequence of one of the numbers.
        """
        sequences = self._split(split)
        rows = np.asarray(indices, dtype=np.int64)
        if len(rows):
            self._check(split, int(rows.min()))
            self._check(split, int(rows.max()))
        return Batch(
            [sequences.token_ids(row) for row in rows.tolist()],
            sequences.documents[rows],
            sequences.starts[rows],
            sequences.tasks[sequences.task_codes[rows]],
        )

    def _split(self, split: Split) -> "_Sequences":
        if split not in self._opened:
            self._opened[split] = _Sequences(self.artifact, split, self.tasks)
        return self._opened[split]

    def _check(self, split: Split, index: int) -> None:
        if not 0 <= index < self.num_sequences(split):
            message = f"There is no sequence {index} in the {split} split; it has {self.num_sequences(split):,}."
            raise InputError(message)


class _Sequences:
    """One split: what its index says of all sequences, and the shards that hold their tokens, opened when asked for."""

    def __init__(self, artifact: Artifact, split: Split, tasks: list[str]) -> None:
        self._artifact, self._split = artifact, split
        self._shards: dict[int, _Shard] = {}
        batches = read_index(artifact, split)
        self._ends = np.cumsum([len(batch) for batch in batches])
        self._labels: Any = pa.chunked_array([batch["label"] for batch in batches], type=pa.string())
        self.documents, self.starts, self.lengths, self.task_codes = (
            _joined([_view(batch[name]) for batch in batches]) for name in ("document", "start", "length", "task")
        )
        self.tasks = np.array(tasks, dtype=np.str_)

    def token_ids(self, index: int) -> TokenIds:
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return self._shard(shard).token_ids(index - self._first(shard))

    def label(self, index: int) -> str | None:
        label: str | None = self._labels[index].as_py()
        return label

    def _first(self, shard: int) -> int:
        """The number of a shard's first sequence."""
        return int(self._ends[shard - 1]) if shard else 0

    def _shard(self, number: int) -> "_Shard":
        """A shard, checked against its hash and the index when it is first read.

        Raises:
            DamagedArtifact: it is not what was published, or not what the index says.
        """
        if number not in self._shards:
            path = shard_path(self._split, number)
            shard = _Shard(self._artifact.file(path))
            if not np.array_equal(shard.lengths, self.lengths[self._first(number) : int(self._ends[number])]):
                message = (
                    f"{self._artifact.uri}/{path} has other sequences than its index says. "
                    f"Run mistudio artifacts remove {self._artifact.uri}, then run ingest again."
                )
                raise DamagedArtifact(message)
            self._shards[number] = shard
        return self._shards[number]


class _Shard:
    """The tokens of one shard, in the chunks that its record batches are."""

    def __init__(self, path: Path) -> None:
        chunks: list[Any] = pa.ipc.open_file(pa.memory_map(str(path))).read_all()["token_ids"].chunks
        self._tokens = [(_view(chunk.offsets), _view(chunk.values)) for chunk in chunks]
        self._ends = np.cumsum([len(offsets) - 1 for offsets, _ in self._tokens])

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens of each sequence."""
        return _joined([np.diff(offsets) for offsets, _ in self._tokens])

    def token_ids(self, row: int) -> TokenIds:
        chunk = int(np.searchsorted(self._ends, row, side="right"))
        offsets, values = self._tokens[chunk]
        row -= int(self._ends[chunk - 1]) if chunk else 0
        return values[offsets[row] : offsets[row + 1]]


def _view(array: Any) -> npt.NDArray[np.int32]:
    """The numbers of an Arrow array, without a copy."""
    view: npt.NDArray[np.int32] = array.to_numpy(zero_copy_only=True)
    return view


def _joined(arrays: list[npt.NDArray[np.int32]]) -> npt.NDArray[np.int32]:
    return np.concatenate([np.empty(0, dtype=np.int32), *arrays]).astype(np.int32, copy=False)
