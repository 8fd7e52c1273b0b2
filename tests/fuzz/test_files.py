"""Files of every format that is read, with hostile content: read, or refused in one readable paragraph."""

import csv
import io
import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistudio.artifacts import Catalog, Recipe, Store, ancestry, open_artifact, open_store, produce, scratch_folder
from mistudio.artifacts.index import INDEX_NAME
from mistudio.corpus.documents import Columns
from mistudio.corpus.formats import read_documents
from mistudio.exchange.entries import read_entries
from mistudio.explain.labels import read_labels
from mistudio.interchange import FORMATS
from mistudio.runs import LocalRunner
from tests.fuzz.examples import counted, examples
from tests.fuzz.expectation import is_readable, names_one, refusal_of
from tests.fuzz.hostile import changed, hurt, json_texts, json_values, plain, texts
from tests.unit.interchange.samples import make

RUN = "20260131-235959-0a1b2c"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def _holds(what: str, call: Callable[[], Any], *names: object) -> None:
    message = refusal_of(call)
    counted(what, refused=message is not None)
    if message is not None:
        assert is_readable(message) is None, message
        assert any(str(name) in message for name in names) or names_one(message, map(str, names)), message


def _rows(*names: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Records that have the columns that are looked for, and hostile values."""
    known = st.fixed_dictionaries({}, optional=dict.fromkeys(names, json_values))
    return st.lists(known | st.fixed_dictionaries(dict.fromkeys(names, texts)), max_size=5)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _lines(values: list[Any]) -> bytes:
    return "\n".join(map(json.dumps, values)).encode()


def _csv(rows: list[dict[str, Any]]) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names)
    writer.writeheader()
    writer.writerows(rows)
    return _encoded(out.getvalue())


_COLUMNS = ("text", "label", "task")
_RECORDS = _rows(*_COLUMNS)
_JUNK = st.binary(max_size=200) | texts.map(_encoded)
_LINES_OF_TEXT = st.lists(json_texts() | texts, max_size=4).map("\n".join).map(_encoded)


@cache
def _parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": ["one", "two"], "label": ["a", "b"]}), out)
    return out.getvalue()


_CORPORA = {
    ".jsonl": _RECORDS.map(_lines) | _LINES_OF_TEXT,
    ".json": (_RECORDS | json_values).map(json.dumps).map(_encoded) | json_texts().map(_encoded),
    ".csv": _RECORDS.map(_csv) | _LINES_OF_TEXT,
    ".txt": _LINES_OF_TEXT,
    ".parquet": st.deferred(lambda: hurt(_parquet())),
}


@given(
    st.sampled_from(sorted(_CORPORA)).flatmap(lambda form: st.tuples(st.just(form), _CORPORA[form] | _JUNK)),
    st.sampled_from(_COLUMNS) | st.none(),
    st.sampled_from(_COLUMNS) | st.none() | texts,
)
@examples(60, 0.08)
def test_corpora(folder: Path, case: tuple[str, bytes], text: str | None, label: str | None) -> None:
    form, content = case
    path = folder / f"corpus{form}"
    path.write_bytes(content)
    columns = Columns(text=text, label=label)
    _holds(
        f"corpora, {form}",
        lambda: list(read_documents(path, path.name, columns, Counter())),
        path.name,
    )


@given(
    st.sampled_from([".jsonl", ".csv"]),
    _rows("feature", "label").flatmap(lambda rows: st.sampled_from([_lines(rows), _csv(rows)]))
    | _JUNK
    | _LINES_OF_TEXT,
)
@examples(30, 0.04)
def test_labels(folder: Path, form: str, content: bytes) -> None:
    path = folder / f"labels{form}"
    path.write_bytes(content)
    _holds("labels", lambda: read_labels(path, 8), path.name)


@given(
    st.sampled_from([".jsonl", ".json", ".jsonl.gz"]),
    _rows("index", "description", "typeName", "explanationModelName").flatmap(
        lambda rows: st.sampled_from([_lines(rows), json.dumps(rows).encode()])
    )
    | _JUNK
    | _LINES_OF_TEXT,
)
@examples(30, 0.04)
def test_explanations(folder: Path, form: str, content: bytes) -> None:
    path = folder / f"explanations{form}"
    path.write_bytes(content)
    _holds("explanations", lambda: list(read_entries(path)), path.name)


@cache
def _written(form: str) -> dict[str, bytes]:
    """The files of an autoencoder in a format, by name."""
    own = Path(mkdtemp())
    try:
        FORMATS[form].write(make("topk" if form != "gemma_scope" else "jumprelu"), own, "resid_post.3", None)
        return {path.name: path.read_bytes() for path in own.iterdir()}
    finally:
        shutil.rmtree(own)


@st.composite
def _autoencoders(draw: st.DrawFn) -> tuple[str, dict[str, bytes]]:
    form = draw(st.sampled_from(sorted(FORMATS)))
    files = _written(form)
    name = draw(st.sampled_from(sorted(files)))
    content = files[name]
    if name.endswith(".json") and draw(st.integers(0, 4)):
        return form, {**files, name: json.dumps(draw(changed(json.loads(content)))).encode()}
    return form, {**files, name: draw(hurt(content) | _JUNK)}


@given(_autoencoders())
@examples(25, 0.05)
def test_autoencoders(folder: Path, case: tuple[str, dict[str, bytes]]) -> None:
    form, files = case
    own = folder / form
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir()
    for name, content in files.items():
        (own / name).write_bytes(content)
    _holds(f"autoencoders, {form}", lambda: FORMATS[form].read(own), own, *files)


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    opened = open_store(str(folder / "store"))
    base = produce(opened, Recipe(kind="corpus", config={"a": 1}, inputs={}, seed=0), "fuzz", lambda _draft: {"n": 1})
    inputs = {"corpus": base.artifact.ref}
    produce(opened, Recipe(kind="activations", config={"b": 2}, inputs=inputs, seed=0), "fuzz", lambda _draft: {"n": 1})
    return opened


@given(st.data())
@examples(20, 0.04)
def test_manifests(store: Store, data: st.DataObject) -> None:
    (uri,) = [f"activations/{name}" for name in _names(store, "activations")]
    path = Path(store.url) / uri / "manifest.json"
    whole = path.with_name("whole")  # no manifest, so that the store passes it over
    if not whole.exists():
        shutil.copy(path, whole)
    document = json.loads(whole.read_bytes())
    path.write_bytes(data.draw(changed(document).map(json.dumps).map(_encoded) | hurt(whole.read_bytes()) | _JUNK))

    def read() -> None:
        artifact = open_artifact(store, uri)
        ancestry(store, {"": artifact})
        list(artifact.problems())

    _holds("manifests", read, uri, path)
    with Catalog(store) as catalog:
        list(catalog.entries())


def _names(store: Store, kind: str) -> list[str]:
    return sorted(path.name for path in (Path(store.url) / kind).iterdir())


@given(
    _JUNK | st.none(),
    st.sampled_from(["content", "version", "digest", "created_at", "kind"]),
    (json_texts() | plain).map(lambda text: text.encode("utf-8", "replace").decode()),
    st.booleans(),
)
@examples(5, 0.01)
def test_indexes_of_the_catalogue(store: Store, junk: bytes | None, column: str, value: str, is_text: bool) -> None:
    path = scratch_folder(store) / INDEX_NAME
    path.unlink(missing_ok=True)
    if junk is not None:
        path.write_bytes(junk)
    else:
        with Catalog(store) as catalog:
            list(catalog.entries())
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(f"UPDATE artifacts SET {column} = ?", [value if is_text else value.encode()])

    def read() -> None:
        with Catalog(store) as catalog:
            list(catalog.entries())

    _holds("indexes", read, path, store.url)


_RECORD: dict[str, dict[str, Any]] = {
    "request": {
        "version": 1,
        "id": RUN,
        "target": {"kind": "step", "name": "train"},
        "settings": {"k": 1},
        "store": "/store",
        "created_at": "2026-01-31T23:59:59Z",
    },
    "outcome": {"version": 1, "state": "failed", "exit_code": 2, "message": "x", "artifacts": []},
}
_EVENT = {"version": 1, "type": "finished", "step": "train", "uri": "sae/0", "digest": "0", "found": False, "pid": 1}


@given(st.sampled_from(["request", "outcome", "process", "events"]), st.data())
@examples(30, 0.04)
def test_records_of_runs(store: Store, which: str, data: st.DataObject) -> None:
    own = scratch_folder(store) / "runs" / RUN
    own.mkdir(parents=True, exist_ok=True)
    for name, document in _RECORD.items():
        hostile = changed(document).map(json.dumps).map(_encoded) | _JUNK | json_texts().map(_encoded)
        content = data.draw(hostile) if name == which else json.dumps(document).encode()
        (own / f"{name}.json").write_bytes(content)
    (own / "process.json").write_bytes(data.draw(_JUNK) if which == "process" else b"123456")
    events = st.lists(changed(_EVENT).map(json.dumps), max_size=3).map("\n".join).map(_encoded) | _JUNK | _LINES_OF_TEXT
    (own / "events.jsonl").write_bytes(data.draw(events) if which == "events" else b"")
    runner = LocalRunner(store.url)
    _holds("records of runs", lambda: (runner.get(RUN), list(runner.events(RUN)), list(runner.log(RUN))), own, RUN)
    runner.list()
