"""The store in a local folder: full disks, folders that cannot be written, and how a store is named."""

import errno
import fcntl
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest

from mistudio.artifacts import (
    Draft,
    Recipe,
    Summary,
    default_store_url,
    open_store,
    open_to_read,
    produce,
    scratch_folder,
    store_url,
)
from mistudio.artifacts.local import LocalStore
from mistudio.errors import ConfigError, InputError, StorageError, StorageFull

RECIPE = Recipe(kind="sae", config={})
# Each writes about 400 kB to ``path`` in the way that a step does.
WRITERS = {
    "plain": "path.write_bytes(bytes(400_000))",
    "arrow": """
import pyarrow as pa
schema = pa.schema([("x", pa.int64())])
with pa.ipc.new_file(str(path), schema) as writer:
    writer.write_batch(pa.record_batch([pa.array(range(50_000))], schema=schema))
""",
    "parquet": """
import pyarrow as pa, pyarrow.parquet as pq
pq.write_table(pa.table({"x": range(50_000)}), path, use_dictionary=False, compression="none")
""",
    "safetensors": """
import torch
from safetensors.torch import save_file
save_file({"x": torch.zeros(100_000)}, path)
""",
    "activations": """
import numpy as np, torch
from mistudio.activations.shards import META_COLUMNS, ShardWriter
meta = {name: np.zeros(6000, np.int32) for name in META_COLUMNS}
with ShardWriter(path, 32, "float16") as writer:
    writer.append(torch.zeros(6000, 32), meta)
""",
}
# No file may grow beyond 100 kB: the write fails as on a full disk, with another error number.
STEP = """
import resource, sys
from mistudio.artifacts import Recipe, open_store, open_to_read, produce
from mistudio.errors import StorageFull

def build(draft):
    if not draft.has("shards/0"):
        draft.write("shards/0", b"small")
    with draft.stage("shards/1") as path:
        exec(sys.argv[2], {"path": path})
    return {}

store = open_store(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    produce(store, Recipe(kind="sae", config={}), "train", build)
except StorageFull as error:
    print(error)
"""


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_named_and_leaves_what_is_finished(tmp_path: Path, writer: str) -> None:
    store = open_store(str(tmp_path))
    command = [sys.executable, "-c", STEP, store.url, WRITERS[writer]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"No space left to write sae/{RECIPE.key}/shards/1 in the store {store.url}.")
    assert "already written stays usable" in done.stdout
    assert list(store.list()) == [f"{RECIPE.prefix}/shards/0"]
    assert not list((tmp_path / ".mistudio" / "staging").iterdir())

    def build(draft: Draft) -> Summary:
        assert draft.file("shards/0").read_bytes() == b"small"
        draft.write("shards/1", b"more room now")
        return {}

    assert produce(store, RECIPE, "train", build).artifact.paths() == ["shards/0", "shards/1"]


@pytest.mark.parametrize("below", ["a-file", "a-file/deep/er", "no-such-folder-in-proc"])
def test_a_folder_that_cannot_be_made_is_refused_with_what_to_do(tmp_path: Path, below: str) -> None:
    (tmp_path / "a-file").write_text("")
    folder = Path("/proc/x/store") if below.startswith("no-such") else tmp_path / below
    with pytest.raises(StorageError, match=f"Cannot open the store {folder}: .*--store or MISTUDIO_STORE"):
        open_store(str(folder))


