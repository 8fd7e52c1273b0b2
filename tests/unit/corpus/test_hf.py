"""Against ``datasets`` itself: a local folder, a small hub over HTTP, and a hub that is not there."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from mistudio.artifacts import Store
from mistudio.corpus.documents import Document
from mistudio.corpus.sources import open_source
from mistudio.errors import CorpusError

COMMIT = "c0ffee" * 6 + "c0de"
LINES = "".join(json.dumps({"text": f"document {number}"}) + "\n" for number in range(5)).encode()


def card(place: str) -> bytes:
    """The head of a README.md that says where a dataset's files are."""
    config = {"config_name": "default", "data_files": [{"split": "train", "path": place}]}
    return f"---\nconfigs: {json.dumps([config])}\n---\n# A dataset\n".encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "reviews"
    folder.mkdir()
    rows = [{"text": f"text {n}" if n else " ", "task": "film", "label": n % 2, "extra": [n]} for n in range(20)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "test.jsonl").write_text(json.dumps(rows[1]) + "\n")
    return folder


def test_a_local_folder_is_streamed_by_datasets(folder: Path, store: Store) -> None:
    source = open_source(f"hf:{folder}", store)
    assert source.uri == "hf:reviews@train"
    dropped: Counter[str] = Counter()
    documents = list(source.documents(dropped))
    assert documents == [Document(f"text {n}", "film", str(n % 2)) for n in range(1, 20)]
    assert dropped == {"empty text": 1}
    assert list(source.documents()) == documents
    assert len(list(open_source(f"hf:{folder}@test", store).documents())) == 1


def test_the_digest_follows_the_content_and_the_choice(folder: Path, store: Store) -> None:
    digests = [
        open_source(f"hf:{folder}", store).digest,
        open_source(f"hf:{folder}@test", store).digest,
        open_source(f"hf:{folder}:other", store).digest,
        open_source(f"hf:{folder}", store, text_column="task").digest,
    ]
    with (folder / "train.jsonl").open("a") as handle:
        handle.write('{"text": "more"}\n')
    digests.append(open_source(f"hf:{folder}", store).digest)
    assert len(set(digests)) == 5


def test_class_labels_are_spelled_out(tmp_path: Path, store: Store) -> None:
    features = Features({"sentence": Value("string"), "id": Value("int32"), "label": ClassLabel(names=["bad", "good"])})
    rows = {"sentence": ["a", "b", "c"], "id": [1, 2, 3], "label": [1, 0, -1]}
    (tmp_path / "sst").mkdir()
    Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "sst" / "train.parquet"))
    documents = list(open_source(f"hf:{tmp_path / 'sst'}", store).documents())
    assert documents == [Document("a", "sst", "good"), Document("b", "sst", "bad"), Document("c", "sst", None)]


def test_a_dataset_without_a_text_column_lists_its_columns(tmp_path: Path, store: Store) -> None:
    (tmp_path / "pairs").mkdir()
    pq.write_table(pa.table({"left": ["a"], "right": ["b"]}), tmp_path / "pairs" / "train.parquet")
    with pytest.raises(CorpusError, match="hf:pairs@train has no usable text column.*'left', 'right'"):
        list(open_source(f"hf:{tmp_path / 'pairs'}", store).documents())


def test_an_unknown_split_names_those_there_are(folder: Path, store: Store) -> None:
    with pytest.raises(CorpusError, match="cannot be read.*nosplit.*train"):
        list(open_source(f"hf:{folder}@nosplit", store).documents())


class _Hub(BaseHTTPRequestHandler):
    """The few answers of the hub that reading one public dataset takes."""

    protocol_version = "HTTP/1.1"
    asked: list[str]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        api, files = "/api/datasets/me/stories", f"/datasets/me/stories/resolve/{COMMIT}"
        if self._hostile(path):
            return
        if path in (api, f"{api}/revision/{COMMIT}"):
            self._json({"id": "me/stories", "sha": COMMIT, "siblings": [{"rfilename": "train.jsonl"}]})
        elif path == f"{api}/tree/{COMMIT}":
            self._json([{"type": "file", "path": "train.jsonl", "size": len(LINES), "oid": "0" * 40}])
        elif path == f"{files}/train.jsonl":
            self._ranged(LINES)
        else:
            known = path.startswith((api, files))
            self._reply(404, b"", {"X-Error-Code": "EntryNotFound" if known else "RepoNotFound"})

    def _hostile(self, path: str) -> bool:
        """A dataset whose card names a file of the machine that reads it."""
        api, files = "/api/datasets/me/hostile", f"/datasets/me/hostile/resolve/{COMMIT}"
        if path in (api, f"{api}/revision/{COMMIT}"):
            self._json({"id": "me/hostile", "sha": COMMIT, "siblings": [{"rfilename": "README.md"}]})
        elif path == f"{files}/README.md":
            self._ranged(card("/etc/hostname"))
        else:
            return False
        return True

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def _json(self, value: object) -> None:
        self._reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _ranged(self, data: bytes) -> None:
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(data)), len(data) - 1)
        self._reply(206, data[start : end + 1], {"Content-Range": f"bytes {start}-{end}/{len(data)}", "ETag": '"x"'})

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "X-Repo-Commit": COMMIT, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    _Hub.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


