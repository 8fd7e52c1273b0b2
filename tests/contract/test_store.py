"""What every store does, whatever it keeps its files in.

A new kind of store adds a factory to ``FACTORIES``: a function that gives the URL of an empty store, from fixtures.
"""

import hashlib
import mmap
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from mistudio.artifacts import Store, hash_file, open_store
from mistudio.artifacts import store as store_module
from mistudio.errors import InputError, NotFound, StorageError

FACTORIES: dict[str, Callable[[pytest.FixtureRequest], str]] = {
    "local": lambda request: str(request.getfixturevalue("tmp_path") / "store"),
    "s3": lambda request: request.getfixturevalue("s3_url"),
}

GOOD_NAMES = ("a", "_x", "0", "A-1.b_c", "a..b", "kind/0123abcd/deep/er/file.arrow")
BAD_NAMES = (
    "",
    "/etc/passwd",
    "..",
    "../x",
    "a/../b",
    "a/..",
    "./a",
    "a//b",
    "a/",
    ".hidden",
    "a/.hidden",
    "-x",
    "x\n",
    "a\n/b",
    "a b",
    "a\x00b",
    "a\\b",
    "C:x",
    "~root",
    "a@b",
    "ä",
)


@pytest.fixture(params=FACTORIES)
def url(request: pytest.FixtureRequest) -> str:
    return FACTORIES[request.param](request)


@pytest.fixture
def store(url: str) -> Store:
    return open_store(url)


def put(store: Store, name: str, data: bytes = b"x") -> None:
    with store.put(name) as staged:
        staged.path.write_bytes(data)


def fail_halfway(store: Store, name: str) -> None:
    with store.put(name) as staged:
        staged.path.write_bytes(b"half")
        raise ZeroDivisionError


