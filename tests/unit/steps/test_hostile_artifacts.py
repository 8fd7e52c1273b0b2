"""What a pipeline hands from step to step was on somebody's disk: none of it is taken for a place."""

import json
from pathlib import Path
from typing import Any

import pytest

from mistudio.artifacts import Draft, Recipe, Summary, open_artifact, open_store, produce
from mistudio.errors import DamagedArtifact, MistudioError
from mistudio.steps import artifact_uri

PLACES = ["../../etc/passwd", "/etc/passwd", "sae/../../x", "http://169.254.169.254/x", "", "a\x00b"]


def manifest(tmp_path: Path) -> dict[str, Any]:
    def build(draft: Draft) -> Summary:
        draft.write("weights", b"0123")
        return {}

    store = open_store(str(tmp_path / "store"))
    made = produce(store, Recipe(kind="sae", config={"k": 4}), "train", build).artifact
    content: dict[str, Any] = json.loads(made.manifest.to_json())
    return content


@pytest.mark.parametrize("place", PLACES)
def test_what_a_kfp_artifact_says_of_places_leads_nowhere(tmp_path: Path, place: str) -> None:
    """Of all that it says only the recipe counts, whose hash is the prefix."""
    content = manifest(tmp_path)
    path = tmp_path / "artifact"
    edits: list[dict[str, Any]] = [
        {"kind": place},
        {"kind": f"mistudio.{place}/3"},
        {"kind": f"{place}/1"},
        {"inputs": {place: {"uri": place, "digest": "a" * 64}}},
        {"inputs": {"corpus": {"uri": place, "digest": place}}},
        {"config": {"prefix": place, "uri": place}},
    ]
    for edit in edits:
        path.write_text(json.dumps({**content, **edit}))
        try:
            uri = artifact_uri(str(path))
        except (MistudioError, ValueError):
            continue
        kind, _, recipe = uri.partition("/")
        assert kind == "sae"
        assert len(recipe) == 16
        with pytest.raises(MistudioError):
            open_artifact(open_store(str(tmp_path / "store")), uri)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"kind": 1}'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "artifact"
    path.write_bytes(content)
    with pytest.raises(DamagedArtifact):
        artifact_uri(str(path))
