"""What a bucket's store does beyond what every store does; what URLs and the environment may say."""

import json
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mistudio.artifacts import Store, open_if_there, open_store, open_to_read, scratch_folder, store_url
from mistudio.artifacts.s3 import credentials, lease, sweeping, writers
from mistudio.artifacts.s3 import store as s3_store
from mistudio.artifacts.s3.address import endpoint, parse_address, region
from mistudio.artifacts.s3.credentials import provider
from mistudio.artifacts.s3.limits import MIB, Limits
from mistudio.artifacts.s3.store import S3Store
from mistudio.errors import ConfigError, StorageError
from tests.support import s3_server


def put(store: Store, name: str, data: bytes = b"x") -> None:
    with store.put(name) as staged:
        staged.path.write_bytes(data)


@pytest.fixture
def store(s3_url: str) -> S3Store:
    return S3Store(parse_address(s3_url))


@pytest.mark.parametrize(
    ("url", "bucket", "prefix"),
    [
        ("s3://bucket", "bucket", ""),
        ("S3://bucket/", "bucket", ""),
        ("s3://my.bucket-1/a/b_c/", "my.bucket-1", "a/b_c"),
    ],
)
def test_a_url_names_bucket_and_prefix(url: str, bucket: str, prefix: str) -> None:
    assert parse_address(url) == (bucket, prefix)
    assert store_url(url) == f"s3://{bucket}/{prefix}".rstrip("/")
    assert scratch_folder(url) == scratch_folder(store_url(url))


@pytest.mark.parametrize(
    "url",
    ["s3:", "s3:bucket", "s3://", "s3:///x", "s3://a", "s3://Bucket/x", "s3://bu_cket", "s3://b..d", "s3://10.0.0.1/x",
     "s3://bucket/../x", "s3://bucket/.x", "s3://bucket/a//b", "s3://bucket/a b", "s3://bucket:9000/x"],
)  # fmt: skip
def test_a_url_that_names_no_folder_of_a_bucket_is_refused(url: str) -> None:
    for use in (open_store, open_to_read, store_url, scratch_folder):
        with pytest.raises(ConfigError, match="^store 's3:.*(names no bucket|has the prefix)"):
            use(url)


def test_keys_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="holds a user or a key.*AWS_SECRET_ACCESS_KEY") as raised:
        open_store("s3://" + "some-user:some-word" + "@bucket/x")
    assert "some-" not in str(raised.value)


def test_the_endpoint_comes_from_the_environment() -> None:
    assert endpoint({}).url == "https://s3.amazonaws.com"
    assert endpoint({"AWS_ENDPOINT_URL": " http://minio:9000/ "}).url == "http://minio:9000"
    assert endpoint({"AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_S3": "https://b"}).url == "https://b"
    assert region({}) is None
    assert region({"AWS_ENDPOINT_URL": "http://a"}) == "us-east-1"
    assert region({"AWS_REGION": "r", "AWS_DEFAULT_REGION": "d"}) == "r"


@pytest.mark.parametrize(
    "url",
    ["minio:9000", "ftp://host", "http://", "http://host:port", "http://host/path", "http://host?x", "http://[::1"],
)
def test_an_endpoint_that_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="^AWS_ENDPOINT_URL=.* is no address"):
        endpoint({"AWS_ENDPOINT_URL": url})


def test_keys_in_an_endpoint_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="holds a user or a key") as raised:
        endpoint({"AWS_ENDPOINT_URL": "http://" + "some-user:some-word" + "@host"})
    assert "some-" not in str(raised.value)


def test_keys_come_from_the_environment_without_the_line_break_of_a_mounted_file() -> None:
    keys = {"AWS_ACCESS_KEY_ID": "id\n", "AWS_SECRET_ACCESS_KEY": "secret\n", "AWS_SESSION_TOKEN": "token\n"}
    found = provider(None, keys).retrieve()
    assert (found.access_key, found.secret_key, found.session_token) == ("id", "secret", "token")
    with pytest.raises(ConfigError, match="AWS_SECRET_ACCESS_KEY is set and AWS_ACCESS_KEY_ID is not"):
        provider(None, {name: value for name, value in keys.items() if name != "AWS_ACCESS_KEY_ID"})


class RoleServer(ThreadingHTTPServer):
    """Gives keys to who asks as a container or with a token does; the first that asks is told to come again."""

    def __init__(self, access: s3_server.Access) -> None:
        super().__init__(("127.0.0.1", 0), RoleHandler)
        self.access, self.asked = access, 0
        self.url = f"http://127.0.0.1:{self.server_port}"