_CHILD = """
import json, sys
from mistudio.artifacts import open_store
from mistudio.corpus.sources import open_source
from mistudio.errors import MistudioError
for corpus in sys.argv[2:]:
    try:
        source = open_source(corpus, open_store(sys.argv[1]))
        texts = [document.text for document in source.documents()]
        print(json.dumps({"uri": source.uri, "revision": source.revision, "texts": texts}))
    except MistudioError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""


def in_child(tmp_path: Path, environment: dict[str, str], *corpora: str) -> list[dict[str, Any]]:
    """Open corpora in a process of its own: the hub's address is read once, at import."""
    proxies = {name: "" for name in os.environ if name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(tmp_path / "store"), *corpora],
        env={**os.environ, **proxies, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_dataset_of_the_hub_is_read_at_the_commit_it_was_pinned_to(tmp_path: Path, hub: ThreadingHTTPServer) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    found, missing = in_child(tmp_path, {"HF_ENDPOINT": endpoint}, "hf:me/stories", "hf:me/nothing")
    texts = [f"document {number}" for number in range(5)]
    assert found == {"uri": "hf:me/stories@train", "revision": COMMIT, "texts": texts}
    resolved = [path for path in hub.RequestHandlerClass.asked if "/resolve/" in path]  # type: ignore[attr-defined]
    assert resolved
    assert all(f"/resolve/{COMMIT}/" in path for path in resolved)
    assert missing["error"] == "CorpusError"
    assert "There is no dataset 'me/nothing'" in missing["message"]


@pytest.mark.parametrize("environment", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_a_hub_out_of_reach_is_said_at_once_with_what_works_offline(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (answer,) = in_child(tmp_path, environment, "hf:me/stories")
    assert answer["error"] == "HubUnreachable"
    assert "'me/stories'" in answer["message"]
    assert "a local file or folder, an uploaded corpus, or the built-in corpus python-docs" in answer["message"]


def test_a_dataset_of_the_hub_that_names_files_of_this_machine_is_refused(
    tmp_path: Path, hub: ThreadingHTTPServer
) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    (answer,) = in_child(tmp_path, {"HF_ENDPOINT": endpoint}, "hf:me/hostile")
    assert answer["error"] == "CorpusError"
    assert "'me/hostile' names '/etc/hostname' in its README.md" in answer["message"]


PLACES = ["{outside}", "../outside.jsonl", "data/../../outside.jsonl", "{url}", "file://{outside}", "~/outside.jsonl"]
PLACES += ["zip://*.jsonl::{url}", "..\\outside.jsonl", "hf://datasets/other/data/train.jsonl", "FILE:/{outside}"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
def test_a_folder_that_names_files_outside_of_itself_is_refused_and_nothing_is_asked(
    folder: Path, store: Store, hub: ThreadingHTTPServer, name: str, place: str
) -> None:
    outside = folder.parent / "outside.jsonl"
    outside.write_text('{"text": "what nobody meant to be read"}\n')
    named = place.format(outside=outside, url=f"http://127.0.0.1:{hub.server_port}/outside.jsonl")
    content = card(named)
    (folder / name).write_bytes(content if name == "README.md" else content.split(b"---")[1])
    with pytest.raises(CorpusError, match=f"in its {name}, and a dataset is read from its own files alone"):
        open_source(f"hf:{folder}", store)
    assert hub.RequestHandlerClass.asked == []  # type: ignore[attr-defined]


def test_a_folder_of_data_that_its_card_leads_out_of_is_refused(folder: Path, store: Store) -> None:
    (folder / "README.md").write_bytes(b"---\nconfigs:\n- config_name: a\n  data_dir: ../elsewhere\n---\n")
    with pytest.raises(CorpusError, match="names '../elsewhere' in its README.md"):
        open_source(f"hf:{folder}", store)


def test_files_that_a_card_names_within_its_folder_are_read(folder: Path, store: Store) -> None:
    (folder / "README.md").write_bytes(card("te*.jsonl"))
    assert [document.text for document in open_source(f"hf:{folder}", store).documents()] == ["text 1"]


def test_the_card_is_part_of_the_digest_also_where_it_is_hidden(folder: Path, store: Store) -> None:
    before = open_source(f"hf:{folder}", store).digest
    (folder / ".huggingface.yaml").write_bytes(card("te*.jsonl").split(b"---")[1])
    assert open_source(f"hf:{folder}", store).digest != before


BOMB = b"---\na: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    f"{name}: &{name} [{', '.join([f'*{chr(ord(name) - 1)}'] * 9)}]\n".encode() for name in "bcdefghi"
)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (BOMB + b"configs: [{config_name: a, data_files: *i}]\n---\n", "names more than 100,000 files"),
        (b"---\nconfigs: [{config_name: a, data_files: &x [*x]}]\n---\n", "names more than 100,000 files"),
        (b"---\n" + b"[" * 5000 + b"\n---\n", "cannot be read: "),
        (b"---\nconfigs: !!python/object/apply:os.system [exit]\n---\n", "cannot be read: ConstructorError"),
        (b"---\n" + b"x" * (5 << 20) + b"\n---\n", "cannot be read: ValueError"),
        (b"---\n\xff\n---\n", "cannot be read: "),
    ],
)
def test_a_card_that_is_made_to_take_all_time_or_memory_is_refused(
    folder: Path, store: Store, content: bytes, what: str
) -> None:
    (folder / "README.md").write_bytes(content)
    with pytest.raises(CorpusError, match=what):
        open_source(f"hf:{folder}", store)


@pytest.mark.parametrize(
    "name", ["http://169.254.169.254/x", "//169.254.169.254/x", "file:///etc/passwd", "http%3A//a/b", "a/b/c", "../a"]
)
def test_a_name_that_is_an_address_or_a_path_that_is_not_there_opens_nothing(store: Store, name: str) -> None:
    with pytest.raises(CorpusError):
        open_source(f"hf:{name}", store)
