"""Making artifacts: found, built, gone on with, refused when damaged, removed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mistudio.artifacts import (
    Draft,
    InputRef,
    Manifest,
    Producer,
    Recipe,
    Store,
    Summary,
    artifact_uris,
    find,
    open_artifact,
    open_input,
    open_store,
    produce,
    produce_together,
    remove_artifact,
)
from mistudio.artifacts import publishing as publishing_module
from mistudio.artifacts import store as store_module
from mistudio.artifacts.local import LocalStore
from mistudio.errors import DamagedArtifact, InputError, NotFound, StorageError
from tests.unit.artifacts.conftest import Publish

RECIPE = Recipe(kind="sae", config={"k": 8})
SHARDS = ("shards/0", "shards/1", "shards/2")


class Interrupted(Exception):
    """Stands for whatever ends a step."""


class Builder:
    """Writes three shards and a checkpoint, as a step does; can be told to stop before a shard."""

    def __init__(self, stop_before: str = "") -> None:
        self.stop_before = stop_before
        self.written: list[str] = []

    def __call__(self, draft: Draft) -> Summary:
        for shard in SHARDS:
            if draft.has(shard):
                continue
            if shard == self.stop_before:
                raise Interrupted
            draft.write(shard, shard.encode() * 100)
            self.written.append(shard)
            with draft.stage_work("checkpoint") as path:
                path.write_text(shard)
        return {"shards": len(SHARDS)}


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    stat = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "flipped": (flip_a_byte, "has other content than was published"),
    "truncated": (truncate, "has 9 bytes instead of 10"),
    "missing": (Path.unlink, "is missing"),
}


def test_what_is_built_once_is_found_afterwards(store: Store) -> None:
    first = produce(store, RECIPE, "train", Builder())
    again = produce(store, RECIPE, "train", Builder(stop_before=SHARDS[0]))
    assert (first.found, again.found) == (False, True)
    assert first.artifact.uri == again.artifact.uri == RECIPE.prefix
    assert first.artifact.manifest == again.artifact.manifest
    assert first.artifact.paths() == list(SHARDS)
    assert first.artifact.manifest.summary == {"shards": 3}


def test_a_manifest_says_who_made_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_GIT_COMMIT", "f" * 40)
    monkeypatch.setenv("MISTUDIO_IMAGE", "registry/batch@sha256:1")
    producer = produce(store, RECIPE, "train", Builder()).artifact.manifest.producer
    assert (producer.step, producer.git_commit, producer.image) == ("train", "f" * 40, "registry/batch@sha256:1")
    assert producer.seconds is not None


def test_an_artifact_is_published_where_there_is_no_git(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MISTUDIO_GIT_COMMIT", raising=False)
    monkeypatch.setenv("PATH", "")
    publishing_module._git_commit.cache_clear()
    try:
        assert produce(store, RECIPE, "train", Builder()).artifact.manifest.producer.git_commit is None
    finally:
        publishing_module._git_commit.cache_clear()


def test_a_step_that_fails_publishes_nothing_and_keeps_what_is_finished(store: Store) -> None:
    with pytest.raises(Interrupted):
        produce(store, RECIPE, "train", Builder(stop_before=SHARDS[2]))
    assert list(artifact_uris(store)) == []
    with pytest.raises(NotFound, match=r"it has no manifest\.json"):
        open_artifact(store, RECIPE.prefix)
    draft = Draft(store, RECIPE.prefix)
    assert [draft.has(shard) for shard in SHARDS] == [True, True, False]
    assert draft.work_file("checkpoint").read_text() == SHARDS[1]


def test_a_step_that_is_run_again_goes_on_and_ends_with_the_same_digest(store: Store, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        produce(store, RECIPE, "train", Builder(stop_before=SHARDS[2]))
    second = Builder()
    resumed = produce(store, RECIPE, "train", second)
    assert second.written == [SHARDS[2]]
    assert not resumed.found
    other = type(store)(tmp_path / "other")  # type: ignore[call-arg]
    assert resumed.artifact.digest == produce(other, RECIPE, "train", Builder()).artifact.digest


def test_working_files_are_dropped_when_an_artifact_is_published(store: Store) -> None:
    artifact = produce(store, RECIPE, "train", Builder()).artifact
    assert list(store.list(RECIPE.prefix)) == [
        f"{RECIPE.prefix}/manifest.json",
        *(f"{artifact.uri}/{s}" for s in SHARDS),
    ]


def test_of_two_processes_that_make_the_same_thing_one_builds_and_one_finds(store: Store) -> None:
    code = """
import logging, sys
from mistudio.artifacts import Recipe, open_store, produce
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
def build(draft):
    print("building", flush=True)
    sys.stdin.readline()
    draft.write("weights", b"x")
    return {}
