"""What goes wrong on the way to a bucket is tried again and comes right, or is told at once; nothing is half published.

The server is a real one, behind a proxy that breaks connections, answers that it is busy, or does not answer.
"""

import hashlib
import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistudio.artifacts import Recipe, Store, open_artifact, open_store, produce
from mistudio.artifacts.s3.address import parse_address
from mistudio.artifacts.s3.limits import MIB, Limits
from mistudio.artifacts.s3.store import S3Store
from mistudio.errors import ConfigError, DamagedArtifact, NotFound, StorageError, StorageFull
from tests.support.s3_proxy import Proxy, Rule
from tests.support.s3_server import Access, free_ports

FAST = Limits(
    threads=2, part_bytes=5 * MIB, read_s=20.0, opening_s=5.0, patience_s=30.0, first_wait_s=0.01, longest_wait_s=0.05
)
IMPATIENT = Limits(threads=2, part_bytes=5 * MIB, opening_s=0.3, patience_s=0.3, first_wait_s=0.01, longest_wait_s=0.05)
LARGE = b"".join(hashlib.sha256(b"%d" % block).digest() * (1 << 15) for block in range(12))
EVERY_METHOD = ("GET", "HEAD", "PUT", "POST", "DELETE")


@pytest.fixture
def plain(s3_url: str) -> Store:
    """The store without the proxy."""
    return open_store(s3_url)