class RoleHandler(BaseHTTPRequestHandler):
    server: RoleServer

    def do_GET(self) -> None:
        keys = {"AccessKeyId": self.server.access.access_key, "SecretAccessKey": self.server.access.secret_key}
        self.answer(json.dumps({**keys, "Token": "", "Expiration": "2099-01-01T00:00:00Z"}))

    def do_POST(self) -> None:
        access = self.server.access
        keys = f"<AccessKeyId>{access.access_key}</AccessKeyId><SecretAccessKey>{access.secret_key}</SecretAccessKey>"
        keys += "<SessionToken>a-token</SessionToken>"
        inner = f"<Credentials>{keys}<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>"
        result = f"<AssumeRoleWithWebIdentityResult>{inner}</AssumeRoleWithWebIdentityResult>"
        self.answer(
            f'<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">{result}'
            "</AssumeRoleWithWebIdentityResponse>"
        )

    def answer(self, text: str) -> None:
        self.server.asked += 1
        if self.server.asked == 1:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        return


@pytest.mark.parametrize("kind", ["container", "web identity"])
def test_a_pod_takes_the_keys_of_its_role(
    s3_access: s3_server.Access, s3_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with RoleServer(s3_access) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        if kind == "container":
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.url}/keys")
        else:
            (tmp_path / "token").write_text("a-token")
            monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
            monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/x")
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
        store = open_store(s3_url)
        put(store, "x/a", b"content")
        assert store.read("x/a") == b"content"
        assert server.asked == 2
        server.shutdown()
        thread.join()