print("found" if produce(open_store(sys.argv[1]), Recipe(kind="sae", config={}), "train", build).found else "built")
"""
    command = [sys.executable, "-c", code, store.url]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "building\n"
    second = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert second.stdout is not None
    assert second.stdout.readline().startswith("Another process is working on sae/")
    assert first.communicate("go on\n")[0] == "built\n"
    assert second.communicate("go on\n")[0] == "found\n"
    assert (first.returncode, second.returncode) == (0, 0)


def by_another(store: Store, weights: bytes) -> Callable[[Draft], Summary]:
    """A step during which another, which holds no lease, publishes the same artifact with other weights."""

    def build(draft: Draft) -> Summary:
        other = Draft(store, draft.prefix)
        other.write("weights", b"of the first")
        with draft.stage_work("checkpoint") as path:
            path.write_bytes(b"x")
        content = {"kind": "mistudio.sae/3", "config": RECIPE.config, "seed": 0, "inputs": {}, "summary": {}}
        who = {"producer": Producer(step="train", version="0"), "created_at": "2025-01-01T00:00:00+00:00"}
        manifest = Manifest(**content, **who, files=other.entries())
        assert store.create(f"{draft.prefix}/manifest.json", manifest.to_json())
        draft.write("weights", weights)
        return {}

    return build


def test_of_two_publishers_the_second_returns_what_the_first_published(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    produced = produce(store, RECIPE, "train", by_another(store, b"of the first"))
    assert produced.found
    assert produced.artifact.manifest.created_at == "2025-01-01T00:00:00+00:00"
    assert caplog.messages == []
    assert list(store.list()) == [f"{RECIPE.prefix}/manifest.json", f"{RECIPE.prefix}/weights"]


def test_a_second_publisher_of_other_bytes_is_told_so_and_replaces_nothing(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    produced = produce(store, RECIPE, "train", by_another(store, b"of the second"))
    assert produced.found
    assert produced.artifact.file("weights").read_bytes() == b"of the first"
    assert list(produced.artifact.problems()) == []
    assert caplog.messages == []  # its files were not written, so that what it would publish is the same

    remove_artifact(store, RECIPE.prefix)
    caplog.clear()
    build = by_another(store, b"of the first")
    assert produce(store, RECIPE, "train", lambda draft: {**build(draft), "loss": 1.0}).found
    assert len(caplog.messages) == 1
    assert "was published by another process meanwhile" in caplog.messages[0]


def test_of_artifacts_made_together_one_that_another_published_meanwhile_is_found(store: Store) -> None:
    recipes = [RECIPE, Recipe(kind="sae", config={"k": 9})]
    builds = []

    def build(drafts: dict[int, Draft]) -> dict[int, Summary]:
        builds.append(sorted(drafts))
        drafts[1].write("weights", b"x")
        return {0: by_another(store, b"of the first")(drafts[0]), 1: {}}

    assert [made.found for made in produce_together(store, recipes, "train", build)] == [True, False]
    assert builds == [[0, 1]]


@pytest.mark.parametrize("there", [0, 1, 2])
def test_of_artifacts_made_together_those_that_are_there_are_found_and_the_rest_made(store: Store, there: int) -> None:
    recipes = [Recipe(kind="sae", config={"k": number}) for number in range(3)]
    assert find(store, recipes[there]) is None
    before = produce(store, recipes[there], "train", lambda _draft: {"k": there}).artifact
    missing = [number for number in range(3) if number != there]

    def build(drafts: dict[int, Draft]) -> dict[int, Summary]:
        assert sorted(drafts) == missing
        return {number: {"k": number} for number in drafts}

    produced = produce_together(store, recipes, "train", build)
    assert [made.found for made in produced] == [number == there for number in range(3)]
    assert [made.artifact.manifest.summary["k"] for made in produced] == [0, 1, 2]
    found = find(store, recipes[there])
    assert found is not None
    assert found.digest == before.digest


class CountedStore(LocalStore):
    """Knows which files were read for their hash."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.hashed: list[str] = []

    def sha256(self, name: str) -> str:
        self.hashed.append(name)
        return super().sha256(name)


def test_publication_reads_no_file_that_this_run_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []
    hash_file = store_module.hash_file
    monkeypatch.setattr(store_module, "hash_file", lambda path: (measured.append(path.name), hash_file(path))[1])
    store = CountedStore(tmp_path)

    def build(draft: Draft) -> Summary:
        draft.write("small", b"1")
        with draft.open("streamed") as file:
            file.write(b"22")
        with draft.stage("by-a-library") as path:
            path.write_bytes(b"333")
        with draft.stage_work("checkpoint") as path:
            path.write_bytes(b"4444")
        return {}

    artifact = produce(store, RECIPE, "train", build).artifact
    assert [(entry.path, entry.bytes) for entry in artifact.manifest.files] == [
        ("by-a-library", 3),
        ("small", 1),
        ("streamed", 2),
    ]
    assert store.hashed == []
    assert [name.rpartition("@")[2] for name in measured] == ["by-a-library"]
    assert list(artifact.problems()) == []