@pytest.fixture
def proxy(s3_access: Access, plain: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Before the server that every store opened from now on asks."""
    with Proxy(int(s3_access.endpoint.rpartition(":")[2])) as opened:
        monkeypatch.setenv("AWS_ENDPOINT_URL", opened.url)
        yield opened


@pytest.fixture
def store(s3_url: str, proxy: Proxy) -> S3Store:
    return opened(s3_url)


def opened(url: str, limits: Limits = FAST) -> S3Store:
    return S3Store(parse_address(url), limits=limits)


def put(store: Store, name: str, data: bytes) -> None:
    with store.put(name) as staged, staged.open() as file:
        file.write(data)


def unfinished(store: S3Store) -> int:
    """Uploads that were begun and not ended."""
    return len(store._ask.uploads(store._below(""), "list uploads of"))


def copies(folder: Path) -> int:
    return len(list(folder.glob("entries/*/*")))


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("AWS_SECRET_ACCESS_KEY", "not-this-secret-but-another", "the secret does not belong to the key"),
        ("AWS_ACCESS_KEY_ID", "nobody", "the server does not know the key"),
    ],
)
def test_wrong_keys_are_told_at_once_and_not_shown(
    s3_url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    variable: str, value: str, message: str,
) -> None:  # fmt: skip
    monkeypatch.setenv(variable, value)
    caplog.set_level(logging.DEBUG)
    with pytest.raises(StorageError, match=message) as raised:
        open_store(s3_url)
    shown = f"{raised.value} {raised.value!r} {caplog.text}"
    assert proxy.seen == {"GET": 1}
    assert variable == "AWS_ACCESS_KEY_ID" or value not in shown
    assert "AWS_" in str(raised.value)


def test_no_key_and_half_a_pair_are_told(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not"):
        open_store(s3_url)


def test_certificates_that_are_no_file_are_told(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", "/no/such/file")
    with pytest.raises(ConfigError, match="AWS_CA_BUNDLE='/no/such/file' is no file"):
        open_store(s3_url)


def test_a_server_without_tls_is_told(s3_access: Access, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_access.endpoint.replace("http:", "https:"))
    with pytest.raises(StorageError, match="no secure connection could be made. Check whether AWS_ENDPOINT_URL"):
        open_store(s3_url)


def test_a_bucket_that_is_not_there_is_told_at_once(proxy: Proxy) -> None:
    for mode in ("r", "rw"):
        with pytest.raises(StorageError, match="Cannot open the store s3://no-such-bucket/x at http.*no such bucket"):
            open_store("s3://no-such-bucket/x", mode)
    assert proxy.seen == {"GET": 2}


def test_a_server_that_is_not_there_is_told(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(StorageError, match="nothing answers there.* Set AWS_ENDPOINT_URL"):
        opened(s3_url, IMPATIENT)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://no-such-host.invalid")
    with pytest.raises(StorageError, match="there is no such host. Set AWS_ENDPOINT_URL"):
        open_store(s3_url)


def test_an_upload_that_breaks_off_is_gone_on_with_part_by_part(store: S3Store, proxy: Proxy, plain: Store) -> None:
    proxy.add(Rule("reset", "PUT", 2, "partNumber"), Rule("lost", "PUT", 1, "partNumber"))
    put(store, "x/large", LARGE)
    assert proxy.done == {"reset": 2, "lost": 1}
    assert proxy.seen["PUT"] == 3 + 3  # three parts, and three that broke off
    assert plain.read("x/large") == LARGE
    assert plain.sha256("x/large") == hashlib.sha256(LARGE).hexdigest()
    assert unfinished(store) == 0


@pytest.mark.parametrize("having", ["partNumber", "uploads"])
def test_an_upload_that_fails_for_good_leaves_nothing_and_the_former_file(
    s3_url: str, proxy: Proxy, plain: Store, having: str
) -> None:
    put(plain, "x/large", b"former")
    store = opened(s3_url, IMPATIENT)
    proxy.add(Rule("busy", "PUT" if having == "partNumber" else "POST", 10_000, having))
    with pytest.raises(StorageError, match="Cannot write x/large in .*SlowDown.*Run the same command again"):
        put(store, "x/large", LARGE)
    assert [(file.name, plain.read(file.name)) for file in plain.stat()] == [("x/large", b"former")]
    assert unfinished(store) == 0


def test_an_answer_that_is_lost_is_no_second_write(store: S3Store, proxy: Proxy, plain: Store) -> None:
    store.create("x/before", b"the server's conditions are known by now")
    proxy.add(Rule("lost", "PUT", 1))
    assert store.create("x/manifest.json", b"first")
    assert not store.create("x/manifest.json", b"second")
    assert plain.read("x/manifest.json") == b"first"
    proxy.add(Rule("lost", "POST", 1, "uploadId"))
    put(store, "x/large", LARGE)
    assert plain.read("x/large") == LARGE
    proxy.add(Rule("lost", "PUT", 1))
    with store.lease("x"):
        pass
    assert proxy.done == {"lost": 3}


def test_a_storm_of_busy_answers_is_waited_out(store: S3Store, proxy: Proxy, plain: Store) -> None:
    proxy.add(*(Rule("busy", method, 4) for method in EVERY_METHOD))
    with store.lease("x"):
        put(store, "x/large", LARGE)
        put(store, "x/small", b"small")
        assert store.create("x/manifest.json", b"{}")
    assert [file.name for file in store.stat()] == ["x/large", "x/manifest.json", "x/small"]
    assert store.fetch("x/small").read_bytes() == store.read("x/small") == b"small"
    store.remove("x/small")
    assert plain.find("x/small") is None
    assert proxy.done == {"busy": 4 * len(EVERY_METHOD)}


@pytest.mark.parametrize("fault", ["cut", "slow", "reset", "busy"])
def test_a_file_comes_whole_however_it_is_sent(store: S3Store, proxy: Proxy, plain: Store, fault: str) -> None:
    put(plain, "x/large", LARGE)
    put(plain, "x/small", LARGE[:100_000])
    proxy.add(Rule(fault, "GET", 3))
    assert store.fetch("x/small").read_bytes() == store.read("x/small") == LARGE[:100_000]
    proxy.add(Rule(fault, "GET", 3))
    with store.open("x/large") as file:
        file.seek(7 * MIB)
        assert file.read() == LARGE[7 * MIB :]
    assert proxy.done[fault] >= 3


def test_a_large_file_in_several_parts_comes_whole_when_parts_break_off(
    s3_url: str, store: S3Store, proxy: Proxy, plain: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(plain, "x/large", LARGE)
    proxy.add(Rule("cut", "GET", 4))
    assert store.fetch("x/large").read_bytes() == LARGE
    assert proxy.seen["GET"] >= 3 + 4
    monkeypatch.setenv("MISTUDIO_CACHE", str(tmp_path / "other"))
    failing = opened(s3_url, IMPATIENT)
    proxy.add(Rule("cut", "GET", 10_000))
    with pytest.raises(StorageError, match="Cannot read x/large in .*the connection breaks off"):
        failing.fetch("x/large")
    assert copies(tmp_path / "other") == 0
    assert list((tmp_path / "other" / "new").iterdir()) == []


def test_a_server_that_does_not_answer_is_asked_again(s3_url: str, proxy: Proxy, plain: Store) -> None:
    put(plain, "x/a", b"content")
    store = opened(s3_url, Limits(read_s=0.5, first_wait_s=0.01))
    proxy.add(Rule("stall", "GET", 1), Rule("stall", "HEAD", 1))
    assert store.fetch("x/a").read_bytes() == b"content"
    assert store.read("x/a") == b"content"
    assert proxy.done == {"stall": 2}


def test_a_server_that_goes_away_and_comes_back_stops_nothing(store: S3Store, proxy: Proxy, plain: Store) -> None:
    with store.put("x/large") as staged:
        staged.path.write_bytes(LARGE)
        proxy.away = 12
    proxy.away = 5
    assert store.fetch("x/large").read_bytes() == LARGE
    proxy.away = 5
    assert [file.name for file in store.stat()] == ["x/large"]
    assert plain.read("x/large") == LARGE


def test_an_object_that_was_cut_short_or_changed_in_the_bucket_is_refused_by_name(plain: Store) -> None:
    def build(draft):  # noqa: ANN001, ANN202
        draft.write("weights", b"0123456789")
        draft.write("other", b"0123456789")
        return {}

    uri = produce(plain, Recipe(kind="sae", config={}), "train", build).artifact.uri
    put(plain, f"{uri}/weights", b"01234")
    put(plain, f"{uri}/other", b"012345678x")
    artifact = open_artifact(plain, uri)
    with pytest.raises(DamagedArtifact, match="weights has 5 bytes instead of 10"):
        artifact.file("weights")
    with pytest.raises(DamagedArtifact, match="other has other content than was published"):
        artifact.file("other")
    with pytest.raises(DamagedArtifact, match="instead of 10|has other content"):
        artifact.folder()


def test_a_copy_that_was_damaged_on_this_machine_is_fetched_anew(plain: Store, tmp_path: Path) -> None:
    def build(draft):  # noqa: ANN001, ANN202
        draft.write("weights", b"0123456789")
        return {}

    artifact = produce(plain, Recipe(kind="sae", config={}), "train", build).artifact
    for get in (lambda: artifact.file("weights"), lambda: artifact.folder() / "weights"):
        path = get()
        path.write_bytes(b"012345678x")
        assert get().read_bytes() == b"0123456789"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_cache_that_fills_its_disk_is_emptied_and_the_work_goes_on(
    s3_url: str, plain: Store, small_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        put(plain, f"x/{number}", LARGE[: 9 * MIB])
    put(plain, "x/large", LARGE + LARGE + LARGE)
    monkeypatch.setenv("MISTUDIO_CACHE", str(small_disk))
    store = open_store(s3_url)
    with store.fetch("x/0").open("rb") as first:
        for number in range(4):
            assert store.fetch(f"x/{number}").read_bytes() == LARGE[: 9 * MIB]
        assert first.read() == LARGE[: 9 * MIB]
    assert 1 <= copies(small_disk) <= 2
    with pytest.raises(StorageFull, match=f"No space left for the cache {small_disk}.*MISTUDIO_CACHE"):
        store.fetch("x/large")
    assert store.fetch("x/3").read_bytes() == LARGE[: 9 * MIB]
    with store.open("x/large") as file:
        assert file.read(10) == LARGE[:10]


def test_a_disk_for_staging_that_is_full_is_told_and_nothing_appears(
    s3_url: str, plain: Store, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTUDIO_SCRATCH", str(small_disk))
    store = open_store(s3_url)
    with pytest.raises(StorageFull, match="No space left to write x/large in .*MISTUDIO_SCRATCH"):
        put(store, "x/large", LARGE + LARGE + LARGE)
    assert plain.find("x/large") is None
    put(store, "x/large", LARGE)
    assert plain.read("x/large") == LARGE


def test_what_was_removed_while_it_was_read_is_told(plain: Store) -> None:
    put(plain, "x/a", LARGE)
    with plain.open("x/a") as file:
        file.read(10)
        plain.remove("x/a")
        with pytest.raises(StorageError, match="Cannot read x/a in .*written anew or removed"):
            file.read()
    with pytest.raises(NotFound, match="^x/a is not in the store s3://"):
        plain.fetch("x/a")
