"""A store, and small artifacts in it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mistudio.artifacts import Artifact, Draft, InputRef, Recipe, Store, Summary, open_store, produce

Publish = Callable[..., Artifact]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def publish(store: Store) -> Publish:
    """Publishes ``files`` as an artifact of ``kind`` made from ``inputs``."""

    def publish(
        kind: str = "sae",
        files: dict[str, bytes] | None = None,
        inputs: dict[str, InputRef] | None = None,
        **config: object,
    ) -> Artifact:
        def build(draft: Draft) -> Summary:
            contents = {"weights": b"0123456789", "deep/table": b"abc"} if files is None else files
            for path, data in contents.items():
                draft.write(path, data)
            return {"loss": 0.5, "name": kind, "files": len(contents)}

        return produce(store, Recipe(kind=kind, config=config, inputs=inputs or {}), "test", build).artifact

    return publish