def test_a_machine_without_keys_and_role_is_told(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(credentials, "_HOST_WAIT_S", 0.05)
    with pytest.raises(ConfigError, match="there are no keys. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        open_store(s3_url)


def test_two_servers_with_a_bucket_of_one_name_have_folders_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = set()
    for host in ("http://a", "http://b"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", host)
        folders.add(scratch_folder("s3://bucket/x"))
    assert len(folders) == 2


def test_parts_are_larger_for_a_file_that_would_have_too_many() -> None:
    limits = Limits()
    assert limits.part_of(1) == limits.part_of(10**9) == 16 * MIB
    terabyte = 1 << 40
    assert terabyte / limits.part_of(terabyte) <= 10_000


def test_no_secret_is_in_what_is_shown_or_pickled(store: S3Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    put(store, "x/a")
    store.create("x/b", b"")
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    assert secret not in f"{store!r} {store._requests.place!r} {caplog.text}"
    assert secret.encode() not in pickle.dumps(store)
    assert pickle.loads(pickle.dumps(store)).read("x/a") == b"x"


def test_a_process_that_was_forked_has_connections_and_files_of_its_own(store: S3Store) -> None:
    put(store, "x/a", b"content")
    name = store._writer.name
    child = os.fork()
    if child == 0:
        try:
            fine = store.read("x/a") == b"content" and store._writer.name != name
            put(store, "x/b", b"child")
            os._exit(0 if fine else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.read("x/b") == b"child"
    assert not writers.is_gone(store._scratch / "writers", name)


def test_an_empty_prefix_is_no_store_to_read_unless_it_may_be_made(s3_url: str) -> None:
    assert list(open_to_read(s3_url, make=True).list()) == []
    for open_it in (lambda: open_to_read(s3_url), lambda: open_store(s3_url, "r")):
        with pytest.raises(StorageError, match="there is nothing in it"):
            open_it()
    assert list(open_if_there(s3_url).list()) == []
    put(open_store(s3_url), "x/a")
    assert list(open_to_read(s3_url).list()) == ["x/a"]


def test_a_whole_bucket_can_be_a_store(s3_access: s3_server.Access, s3_url: str) -> None:
    s3_access.make_bucket("whole-bucket")
    store = open_store("s3://whole-bucket")
    with store.lease("x"):
        put(store, "x/a")
        put(store, "top")
    assert list(store.list()) == ["top", "x/a"]
    assert list(store.folders()) == ["x"]
    assert [file.name for file in store.outermost("a")] == ["x/a"]
    for name in list(store.list()):
        store.remove(name)


def test_objects_that_no_store_wrote_are_passed_over_and_told_as_strays(store: S3Store) -> None:
    put(store, "x/a")
    for key in ("x/odd name", "x/ä", "x/folder/", "x/.hidden", "x//b"):
        store._requests.put(store._below("") + key, b"", "write in")
    assert list(store.list()) == ["x/a"]
    assert list(store.folders("x")) == ["x/folder"]
    assert list(store.strays("x")) == ["x//b", "x/folder/", "x/odd name", "x/ä"]


def test_a_file_that_another_program_wrote_is_read_for_its_hash(store: S3Store) -> None:
    store._requests.put(store._key("x/a"), b"0123456789", "write in")
    assert store.sha256("x/a") == "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"


def test_the_outermost_files_are_found_beside_folders_of_many(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_store, "_JUMP", 3)
    for name in ("a/1/m", "a/1/n/m", "a/2/a", "a/2/m", "b/m", *(f"a/1/z{n}" for n in range(9))):
        put(store, name)
    assert [file.name for file in store.outermost("m")] == ["a/1/m", "a/2/m", "b/m"]
    assert [file.name for file in store.outermost("m", "a/1")] == ["a/1/n/m"]


def test_a_long_listing_comes_in_pages(store: S3Store) -> None:
    names = [f"x/{number:04}/a" for number in range(1005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store._requests.put(store._key(name), b"", "write in"), names))
    assert list(store.list()) == names
    assert list(store.folders("x")) == [name.removesuffix("/a") for name in names]


def test_a_server_that_ignores_conditions_is_refused(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store._requests, "put_if", lambda key, data, condition, doing: store._ask.put(key, data, doing))
    for use in (lambda: store.create("x/a", b""), lambda: store.lease("x").__enter__()):
        with pytest.raises(StorageError, match="ignores the condition of a write"):
            use()


def test_a_server_that_ignores_what_leases_need_is_refused(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put_if = store._requests.put_if

    def half(key: str, data: bytes, condition: dict[str, str], doing: str) -> str | None:
        return store._requests.put(key, data, doing) if "If-Match" in condition else put_if(key, data, condition, doing)

    monkeypatch.setattr(store._requests, "put_if", half)
    with pytest.raises(StorageError, match=r"ignores the condition of a write \(If-Match\)"), store.lease("x"):
        pass


def test_a_server_that_ignores_ranges_gives_no_wrong_bytes(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "x/a", bytes(range(100)))
    whole = store._requests._minio.get_object
    monkeypatch.setattr(store._requests._minio, "get_object", lambda bucket, key, *_: whole(bucket, key))
    with store.open("x/a") as file:
        file.seek(50)
        with pytest.raises(StorageError, match=r"Cannot read x/a in .* ignores ranges"):
            file.read(10)


def test_a_condition_on_what_is_gone_does_not_hold(store: S3Store) -> None:
    assert store._requests.put_if(store._key("x"), b"", {"If-Match": "0" * 32}, "write in") is None
    with store.lease("x"):
        store._requests.remove(store._lease_key("x"), "remove from")
    assert store._requests.find(store._lease_key("x"), "read in") is None


def test_an_upload_that_another_has_dropped_is_told(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = S3Store(parse_address(s3_url), limits=Limits(part_bytes=5 * MIB))
    begin = store._requests.begin_upload

    def begin_and_lose(key: str, sha256: str, doing: str) -> str:
        upload = begin(key, sha256, doing)
        store._requests.abort_upload(key, upload, doing)
        return upload

    monkeypatch.setattr(store._requests, "begin_upload", begin_and_lose)
    with pytest.raises(StorageError, match="Cannot write x/a in .*NoSuchUpload.*Run the same command again"):
        put(store, "x/a", bytes(11 * MIB))
    assert store.find("x/a") is None


CHILD = """
import sys
from mistudio.artifacts import open_store
from mistudio.artifacts.s3 import lease
lease.LASTS_S = float(sys.argv[2])
with open_store(sys.argv[1]).lease("x/y"):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(url: str, scratch: Path, lasts_s: float) -> "subprocess.Popen[str]":
    """A process on what counts as another machine, which holds the lease of x/y."""
    environment = {**os.environ, "MISTUDIO_SCRATCH": str(scratch)}
    command = [sys.executable, "-c", CHILD, url, str(lasts_s)]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.timeout(60)
def test_the_lease_of_a_machine_that_is_gone_expires(s3_url: str, store: S3Store, tmp_path: Path) -> None:
    process = holder(s3_url, tmp_path / "elsewhere", 3.0)
    process.kill()
    process.communicate()
    with store.lease("x/y"):
        pass


@pytest.mark.timeout(60)
def test_a_lease_that_is_renewed_outlasts_its_time_and_one_that_is_released_is_free_at_once(
    s3_url: str, store: S3Store, tmp_path: Path
) -> None:
    with holder(s3_url, tmp_path / "elsewhere", 5.0) as process, ThreadPoolExecutor(1) as pool:
        key = store._lease_key("x/y")
        taken = threading.Event()

        def take() -> None:
            with store.lease("x/y"):
                taken.set()

        waiting = pool.submit(take)
        seen = set()
        while len(seen) < 7:  # it is written anew four times in the time that it lasts
            assert not taken.is_set()
            there = store._requests.find(key, "read in")
            assert there is not None
            seen.add(there.etag)
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        waiting.result()


def write_lease(store: S3Store, prefix: str, holder: str) -> None:
    """Take a lease between two renewals of its holder, as who found it expired."""
    key, etag = store._lease_key(prefix), None
    content = json.dumps({"holder": holder, "lasts_s": 60.0}).encode()
    while etag is None:
        found = store._requests.find(key, "read in")
        assert found is not None
        etag = store._requests.put_if(key, content, {"If-Match": found.etag}, "write in")


@pytest.mark.timeout(60)
def test_a_lease_that_was_lost_is_told_and_not_taken_back_and_stops_its_holders_writes(
    store: S3Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lease, "LASTS_S", 0.4)
    put(store, "x/y/a", b"of another")
    with store.lease("x/y"):
        write_lease(store, "x/y", "another")
        store._held["x/y"].join()
        put(store, "x/ya")
        for use in (
            lambda: put(store, "x/y/a"),
            lambda: store.create("x/y/b", b""),
            lambda: store.remove("x/y/a"),
            lambda: store.sweep("x/y"),
        ):
            with pytest.raises(StorageError, match="the lease of x/y was lost.* Run the same command again"):
                use()
        assert not store.create("x/y/a", b"")  # whoever was first is to be looked at
    assert "The lease of x/y was lost" in caplog.text
    assert [(file.name, store.read(file.name)) for file in store.stat()] == [("x/y/a", b"of another"), ("x/ya", b"x")]
    there = lease.standing(store._requests, store._lease_key("x/y"), "read in")
    assert there is not None
    assert (there.holder, there.is_over) == ("another", False)


def test_a_holder_that_stood_still_asks_before_it_writes(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.lease("x"), store.lease("y"):
        write_lease(store, "x", "another")
        monkeypatch.setattr(lease, "LASTS_S", 0.0)  # all that was renewed has expired, and no thread has seen it yet
        put(store, "y/a")
        with pytest.raises(StorageError, match="the lease of x was lost"):
            put(store, "x/a")


def test_a_lease_that_was_renewed_by_a_request_without_an_answer_is_not_lost(store: S3Store) -> None:
    with store.lease("x"):
        write_lease(store, "x", store._writer.name)
        store._held["x"]._renew()
        put(store, "x/a")


def test_a_lease_that_nobody_can_have_written_is_free(store: S3Store) -> None:
    for content in (b"", b"[]", b"{}", b'{"holder": 1}', b"[" * 100_000):
        store._requests.put(store._lease_key("x"), content, "write in")
        with store.lease("x"):
            pass


def test_what_a_killed_writer_had_staged_and_sent_is_swept(s3_url: str, store: S3Store) -> None:
    code = (
        "import sys; from mistudio.artifacts import open_store; store = open_store(sys.argv[1])\n"
        "with store.put('x/a') as staged:\n"
        "    staged.path.write_bytes(b'half')\n"
        "    store._requests.begin_upload(store._key('x/a'), '', 'write in')\n"
        "    store._requests.begin_upload(store._key('y/a'), '', 'write in')\n"
        "    print('written', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, s3_url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert writers.sweep(store._scratch / "writers") == 0
        process.kill()
    left = list((store._scratch / "writers").glob("*/*@a"))
    assert [path.read_bytes() for path in left] == [b"half"]
    with store.lease("x"):
        assert store.sweep("x") == 1
    assert not left[0].exists()
    assert [each.key for each in store._requests.uploads(store._below(""), "list")] == [store._key("y/a")]
    assert store.sweep() == 0  # what is young may be at work without a lease


def test_uploads_that_were_given_up_are_swept_everywhere_but_not_where_a_lease_is_held(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "_SETTLED_S", -60.0)
    for name in ("x/y/a", "z/a"):
        store._requests.begin_upload(store._key(name), "", "write in")
    with store.lease("x/y"):
        assert store.sweep() == 1
    assert [each.key for each in store._requests.uploads(store._below(""), "list")] == [store._key("x/y/a")]
    assert store.sweep() == 1


def test_a_model_in_a_bucket_is_a_folder_of_its_files_alone(store: S3Store) -> None:
    for name, data in (("config.json", b"1"), ("deep/weights", b"2"), ("other", b"3")):
        put(store, f"subject/1/{name}", data)
    folder = store.fetch_folder("subject/1", ["config.json", "deep/weights"])
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "config.json",
        "deep/weights",
    ]
    put(store, "subject/1/config.json", b"new")
    assert (store.fetch_folder("subject/1", ["config.json"]) / "config.json").read_bytes() == b"new"
    assert (folder / "config.json").read_bytes() == b"1"


def test_a_copy_is_never_stale(s3_url: str, store: S3Store) -> None:
    other = open_store(s3_url)
    for content in (b"1", b"2", b"2", b"33"):
        put(other, "x/a", content)
        assert store.fetch("x/a").read_bytes() == store.read("x/a") == content
        with store.open("x/a") as file:
            assert file.read() == content
