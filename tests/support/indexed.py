"""The index that activations need, for shards written by hand, and which files are opened by way of it."""

from collections import defaultdict

import pytest

from mistudio.activations.index import sequences_of, write_index
from mistudio.activations.shards import ShardFile
from mistudio.artifacts import Artifact, Draft


def index_shards(draft: Draft) -> None:
    """Write the index of every hook point and split whose shards are in ``draft``."""
    folders = defaultdict(list)
    for name in draft.store.list(draft.prefix):
        folder, _, file = name.removeprefix(f"{draft.prefix}/").rpartition("/")
        if file.startswith("shard-"):
            folders[folder].append(ShardFile(draft.file(f"{folder}/{file}")))
    for folder, shards in folders.items():
        sequences = [sequences_of(shard.meta("sequence", 0, shard.num_rows)) for shard in shards]
        with draft.open(f"{folder}/index.arrow") as file:
            write_index(file, shards[0].width, shards[0].dtype, sequences)


def opened_files(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The files of artifacts that are asked for, and so hashed, from now on."""
    opened: set[str] = set()
    file = Artifact.file
    monkeypatch.setattr(Artifact, "file", lambda self, path: (opened.add(f"{self.uri}/{path}"), file(self, path))[1])
    return opened
