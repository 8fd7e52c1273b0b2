"""What is known of every sequence of a split but its tokens: enough to choose sequences without opening their shards.

One Arrow file a split, one record batch a shard, about 20 bytes a sequence.
"""

from collections.abc import Iterator
from itertools import count, takewhile
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mistudio.artifacts import Artifact, Draft
from mistudio.corpus.shards import shard_path
from mistudio.corpus.statistics import Split

_SCHEMA = pa.schema(
    [
        pa.field("document", pa.int32(), nullable=False),
        pa.field("start", pa.int32(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("task", pa.int16(), nullable=False),  # its place among the tasks of the corpus, sorted
        pa.field("label", pa.string()),
    ]
)


def index_path(split: Split) -> str:
    """Where in the artifact the index of a split lies."""
    return f"{split}/index.arrow"


def write_index(draft: Draft, split: Split, tasks: list[str]) -> None:
    """Write the index of a split whose shards are all finished, unless a killed run has."""
    if draft.has(index_path(split)):
        return
    with draft.stage(index_path(split)) as path, pa.ipc.new_file(str(path), _SCHEMA) as writer:
        for shard in _finished_shards(draft, split):
            writer.write_batch(_columns(shard, tasks))


def read_index(artifact: Artifact, split: Split) -> list[Any]:
    """The record batches of a split's index, one a shard.

    Raises:
        DamagedArtifact: it is not what was published.
    """
    reader = pa.ipc.open_file(pa.memory_map(str(artifact.file(index_path(split)))))
    return [reader.get_batch(number) for number in range(reader.num_record_batches)]


def _finished_shards(draft: Draft, split: Split) -> Iterator[Any]:
    paths = (shard_path(split, number) for number in count())
    for path in takewhile(draft.has, paths):
        with pa.memory_map(str(draft.file(path))) as source:
            yield pa.ipc.open_file(source).read_all()


def _columns(shard: Any, tasks: list[str]) -> Any:
    """What the index holds of a shard."""
    task = pc.index_in(shard["task"].cast(pa.string()), value_set=pa.array(tasks, pa.string()))
    columns = {
        "document": shard["document"],
        "start": shard["start"],
        "length": pc.list_value_length(shard["token_ids"]),
        "task": task.cast(pa.int16()),
        "label": shard["label"],
    }
    return pa.RecordBatch.from_arrays([column.combine_chunks() for column in columns.values()], schema=_SCHEMA)