def test_a_resumed_run_reads_only_what_the_killed_one_left(tmp_path: Path) -> None:
    store = CountedStore(tmp_path)
    with pytest.raises(Interrupted):
        produce(store, RECIPE, "train", Builder(stop_before=SHARDS[2]))
    produced = produce(store, RECIPE, "train", Builder())
    assert store.hashed == [f"{RECIPE.prefix}/{shard}" for shard in SHARDS[:2]]
    assert list(produced.artifact.problems()) == []


def test_a_file_that_was_written_twice_is_published_as_it_was_last(store: Store) -> None:
    def build(draft: Draft) -> Summary:
        draft.write("weights", b"first")
        draft.write("weights", b"other")
        return {}

    artifact = produce(store, RECIPE, "train", build).artifact
    assert artifact.file("weights").read_bytes() == b"other"


def test_working_files_are_listed_once_however_many_blocks_ask_for_theirs(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Draft(store, RECIPE.prefix)
    for number in range(3):
        first.work_once(f"block-{number}", lambda path: path.write_bytes(b"first"))
    listed: list[str] = []
    stat = store.stat
    monkeypatch.setattr(store, "stat", lambda prefix="": (listed.append(prefix), stat(prefix))[1])
    resumed = Draft(store, RECIPE.prefix)
    for number in range(50):
        resumed.work_once(f"block-{number}", lambda path: path.write_bytes(b"second"))
    assert listed == [f"{RECIPE.prefix}/work"]
    assert len(resumed.work_names()) == 50
    resumed.remove_work("block-0")
    assert not resumed.has_work("block-0")
    assert [resumed.work_file(f"block-{n}").read_bytes() for n in (1, 2, 3, 49)] == [b"first"] * 2 + [b"second"] * 2


def test_what_is_found_in_a_store_that_cannot_be_written_is_returned(store: Store) -> None:
    made = produce(store, RECIPE, "train", Builder()).artifact
    reader = open_store(store.url, "r")
    found = produce(reader, RECIPE, "train", Builder(stop_before=SHARDS[0]))
    assert found.found
    assert found.artifact.digest == made.digest
    assert found.artifact.file(SHARDS[0]).read_bytes() == made.file(SHARDS[0]).read_bytes()
    with pytest.raises(StorageError, match="opened to be read only"):
        produce(reader, Recipe(kind="sae", config={}), "train", Builder())


@pytest.mark.parametrize("path", ["manifest.json", "work/x"])
def test_names_with_another_use_are_no_files_of_an_artifact(store: Store, path: str) -> None:
    with pytest.raises(InputError, match="cannot be called"):
        Draft(store, "sae/1").write(path, b"")
    assert list(store.list()) == []


def test_an_artifact_may_have_a_manifest_of_its_own_in_a_folder(store: Store, publish: Publish) -> None:
    artifact = publish(files={"sub/manifest.json": b"{}"})
    assert artifact.file("sub/manifest.json").read_bytes() == b"{}"
    assert list(artifact_uris(store)) == [artifact.uri]


def test_files_are_read_by_name_and_unknown_names_are_answered_with_the_known(publish: Publish) -> None:
    artifact = publish()
    assert artifact.file("weights").read_bytes() == b"0123456789"
    assert artifact.paths("deep/") == ["deep/table"]
    with pytest.raises(NotFound, match=r"has no file 'weight'; it has deep/table, weights\."):
        artifact.file("weight")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_by_name(publish: Publish, damage: str) -> None:
    change, what = DAMAGES[damage]
    artifact = publish()
    change(artifact.file("weights"))
    with pytest.raises(DamagedArtifact, match=f"{artifact.uri}/weights {what}") as error:
        artifact.file("weights")
    assert f"mistudio artifacts remove {artifact.uri}," in str(error.value)
    assert artifact.file("deep/table").read_bytes() == b"abc"


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damaged_file_is_named_by_a_check_and_no_other(publish: Publish, damage: str) -> None:
    change, what = DAMAGES[damage]
    artifact = publish(files={"a": b"0123456789", "b": b"0123456789", "c": b"0123456789"})
    assert list(artifact.problems()) == []
    for path in ("a", "c"):
        change(artifact.file(path))
    problems = list(artifact.problems())
    assert len(problems) == 2
    for problem, path in zip(problems, ("a", "c"), strict=True):
        assert problem.startswith(f"{artifact.uri}/{path} {what}")


def test_a_check_hashes_again_what_was_read_before(publish: Publish) -> None:
    artifact = publish()
    path = artifact.file("weights")
    before = path.stat()
    flip_a_byte(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # nothing but the content tells
    assert len(list(artifact.problems())) == 1


def test_a_damaged_artifact_is_not_taken_for_the_finished_work_of_a_killed_run(store: Store, publish: Publish) -> None:
    artifact = publish()
    manifest = store.fetch(f"{artifact.uri}/manifest.json")
    manifest.write_bytes(manifest.read_bytes()[:-5])
    with pytest.raises(DamagedArtifact, match=r"manifest\.json is not a valid manifest"):
        publish()


def test_an_artifact_of_another_kind_is_refused(store: Store, publish: Publish) -> None:
    artifact = publish("corpus")
    assert open_artifact(store, artifact.uri, "corpus").digest == artifact.digest
    assert open_artifact(store, f"/{artifact.uri}/").uri == artifact.uri
    with pytest.raises(InputError, match=r"is of kind mistudio\.corpus/\d+, but kind sae is needed here"):
        open_artifact(store, artifact.uri, "sae")


def test_an_input_that_was_replaced_is_refused(store: Store, publish: Publish) -> None:
    artifact = publish()
    assert open_input(store, artifact.ref, "sae").digest == artifact.digest
    replaced = InputRef(uri=artifact.uri, digest="0" * 64)
    with pytest.raises(DamagedArtifact, match=f"has digest {artifact.digest[:12]} instead of 000000000000"):
        open_input(store, replaced, "sae")


def test_published_artifacts_are_listed_at_any_depth_and_part_written_ones_are_not(
    store: Store, publish: Publish
) -> None:
    sae, corpus = publish("sae"), publish("corpus")
    deep = Draft(store, "group/of/artifacts/one")
    deep.write("x", b"")
    store.create("group/of/artifacts/one/manifest.json", sae.manifest.to_json())
    Draft(store, "sae/unfinished").write("shard", b"x")
    expected = sorted([corpus.uri, "group/of/artifacts/one", sae.uri])
    assert list(artifact_uris(store)) == expected
    assert list(artifact_uris(store)) == expected
    assert list(artifact_uris(store, "sae")) == [sae.uri]


def test_listing_looks_at_no_file_of_an_artifact(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish(files={f"deep/{n}/shard": b"x" for n in range(3)})
    listed: list[str] = []
    scandir = os.scandir

    def spy(path: str | Path) -> object:
        listed.append(str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", spy)
    assert list(artifact_uris(store)) == [artifact.uri]
    assert listed == [store.url, f"{store.url}/sae"]


def test_foreign_files_in_the_folder_are_passed_over(store: Store, publish: Publish, tmp_path: Path) -> None:
    artifact = publish()
    root = Path(store.url)
    (root / "a folder" / "x").mkdir(parents=True)
    (root / "a folder" / "x" / "manifest.json").write_text("{}")
    (root / ".DS_Store").write_text("")
    (root / "notes.txt").write_text("")
    (root / "sae" / "loop").symlink_to(root)
    assert list(artifact_uris(store)) == [artifact.uri]
    assert list(artifact.problems()) == []


@pytest.mark.parametrize("damage", [None, "manifest.json", "weights"])
def test_a_removed_artifact_is_gone_whole_or_damaged(store: Store, publish: Publish, damage: str | None) -> None:
    artifact, other = publish(k=1), publish(k=2)
    if damage:
        store.fetch(f"{artifact.uri}/{damage}").write_bytes(b"damaged")
    remove_artifact(store, f"{artifact.uri}/")
    assert list(store.list(artifact.uri)) == []
    assert list(artifact_uris(store)) == [other.uri]
    assert list(other.problems()) == []
    with pytest.raises(NotFound):
        remove_artifact(store, artifact.uri)


def test_a_removal_that_is_killed_leaves_nothing_to_go_on_with(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish()
    remove = store.remove

    def killed(name: str) -> None:
        if name.endswith("weights"):
            raise Interrupted
        remove(name)

    with monkeypatch.context() as patch:
        patch.setattr(store, "remove", killed)
        with pytest.raises(Interrupted):
            remove_artifact(store, artifact.uri)
    with pytest.raises(DamagedArtifact, match="deep/table is missing"):
        publish().file("deep/table")
    remove_artifact(store, artifact.uri)
    assert list(publish().problems()) == []


@pytest.mark.parametrize("uri", ["sae", "sae/nothing", "nothing"])
def test_only_artifacts_are_removed(store: Store, publish: Publish, uri: str) -> None:
    artifact = publish()
    with pytest.raises(NotFound, match=f"{uri} is not an artifact in the store"):
        remove_artifact(store, uri)
    assert list(artifact.problems()) == []