def test_a_file_where_a_folder_has_to_be_is_an_error_of_the_store(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.create("sae", b"")
    with pytest.raises(StorageError, match="Cannot write sae/1/weights in the store"):
        Draft(store, "sae/1").write("weights", b"x")
    with pytest.raises(StorageError, match="Cannot write sae/1/weights in the store"):
        store.create("sae/1/weights", b"x")


def test_a_name_that_no_disk_takes_is_an_error_of_the_store(tmp_path: Path) -> None:
    store, name = open_store(str(tmp_path)), "x" * 300
    for use in (store.size, store.read, store.remove, lambda name: store.create(name, b"")):
        with pytest.raises(InputError, match=r"'x+… is not a name in the store: .* at most 255") as error:
            use(name)
        assert len(str(error.value)) < 400
    with pytest.raises(InputError, match="1,024 in all"):
        store.size("/".join(["x" * 200] * 6))
    for path, read in product((tmp_path / ("x" * 300), "x" * 3000), (open_store, open_to_read)):
        with pytest.raises(StorageError, match="File name too long") as refused:
            read(str(path))
        assert len(str(refused.value)) < 500


@pytest.mark.parametrize("name", ["x" * 255, "/".join(["y" * 120] * 5), "/".join(["z" * 90] * 3)])
def test_a_long_name_can_be_written_and_leased(tmp_path: Path, name: str) -> None:
    store = open_store(str(tmp_path))
    with store.lease(name), store.put(f"{name}/a") as staged, store.put(f"{name}/b") as other:
        staged.path.write_bytes(b"1")
        other.path.write_bytes(b"2")
    assert store.create(f"{name}/c", b"3")
    assert b"".join(store.read(file) for file in store.list()) == b"123"


def test_whoever_may_look_into_the_store_may_read_what_a_library_wrote_for_its_user_alone(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    with store.put("sae/1/sae.safetensors") as staged:
        staged.path.touch(0o600)
    folder = (tmp_path / "store" / "sae" / "1").stat().st_mode
    assert store.fetch("sae/1/sae.safetensors").stat().st_mode & 0o777 == folder & 0o666


def test_an_error_of_the_block_itself_is_passed_on(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    with pytest.raises(FileNotFoundError), store.put("a") as staged:
        staged.path.write_bytes((tmp_path / "elsewhere" / "nothing").read_bytes())
    with pytest.raises(StorageFull), store.put("a/b"), store.put("a/c"):
        raise StorageFull


def test_one_who_waits_for_a_lease_is_told_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store(str(tmp_path))
    hold = "import sys; from mistudio.artifacts import open_store\n"
    hold += "with open_store(sys.argv[1]).lease('sae/1'): print('held', flush=True); sys.stdin.readline()"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, store.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdout.readline()

    class EndHolder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            holder.communicate("go on\n")

    logger = logging.getLogger("mistudio.progress")
    handler = EndHolder()
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO), store.lease("sae/1"):
            pass
    finally:
        logger.removeHandler(handler)
    assert caplog.messages == ["Another process is working on sae/1: waiting for it."]


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}"])
def test_a_folder_is_named_as_a_path_or_as_a_url(tmp_path: Path, form: str) -> None:
    assert open_store(form.format(tmp_path / "store")).url == str(tmp_path / "store")


def test_a_path_with_a_colon_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store(f"{tmp_path}/run:1").url == f"{tmp_path}/run:1"
    assert open_store("./run:1").url == f"{tmp_path}/run:1"


@pytest.mark.parametrize(
    "url", ["file:", "file://", "FILE:", "file://host/x", "file://x", "file:\0", "~no_such_user", "\0"]
)
def test_a_url_that_names_no_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.chdir(tmp_path)
    for use in (open_store, open_to_read, store_url, scratch_folder):
        with pytest.raises((ConfigError, StorageError)):
            use(url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["gopher://host/x", "run:1", "http:x"])
def test_an_unknown_scheme_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown scheme '{url.partition(':')[0]}'"):
        open_store(url)


def test_an_unknown_home_is_refused() -> None:
    with pytest.raises(StorageError, match="Cannot open the store ~no_such_user/store"):
        open_store("~no_such_user/store")


def test_the_default_store_is_in_the_environment_or_in_the_users_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTUDIO_STORE", str(tmp_path / "mine"))
    assert open_store().url == default_store_url() == str(tmp_path / "mine")
    monkeypatch.delenv("MISTUDIO_STORE")
    assert default_store_url().endswith("mistudio/store")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can reach."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_a_folder_that_cannot_be_written_is_read_and_left_as_it_is(open_folder: Path) -> None:
    """As KServe mounts models; another user, because nothing is read only for root."""
    published = produce(
        open_store(str(open_folder / "store")), RECIPE, "train", lambda draft: draft.write("a", b"1") or {}
    )
    before = sorted(open_folder.rglob("*"))
    read = """
import os, sys
from mistudio.artifacts import open_artifact, open_store, open_to_read, scratch_folder
from mistudio.errors import StorageError
if os.geteuid() == 0:
    os.setgid(65534); os.setuid(65534)
store = open_store(sys.argv[1], "r")
print(open_artifact(store, sys.argv[2]).file("a").read_bytes(), scratch_folder(store).is_relative_to(sys.argv[1]))
for act in (lambda: open_store(sys.argv[1]), lambda: store.create("x", b"")):
    try:
        act()
    except StorageError as error:
        print("refused")
"""
    if os.geteuid() != 0:
        for folder in (open_folder / "store", open_folder / "store" / ".mistudio" / "staging"):
            folder.chmod(0o555)
    command = [sys.executable, "-c", read, str(open_folder / "store"), published.artifact.uri]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "HOME": "/nonexistent"}
    )
    assert done.stdout.splitlines() == ["b'1' False", "refused", "refused"]
    assert sorted(open_folder.rglob("*")) == before


