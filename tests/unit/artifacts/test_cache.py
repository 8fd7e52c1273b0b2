"""Copies of files: whole or not there, within a size, shared by processes, and not pulled away from who uses them."""

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mistudio.artifacts import cache as cache_module
from mistudio.artifacts.cache import FileCache, default_folder, default_limit
from mistudio.errors import ConfigError, StorageError

KB = 1000


def content(size: int, *, name: str = "file", made: list[str] | None = None) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).write_bytes(bytes(size))
        if made is not None:
            made.append(name)

    return make


@pytest.fixture
def cache(tmp_path: Path) -> FileCache:
    return FileCache(tmp_path / "cache", 100 * KB)


def entries(cache: FileCache) -> int:
    return sum(1 for _ in cache._all())


def test_an_entry_is_made_once_and_then_found(cache: FileCache) -> None:
    made: list[str] = []
    first = cache.entry("a", KB, content(KB, made=made))
    assert cache.entry("a", KB, content(KB, made=made)) == first
    assert FileCache(cache.folder, cache.limit).entry("a", KB, content(KB, made=made)) == first
    assert made == ["file"]
    assert (first / "file").stat().st_size == KB
    assert cache.entry("b", KB, content(KB)) != first


def test_of_many_threads_that_want_the_same_one_makes_it(cache: FileCache) -> None:
    made: list[str] = []
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: cache.entry("a", KB, content(KB, made=made)), range(32)))
    assert len(paths) == len(made) == 1


def test_what_fails_while_it_is_made_leaves_nothing(cache: FileCache) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cache.entry("a", KB, fail)
    assert entries(cache) == 0
    assert list((cache.folder / "new").iterdir()) == []