def child(code: str, url: str, *arguments: str) -> "subprocess.Popen[str]":
    """Another process that runs ``code`` with the store open as ``store``."""
    start = "import sys; from mistudio.artifacts import open_store; store = open_store(sys.argv[1])\n"
    command = [sys.executable, "-c", start + code, url, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for_line(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{line}\n"


def kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_a_file_appears_when_its_block_ends_and_not_before(store: Store, url: str) -> None:
    with store.put("sae/1/weights") as staged:
        staged.path.write_bytes(b"half")
        for seen in (store, open_store(url)):
            assert seen.size("sae/1/weights") is None
            assert list(seen.list()) == []
            with pytest.raises(NotFound):
                seen.fetch("sae/1/weights")
        staged.path.write_bytes(b"whole")
    for seen in (store, open_store(url)):
        assert seen.size("sae/1/weights") == 5
        assert seen.fetch("sae/1/weights").read_bytes() == b"whole"


def test_an_exception_in_the_block_leaves_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_halfway(store, "sae/1/weights")
    assert store.size("sae/1/weights") is None
    assert list(store.list()) == []
    assert list(store.folders()) == []


def test_an_exception_in_the_block_leaves_the_former_file(store: Store) -> None:
    put(store, "a", b"former")
    with pytest.raises(ZeroDivisionError):
        fail_halfway(store, "a")
    assert store.fetch("a").read_bytes() == b"former"


def test_a_writer_that_is_killed_leaves_nothing_and_the_next_starts_anew(store: Store, url: str) -> None:
    write = "with store.put('a') as staged:\n staged.path.write_bytes(b'half')\n"
    write += " print('written', flush=True); sys.stdin.read()"
    writer = child(write, url)
    wait_for_line(writer, "written")
    kill(writer)
    assert list(store.list()) == []
    assert store.size("a") is None
    with store.put("a") as staged:
        assert not staged.path.exists()
        staged.path.write_bytes(b"whole")
    assert store.fetch("a").read_bytes() == b"whole"


def test_a_reader_sees_one_version_or_the_next_and_never_a_mixture(store: Store) -> None:
    size = 1 << 18
    put(store, "a", bytes(size))
    done = threading.Event()

    def write() -> None:
        for version in range(1, 40):
            put(store, "a", bytes([version]) * size)
        done.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        seen = set()
        while not done.is_set() and not writing.done():
            data = store.fetch("a").read_bytes()
            assert len(data) == size
            assert len(set(data)) == 1
            seen.add(data[0])
        writing.result()
    assert store.fetch("a").read_bytes() == bytes([39]) * size
    assert seen


def test_two_files_can_be_staged_at_once(store: Store) -> None:
    with store.put("x/a") as first, store.put("x/b") as second:
        first.path.write_bytes(b"1")
        second.path.write_bytes(b"2")
    assert [store.fetch(name).read_bytes() for name in ("x/a", "x/b")] == [b"1", b"2"]


def test_create_writes_a_file_once(store: Store) -> None:
    assert store.create("x/manifest.json", b"first")
    assert not store.create("x/manifest.json", b"second")
    assert store.fetch("x/manifest.json").read_bytes() == b"first"
    assert list(store.list()) == ["x/manifest.json"]


def test_of_many_that_create_the_same_file_at_once_one_succeeds(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        wrote = list(pool.map(lambda n: store.create("x/manifest.json", b"%d" % n), range(32)))
    assert sum(wrote) == 1
    assert store.fetch("x/manifest.json").read_bytes() == b"%d" % wrote.index(True)


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_file_is_found_under_its_name(store: Store, name: str) -> None:
    put(store, name, name.encode())
    assert store.fetch(name).read_bytes() == name.encode()
    assert store.size(name) == len(name)
    assert list(store.list()) == [name]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_could_leave_the_store_is_refused_everywhere(store: Store, name: str) -> None:
    uses: list[Callable[[], object]] = [
        lambda: store.put(name).__enter__(),
        lambda: store.create(name, b""),
        lambda: store.fetch(name),
        lambda: store.open(name),
        lambda: store.read(name),
        lambda: store.sha256(name),
        lambda: store.find(name),
        lambda: store.size(name),
        lambda: store.remove(name),
        lambda: store.lease(name).__enter__(),
    ]
    if name:  # the empty prefix is the whole store
        uses += [
            lambda: list(store.stat(name)),
            lambda: list(store.list(name)),
            lambda: list(store.folders(name)),
            lambda: list(store.outermost("file", name)),
        ]
    for use in uses:
        with pytest.raises(InputError, match="is not a name in the store"):
            use()


def test_names_are_listed_in_the_order_of_whole_names(store: Store) -> None:
    names = ["a-b/x", "a.b/x", "a/b/c", "a/x", "a0", "ab/x", "b"]
    for name in reversed(names):
        put(store, name)
    assert list(store.list()) == names == sorted(names)


def test_a_prefix_is_whole_parts_of_a_name(store: Store) -> None:
    for name in ("sae/ab/1", "sae/ab/deep/2", "sae/abc/3", "sae/a", "saes/4"):
        put(store, name)
    assert list(store.list("sae/ab")) == ["sae/ab/1", "sae/ab/deep/2"]
    assert list(store.list("sae")) == ["sae/a", "sae/ab/1", "sae/ab/deep/2", "sae/abc/3"]
    assert list(store.list("sae/a")) == []
    assert list(store.list("nothing/here")) == []


def test_folders_are_those_directly_below_a_prefix(store: Store) -> None:
    for name in ("sae/ab/1", "sae/ab/deep/2", "sae/abc/3", "sae/a", "top", "x/y/z"):
        put(store, name)
    assert list(store.folders()) == ["sae", "x"]
    assert list(store.folders("sae")) == ["sae/ab", "sae/abc"]
    assert list(store.folders("sae/a")) == []
    assert list(store.folders("nothing/here")) == []


def test_files_can_be_removed_while_they_are_listed(store: Store) -> None:
    names = [f"x/{n}/file" for n in range(5)]
    for name in names:
        put(store, name)
    for name in store.list():
        store.remove(name)
    assert list(store.list()) == []


def test_a_removed_file_is_gone_and_others_stay(store: Store) -> None:
    put(store, "x/a")
    put(store, "x/b")
    store.remove("x/a")
    store.remove("x/a")
    store.remove("never/was")
    assert list(store.list()) == ["x/b"]
    assert store.size("x/a") is None
    store.remove("x/b")
    assert list(store.list()) == []
    put(store, "x/a", b"again")
    assert store.fetch("x/a").read_bytes() == b"again"


def test_what_is_not_there_has_no_size_and_is_named_when_fetched(store: Store) -> None:
    put(store, "x/a")
    for name in ("x", "x/b", "x/a/b"):
        assert store.size(name) is None
        with pytest.raises(NotFound, match=f"^{name} is not in the store"):
            store.fetch(name)


def test_a_fetched_file_can_be_memory_mapped(store: Store) -> None:
    put(store, "x/a", b"0123456789")
    with store.fetch("x/a").open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped[3:6] == b"345"


def test_a_folder_is_fetched_with_its_files_as_they_are_now(store: Store) -> None:
    for name, data in (("m/1/config.json", b"{}"), ("m/1/deep/weights", b"0123"), ("m/2/config.json", b"other")):
        put(store, name, data)
    folder = store.fetch_folder("m/1", ["config.json", "deep/weights"])
    assert [(folder / name).read_bytes() for name in ("config.json", "deep/weights")] == [b"{}", b"0123"]
    put(store, "m/1/config.json", b"anew")
    assert (store.fetch_folder("m/1", ["config.json"]) / "config.json").read_bytes() == b"anew"
    assert (store.fetch_folder("m/1", ["config.json"], anew=True) / "config.json").read_bytes() == b"anew"
    assert store.fetch("m/1/config.json", anew=True).read_bytes() == b"anew"
    with pytest.raises(NotFound, match="^m/1/none is not in the store"):
        store.fetch_folder("m/1", ["config.json", "none"])


def test_many_threads_write_and_read_side_by_side(store: Store) -> None:
    def both(number: int) -> bytes:
        put(store, f"x/{number}", b"%d" % number)
        return store.fetch(f"x/{number}").read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(both, range(32))) == [b"%d" % number for number in range(32)]


def test_a_large_file_comes_back_as_it_was_written(store: Store) -> None:
    written, read = hashlib.sha256(), hashlib.sha256()
    with store.put("x/large") as staged, staged.open() as handle:
        for block in range(48):
            data = hashlib.sha256(bytes([block])).digest() * (1 << 15)
            written.update(data)
            handle.write(data)
    assert store.size("x/large") == 48 << 20
    with store.fetch("x/large").open("rb") as handle:
        while data := handle.read(1 << 20):
            read.update(data)
    assert read.digest() == written.digest()


def test_a_lease_keeps_other_processes_out(store: Store, url: str) -> None:
    put(store, "counter", b"0")
    count = """
for _ in range(20):
    with store.lease("x/y"):
        value = int(store.fetch("counter").read_bytes())
        with store.put("counter") as staged:
            staged.path.write_bytes(str(value + 1).encode())
"""
    processes = [child(count, url) for _ in range(3)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert store.fetch("counter").read_bytes() == b"60"


@pytest.mark.timeout(60)
def test_a_lease_ends_with_its_process_even_when_that_is_killed(store: Store, url: str) -> None:
    holder = child("with store.lease('x/y'):\n print('held', flush=True); sys.stdin.read()", url)
    wait_for_line(holder, "held")
    kill(holder)
    with store.lease("x/y"):
        pass


@pytest.mark.timeout(60)
def test_a_lease_is_free_again_after_an_exception(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.lease("x/y"):
        raise ZeroDivisionError
    with store.lease("x/y"):
        pass


@pytest.mark.timeout(60)
def test_prefixes_that_read_alike_have_leases_of_their_own(store: Store) -> None:
    with store.lease("a/b.c"), store.lease("a.b/c"), store.lease("a.b.c"), store.lease("a_b/c"):
        pass


def test_leases_and_unfinished_writes_are_not_listed(store: Store) -> None:
    with store.lease("x/y"), store.put("x/y/a") as staged:
        staged.path.write_bytes(b"half")
        assert list(store.list()) == []
        assert list(store.folders()) == []


def test_a_listing_tells_sizes_too(store: Store) -> None:
    for name, data in (("x/a", b"1"), ("x/deep/b", b"22"), ("y", b"333")):
        put(store, name, data)
    assert [(file.name, file.num_bytes) for file in store.stat()] == [("x/a", 1), ("x/deep/b", 2), ("y", 3)]
    assert list(store.stat("x")) == [store.find("x/a"), store.find("x/deep/b")]
    assert store.find("x") is None


def test_a_file_that_was_written_anew_has_another_version(store: Store, url: str) -> None:
    put(store, "x/a", b"1")
    first = store.find("x/a")
    assert first is not None
    assert open_store(url).find("x/a") == first
    put(store, "x/a", b"2")
    second = store.find("x/a")
    assert second is not None
    assert (second.name, second.num_bytes) == (first.name, first.num_bytes)
    assert second.version != first.version


def test_an_open_file_is_read_from_anywhere(store: Store) -> None:
    put(store, "x/a", bytes(range(256)) * 4096)
    with store.open("x/a") as file:
        assert file.seek(-3, 2) == (1 << 20) - 3
        assert file.read() == b"\xfd\xfe\xff"
        file.seek(70_000)
        assert file.read(2) == bytes([70_000 % 256, 70_001 % 256])
        assert file.tell() == 70_002
    assert store.read("x/a") == bytes(range(256)) * 4096
    for read in (store.open, store.read, store.sha256):
        with pytest.raises(NotFound, match=r"^x/b is not in the store"):
            read("x/b")


def test_a_file_is_hashed_as_it_is_written_and_not_read_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "hash_file", None)
    data = b"0123456789" * 1000
    with store.put("x/a") as staged:
        with staged.open() as file:
            for start in range(0, len(data), 999):
                file.write(data[start : start + 999])
        assert staged.measure() == (len(data), hashlib.sha256(data).hexdigest())
    assert store.sha256("x/a") == hashlib.sha256(data).hexdigest()


def test_a_file_that_a_library_wrote_is_measured_as_it_is(store: Store) -> None:
    with store.put("x/a") as staged:
        staged.path.write_bytes(b"by name")
        assert staged.measure() == (7, hashlib.sha256(b"by name").hexdigest())
    with store.put("x/b") as staged:
        with staged.open() as file:
            file.write(b"begun")
        with staged.path.open("ab") as more:
            more.write(b", and gone on by name")
        assert staged.measure() == (26, hashlib.sha256(b"begun, and gone on by name").hexdigest())
    assert store.sha256("x/b") == hash_file(store.fetch("x/b"))


def test_a_staged_file_can_be_given_up(store: Store) -> None:
    put(store, "x/a", b"former")
    for name in ("x/a", "x/b"):
        with store.put(name) as staged:
            staged.path.write_bytes(b"never")
            staged.discard()
    assert [(file.name, store.read(file.name)) for file in store.stat()] == [("x/a", b"former")]


def test_the_outermost_files_of_a_name_are_found_and_what_is_below_them_is_not(store: Store) -> None:
    for name in ("sae/1/m.json", "sae/1/sub/m.json", "sae/2/other", "a/b/c/m.json", "refs/x/m.json", "m.json"):
        put(store, name)
    assert [file.name for file in store.outermost("m.json")] == ["a/b/c/m.json", "refs/x/m.json", "sae/1/m.json"]
    assert [file.name for file in store.outermost("m.json", skip=("refs",))] == ["a/b/c/m.json", "sae/1/m.json"]
    assert list(store.outermost("m.json", "sae")) == [store.find("sae/1/m.json")]


def test_a_store_that_is_opened_to_read_shows_everything_and_refuses_every_change(store: Store, url: str) -> None:
    put(store, "x/a", b"content")
    reader = open_store(url, "r")
    assert (store.read_only, reader.read_only) == (False, True)
    assert reader.url == store.url
    assert reader.fetch("x/a").read_bytes() == reader.read("x/a") == b"content"
    assert list(reader.stat()) == list(store.stat())
    assert list(reader.folders()) == ["x"]
    changes: list[Callable[[], object]] = [
        lambda: reader.put("x/a").__enter__(),
        lambda: reader.create("x/b", b""),
        lambda: reader.remove("x/a"),
        lambda: reader.lease("x").__enter__(),
    ]
    for change in changes:
        with pytest.raises(StorageError, match="opened to be read only"):
            change()
    assert store.read("x/a") == b"content"


def test_opening_to_read_makes_nothing_and_refuses_what_is_not_there(url: str) -> None:
    with pytest.raises(StorageError, match="Cannot open the store"):
        open_store(url, "r")
    with pytest.raises(StorageError, match="Cannot open the store"):
        open_store(url, "r")