def test_a_store_that_is_read_is_not_made_and_may_be_one_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="none"):
        open_to_read(str(tmp_path / "none"))
    (tmp_path / "mount").mkdir()
    assert open_to_read(str(tmp_path / "mount")).read_only
    assert list(tmp_path.rglob("*")) == [tmp_path / "mount"]
    made = open_store(str(tmp_path / "store"))
    assert not open_to_read(made.url).read_only
    assert not open_to_read(str(tmp_path / "new"), make=True).read_only


def test_a_step_finds_what_a_store_that_cannot_be_written_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object, mode: int) -> bool:
        return mode != os.W_OK

    open_store(str(tmp_path))
    monkeypatch.setattr(os, "access", refuse)
    assert open_to_read(str(tmp_path), make=True).read_only


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.EIO])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(file: object, how: int) -> None:
        raise OSError(code, os.strerror(code))

    store = open_store(str(tmp_path))
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match=r"Cannot lock sae/1 in the store .*no locks of files.*local disk"):
        store.lease("sae/1").__enter__()


def test_a_file_system_without_hard_links_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(source))

    store = open_store(str(tmp_path))
    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError, match="no hard links, which publishing needs"):
        store.create("sae/1/manifest.json", b"")


def test_a_file_system_that_cannot_sync_is_written_to_and_one_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(code: int) -> None:
        def refuse(descriptor: int) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", refuse)

    store = open_store(str(tmp_path))
    fail(errno.EINVAL)
    Draft(store, "sae/1").write("weights", b"x")
    fail(errno.EIO)
    with pytest.raises(StorageError, match="Cannot write sae/1/weights in the store .*Input/output error"):
        Draft(store, "sae/1").write("weights", b"y")


def by_a_library(draft: Draft) -> None:
    """Writes as libraries do whose errors do not name the file."""
    with draft.stage("shards/1") as path:
        try:
            path.write_bytes(b"x")
        except OSError as error:
            raise OSError(error.errno, "Failed to open local file") from error


WHILE_GONE: dict[str, Callable[[Draft], object]] = {
    "a file": lambda draft: draft.write("shards/1", b"x"),
    "by a library": by_a_library,
    "a checkpoint": lambda draft: draft.work_once("checkpoint", lambda path: path.write_bytes(b"x")),
    "nothing more": lambda draft: None,
}