def test_what_was_used_longest_ago_goes_first(cache: FileCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_HELD_FILES", 1)
    paths = {name: cache.entry(name, 30 * KB, content(30 * KB)) for name in "abc"}
    cache.entry("a", 30 * KB, content(30 * KB))
    paths |= {"d": cache.entry("d", 30 * KB, content(30 * KB))}
    assert {name for name, path in paths.items() if path.exists()} == {"a", "c", "d"}


def test_it_holds_no_more_than_its_limit_also_when_others_add_to_it(
    cache: FileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_HELD_FILES", 1)
    other = FileCache(cache.folder, cache.limit)
    for number in range(100):
        (cache if number % 2 else other).entry(str(number), 5 * KB, content(5 * KB))
        held = sum(entry.num_bytes for entry in cache._all())
        assert held <= cache.limit * (1 + 2 * cache_module._COUNTED_ANEW) + 2 * 5 * KB
    assert entries(cache) >= 15


def test_what_another_process_has_just_used_stays_and_goes_when_it_ends(cache: FileCache) -> None:
    code = (
        "import sys; from pathlib import Path; from mistudio.artifacts.cache import FileCache\n"
        "cache = FileCache(Path(sys.argv[1]), 100_000)\n"
        "print(cache.entry('a', 60_000, lambda new: print(file=(new / 'x').open('w'))), flush=True)\n"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(cache.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        cache.entry("b", 60 * KB, content(60 * KB))
        assert path.is_dir()
        process.kill()
    cache.entry("c", 60 * KB, content(60 * KB))
    assert not path.is_dir()


def test_an_entry_that_is_made_anew_just_before_it_is_dropped_stays(
    cache: FileCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.entry("a", KB, content(KB))
    (old,) = cache._all()
    other = FileCache(cache.folder, cache.limit)
    flock = cache_module.fcntl.flock

    def lock_late(file: int, operation: int) -> None:
        """Between the opening of an entry and its lock, another process drops it and makes it anew."""
        monkeypatch.setattr(cache_module.fcntl, "flock", flock)
        other.drop("a")
        other.entry("a", KB, content(KB))
        flock(file, operation)

    cache_module._let_go_of_all(cache._held)
    monkeypatch.setattr(cache_module.fcntl, "flock", lock_late)
    assert not FileCache(cache.folder, cache.limit)._drop_unheld(old)
    assert (old.path / "file").exists()


def test_an_entry_that_another_has_made_anew_is_held_as_the_first_was(cache: FileCache) -> None:
    cache.entry("a", KB, content(KB))
    other = FileCache(cache.folder, cache.limit)
    other.drop("a")
    other.entry("a", KB, content(KB))
    path = cache.entry("a", KB, content(KB))
    other.empty()
    assert (path / "file").exists()


def test_a_file_that_is_open_stays_readable_when_its_entry_is_dropped(cache: FileCache) -> None:
    path = cache.entry("a", KB, content(KB)) / "file"
    with path.open("rb") as file:
        assert cache.drop("a")
        assert not path.exists()
        assert file.read() == bytes(KB)
    assert not cache.drop("a")
    assert (cache.entry("a", KB, content(KB)) / "file").exists()


def test_what_is_to_be_kept_stays_for_as_long_as_the_process_lives(cache: FileCache) -> None:
    path = cache.entry("model", 30 * KB, content(30 * KB), keep=True)
    for number in range(10):
        cache.entry(str(number), 40 * KB, content(40 * KB))
    cache.empty()
    assert (path / "file").exists()
    assert entries(cache) == 1
    assert cache.drop("model")
    assert (cache.entry("model", 30 * KB, content(30 * KB), keep=True) / "file").exists()


def test_one_entry_that_is_larger_than_the_limit_is_kept_until_the_next(cache: FileCache) -> None:
    path = cache.entry("a", 300 * KB, content(300 * KB))
    assert (path / "file").exists()
    cache.entry("b", KB, content(KB))
    cache.entry("c", 50 * KB, content(50 * KB))
    cache.entry("d", 50 * KB, content(50 * KB))
    assert not path.exists()


def test_what_a_killed_process_left_half_made_is_dropped(cache: FileCache) -> None:
    (cache.folder / "new" / "left").mkdir(parents=True)
    (cache.folder / "new" / "left" / "half").write_bytes(b"half")
    cache.entry("a", KB, content(KB))
    assert list((cache.folder / "new").iterdir()) == []


def test_a_file_that_was_staged_beside_it_is_taken_over(cache: FileCache, tmp_path: Path) -> None:
    staged = tmp_path / "staged"
    staged.write_bytes(b"content")
    cache.adopt("a", staged, "weights")
    assert not staged.exists()
    path = cache.entry("a", 7, lambda _folder: pytest.fail("it is there"))
    assert (path / "weights").read_bytes() == b"content"


def test_dropping_while_others_use_entries_never_shows_half_of_one(cache: FileCache) -> None:
    ended = threading.Event()

    def drop() -> None:
        while not ended.is_set():
            cache.drop("a")
            cache.empty()

    with ThreadPoolExecutor(1) as pool:
        dropping = pool.submit(drop)
        try:
            for _ in range(200):
                path = cache.entry("a", KB, content(KB))
                try:
                    assert len((path / "file").read_bytes()) == KB
                except FileNotFoundError:  # dropped as a damaged copy would be, whoever uses it
                    continue
        finally:
            ended.set()
        dropping.result()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written: .*MISTUDIO_CACHE"):
        FileCache(tmp_path / "file" / "cache", KB).entry("a", 1, content(1))


def test_folder_and_limit_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    for name in ("MISTUDIO_CACHE", "MISTUDIO_SCRATCH", "MISTUDIO_CACHE_GB"):
        monkeypatch.delenv(name, raising=False)
    assert default_folder() == tmp_path / "xdg" / "mistudio" / "files"
    assert default_limit() == 20_000_000_000
    monkeypatch.setenv("MISTUDIO_SCRATCH", str(tmp_path / "scratch"))
    assert default_folder() == tmp_path / "scratch" / "files"
    monkeypatch.setenv("MISTUDIO_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("MISTUDIO_CACHE_GB", "0.5")
    assert default_folder() == tmp_path / "mine"
    assert default_limit() == 500_000_000
    for wrong in ("0", "-1", "much", "nan", "inf"):
        monkeypatch.setenv("MISTUDIO_CACHE_GB", wrong)
        with pytest.raises(ConfigError, match="MISTUDIO_CACHE_GB=.*is no number"):
            default_limit()
