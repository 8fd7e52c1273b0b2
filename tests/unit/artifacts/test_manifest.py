"""Recipes, which name an artifact before it is made, and manifests, which describe it afterwards."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mistudio.artifacts import (
    FileEntry,
    InputRef,
    Manifest,
    Producer,
    Recipe,
    Store,
    canonical_json,
    open_artifact,
    produce,
)
from mistudio.artifacts.kinds import KINDS
from mistudio.errors import DamagedArtifact, InputError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
CONFIGS = st.dictionaries(st.text(), JSON, max_size=4)


def recipe(**changed: Any) -> Recipe:
    inputs = {"corpus": InputRef(uri="corpus/1", digest="a" * 64)}
    return Recipe(**{"kind": "sae", "schema_version": 1, "config": {"k": 8}, "inputs": inputs, "seed": 0, **changed})


def manifest(**changed: Any) -> Manifest:
    content: dict[str, Any] = {
        "kind": "mistudio.sae/1",
        "config": {"k": 8, "layers": (1, 2)},
        "seed": 0,
        "inputs": {"corpus": InputRef(uri="corpus/1", digest="a" * 64)},
        "files": (FileEntry(path="weights", bytes=3, sha256="b" * 64),),
        "summary": {"loss": 0.25, "dead": 0, "early": False, "note": None},
        "producer": Producer(step="train", version="0.1.0"),
        "created_at": "2025-01-01T00:00:00+00:00",
    }
    return Manifest(**{**content, **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "features"},
        {"schema_version": 2},
        {"config": {"k": 9}},
        {"config": {"k": 8, "more": None}},
        {"seed": 1},
        {"inputs": {}},
        {"inputs": {"corpus": InputRef(uri="corpus/1", digest="c" * 64)}},
        {"inputs": {"subject": InputRef(uri="corpus/1", digest="a" * 64)}},
    ],
    ids=str,
)
def test_a_recipe_with_another_part_has_another_key(changed: dict[str, Any]) -> None:
    assert recipe(**changed).key != recipe().key
    assert recipe(**changed).prefix != recipe().prefix


def test_the_key_of_a_recipe_does_not_depend_on_where_its_inputs_lie() -> None:
    moved = {"corpus": InputRef(uri="elsewhere/2", digest="a" * 64)}
    assert recipe(inputs=moved).key == recipe().key


def test_the_key_of_a_recipe_does_not_depend_on_the_order_of_its_config() -> None:
    assert recipe(config={"a": 1, "b": 2}).key == recipe(config={"b": 2, "a": 1}).key


def test_the_key_of_a_recipe_is_the_hash_of_its_parts_as_json() -> None:
    parts = '{"config":{"k":8},"inputs":{"corpus":"%s"},"kind":"sae","schema_version":1,"seed":0}' % ("a" * 64)
    assert recipe().prefix == f"sae/{hashlib.sha256(parts.encode()).hexdigest()[:16]}"


def test_a_kind_is_a_name_in_the_store() -> None:
    for kind in ("", "../x", "a/b", "Sae", "sae\n"):
        with pytest.raises(ValidationError):
            recipe(kind=kind)


def test_the_digest_does_not_depend_on_who_made_it_and_when() -> None:
    other = manifest(
        producer=Producer(step="x", version="9", git_commit="f" * 40, image="i", seconds=2.0),
        created_at="2026-01-01T00:00:00+00:00",
    )
    assert other.digest == manifest().digest


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "mistudio.sae/2"},
        {"config": {"k": 9, "layers": (1, 2)}},
        {"seed": 1},
        {"inputs": {}},
        {"inputs": {"corpus": InputRef(uri="corpus/2", digest="a" * 64)}},
        {"files": ()},
        {"files": (FileEntry(path="weights", bytes=3, sha256="c" * 64),)},
        {"files": (FileEntry(path="weights", bytes=4, sha256="b" * 64),)},
        {"summary": {"loss": 0.5}},
    ],
    ids=str,
)
def test_the_digest_depends_on_everything_else(changed: dict[str, Any]) -> None:
    assert manifest(**changed).digest != manifest().digest


@given(config=CONFIGS, summary=st.dictionaries(st.text(), st.integers() | st.text() | st.booleans() | st.none()))
def test_a_manifest_reads_back_with_the_same_digest(config: dict[str, Any], summary: dict[str, Any]) -> None:
    written = manifest(config=config, summary=summary)
    read = Manifest.from_json(written.to_json(), "sae/1/manifest.json")
    assert read.digest == written.digest
    assert read.summary == summary
    assert [type(value) for value in read.summary.values()] == [type(summary[name]) for name in read.summary]


def test_a_manifest_adds_up_its_files_and_knows_its_kind() -> None:
    files = tuple(FileEntry(path=path, bytes=size, sha256="b" * 64) for path, size in (("a", 3), ("b/c", 4)))
    assert manifest(files=files).num_bytes == 7
    assert manifest().short_kind == "sae"


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_summary_without_a_number_to_show_is_refused_before_it_is_published(number: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        manifest(summary={"loss": number})


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ({"files": [{"path": "../../etc/passwd", "bytes": 1, "sha256": "b" * 64}]}, "files.0.path"),
        ({"files": [{"path": "/etc/passwd", "bytes": 1, "sha256": "b" * 64}]}, "files.0.path"),
        ({"files": [{"path": "a", "bytes": -1, "sha256": "b" * 64}]}, "files.0.bytes"),
        ({"files": [{"path": "a", "bytes": 1, "sha256": "b"}]}, "files.0.sha256"),
        ({"extra": 1}, "extra"),
        ({"seed": "x"}, "seed"),
    ],
)
def test_a_manifest_that_was_tampered_with_is_refused_naming_the_place(damage: dict[str, Any], what: str) -> None:
    content = {**json.loads(manifest().to_json()), **damage}
    with pytest.raises(DamagedArtifact, match=rf"sae/1/manifest.json is not a valid manifest \({what}") as error:
        Manifest.from_json(json.dumps(content).encode(), "sae/1/manifest.json")
    assert "mistudio artifacts remove sae/1," in str(error.value)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"{}"])
def test_bytes_that_are_no_manifest_are_refused(data: bytes) -> None:
    with pytest.raises(DamagedArtifact, match="not a valid manifest"):
        Manifest.from_json(data, "sae/1/manifest.json")


def test_a_value_has_one_canonical_json() -> None:
    assert canonical_json({"b": [1, None], "a": "ä"}) == b'{"a":"\\u00e4","b":[1,null]}'
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def test_recipes_take_the_version_of_their_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Recipe(kind="features", config={})
    monkeypatch.setitem(KINDS, "features", before.schema_version + 1)
    after = Recipe(kind="features", config={})
    assert after.schema_version == before.schema_version + 1
    assert after.key != before.key


@pytest.mark.parametrize(("change", "message"), [(-1, "made by a newer miStudio"), (1, "made by an older miStudio")])
def test_an_artifact_of_another_version_is_refused_and_says_what_to_do(
    store: Store, monkeypatch: pytest.MonkeyPatch, change: int, message: str
) -> None:
    monkeypatch.setitem(KINDS, "features", 5)
    made = produce(store, Recipe(kind="features", config={}), "find", lambda _draft: {}).artifact
    monkeypatch.setitem(KINDS, "features", 5 + change)
    with pytest.raises(InputError, match=message):
        open_artifact(store, made.uri, "features")
    assert open_artifact(store, made.uri).digest == made.digest  # it can still be listed and removed
