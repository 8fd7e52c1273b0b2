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
        if path in (api, f"{api}/revision/{COMMIT}"):
            self._json({"id": "me/stories", "sha": COMMIT, "siblings": [{"rfilename": "train.jsonl"}]})
        elif path == f"{api}/tree/{COMMIT}":
            self._json([{"type": "file", "path": "train.jsonl", "size": len(LINES), "oid": "0" * 40}])
        elif path == f"{files}/train.jsonl":
            self._ranged(LINES)
        else:
            known = path.startswith((api, files))
            self._reply(404, b"", {"X-Error-Code": "EntryNotFound" if known else "RepoNotFound"})

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
