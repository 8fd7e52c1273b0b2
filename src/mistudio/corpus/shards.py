"""The shards of a tokenised corpus: an Arrow IPC file for each split.

One row is one sequence, without padding: the special tokens at its start, up to a context's worth of
one document, the special tokens at its end. Token ids of all rows of a record batch lie one after the
other, so that a memory-mapped reader takes a sequence as a slice.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from mistudio.artifacts import Draft
from mistudio.corpus.documents import Document
from mistudio.corpus.statistics import SPLITS, Split
from mistudio.corpus.tokens import Specials, TokenIds

STATISTICS_NAME = "statistics.json"  # beside the shards
SCHEMA = pa.schema(
    [
        pa.field("document", pa.int32(), nullable=False),
        pa.field("start", pa.int32(), nullable=False),
        pa.field("task", pa.dictionary(pa.int16(), pa.string()), nullable=False),
        pa.field("label", pa.string()),
        pa.field("token_ids", pa.list_(pa.field("item", pa.int32(), nullable=False)), nullable=False),
    ]
)


class Tokenised(NamedTuple):
    """One document as tokens."""

    number: int  # the document's place in the source
    document: Document
    chunks: list[TokenIds]  # consecutive, without special tokens


def shard_path(split: Split, number: int) -> str:
    """Where in the artifact a shard lies."""
    return f"{split}/tokens-{number:05d}.arrow"


@contextmanager
def shard_writers(draft: Draft, number: int, specials: Specials) -> Iterator[dict[Split, "ShardWriter"]]:
    """Writers for both splits of one shard; the files appear when the block ends well."""
    with ExitStack() as stack:
        paths = {split: stack.enter_context(draft.stage(shard_path(split, number))) for split in SPLITS}
        yield {split: stack.enter_context(open_writer(path, specials)) for split, path in paths.items()}


@contextmanager
def open_writer(path: Path, specials: Specials) -> Iterator["ShardWriter"]:
    """Write one shard file."""
    # Each batch knows the tasks met so far: the dictionary of tasks grows from batch to batch.
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA, options=options) as writer:
        yield ShardWriter(writer, specials)


class ShardWriter:
    """Appends batches of documents to a shard."""

    def __init__(self, writer: pa.ipc.RecordBatchFileWriter, specials: Specials) -> None:
        self._writer = writer
        self._prefix = np.asarray(specials.prefix, dtype=np.int32)
        self._suffix = np.asarray(specials.suffix, dtype=np.int32)
        self._task_codes: dict[str, int] = {}

    def write(self, documents: list[Tokenised]) -> None:
        """Append the sequences of these documents as one record batch."""
        if not documents:
            return
        rows = [(tokenised, chunk) for tokenised in documents for chunk in tokenised.chunks]
        tasks = [self._task_codes.setdefault(row.document.task, len(self._task_codes)) for row, _ in rows]
        columns = [
            pa.array([row.number for row, _ in rows], pa.int32()),
            pa.array(np.concatenate([_starts(tokenised.chunks) for tokenised in documents]), pa.int32()),
            pa.DictionaryArray.from_arrays(pa.array(tasks, pa.int16()), pa.array(list(self._task_codes), pa.string())),
            pa.array([row.document.label for row, _ in rows], pa.string()),
            self._token_lists([chunk for _, chunk in rows]),
        ]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))

    def _token_lists(self, chunks: list[TokenIds]) -> Any:
        num_specials = len(self._prefix) + len(self._suffix)
        offsets = np.cumsum([0, *(len(chunk) + num_specials for chunk in chunks)]).astype(np.int32)
        values = np.concatenate([part for chunk in chunks for part in (self._prefix, chunk, self._suffix)])
        return pa.ListArray.from_arrays(
            pa.array(offsets, pa.int32()), pa.array(values, pa.int32()), type=SCHEMA.field("token_ids").type
        )


def _starts(chunks: list[TokenIds]) -> TokenIds:
    """Where in the document each chunk starts, in tokens."""
    return np.cumsum([0, *(len(chunk) for chunk in chunks[:-1])]).astype(np.int32)