@pytest.mark.parametrize("mounted", [True, False])
@pytest.mark.parametrize("way", WHILE_GONE)
def test_a_store_that_vanishes_while_a_step_runs_is_named_and_not_made_anew(
    tmp_path: Path, way: str, mounted: bool
) -> None:
    """Removed, or unmounted, which leaves an empty folder."""
    store = open_store(str(tmp_path / "store"))

    def build(draft: Draft) -> Summary:
        draft.write("shards/0", b"x")
        (tmp_path / "store").rename(tmp_path / "moved")
        if mounted:
            (tmp_path / "store").mkdir()
        WHILE_GONE[way](draft)
        return {}

    with pytest.raises(StorageError, match="(in|from) the store"):
        produce(store, RECIPE, "train", build)
    assert (tmp_path / "store").exists() == mounted
    assert not mounted or list((tmp_path / "store").iterdir()) == []


def test_a_store_that_vanished_is_not_an_empty_one(tmp_path: Path) -> None:
    for mode in ("rw", "r"):
        (tmp_path / "store").mkdir()
        store = open_store(str(tmp_path / "store"), mode)  # type: ignore[arg-type]
        shutil.rmtree(tmp_path / "store")
        with pytest.raises(StorageError, match="removed, moved or unmounted since it was opened"):
            list(store.list())


def test_files_that_vanish_while_a_step_runs_are_no_part_left_out(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))

    def build(draft: Draft) -> Summary:
        draft.write("shards/0", b"x")
        draft.write("shards/1", b"x")
        store.remove(f"{draft.prefix}/shards/0")
        return {}

    with pytest.raises(StorageError, match="shards/0 was removed from the store .* while the step ran"):
        produce(store, RECIPE, "train", build)
    assert not store.size(f"{RECIPE.prefix}/manifest.json")


def test_removing_a_file_removes_the_folders_it_leaves_empty_and_no_others(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for name in ("sae/1/deep/er/a", "sae/1/b", "sae/2/c"):
        assert store.create(name, b"")

    def folders() -> set[str]:
        found = (path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_dir())
        return {name for name in found if not name.startswith(".mistudio")}

    store.remove("sae/1/deep/er/a")
    assert folders() == {"sae", "sae/1", "sae/2"}
    store.remove("sae/1/b")
    assert folders() == {"sae", "sae/2"}
    store.remove("sae/2/c")
    assert folders() == {"sae"}  # one at the top stays: another process may be about to write there
    assert store.create("top", b"")
    store.remove("top")
    assert folders() == {"sae"}
    assert tmp_path.is_dir()


def test_what_killed_writers_left_is_dropped_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    staging = tmp_path / ".mistudio" / "staging"

    def leave(*names: str) -> None:
        for name in names:
            (staging / name).write_bytes(b"half")
            os.utime(staging / name, (0, 0))

    leave("sae@1@weights", "sae@2@weights", "sae@3@shards@0", "refs@sae@champion@00000001@abc", "0123")
    (staging / "young").write_bytes(b"half")
    with store.lease("sae/1"):
        assert open_store(store.url).sweep() == 4
        assert {path.name for path in staging.iterdir()} == {"young", "sae@1@weights"}
        leave("sae@10@weights")
        assert store.sweep("sae/1") == 1
    assert {path.name for path in staging.iterdir()} == {"young", "sae@10@weights"}
    assert store.sweep() == 1


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (OSError(errno.ENOSPC, "no space"), True),
        (OSError(errno.EDQUOT, "quota"), True),
        (RuntimeError(f"I/O error (os error {errno.ENOSPC})"), True),
        (RuntimeError(f"I/O error (os error {errno.EACCES})"), False),
        (RuntimeError("another trouble"), False),
        (OSError(errno.EIO, "broken"), False),
    ],
)
def test_only_a_full_disk_is_called_one(tmp_path: Path, error: Exception, is_full: bool) -> None:
    with pytest.raises(StorageFull if is_full else type(error)), LocalStore(tmp_path).put("a/b"):
        raise error
