"""Records, files and names that would take all memory or end in a traceback are dropped and counted, or refused."""

import csv
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistudio.corpus import documents as documents_module
from mistudio.corpus import formats
from mistudio.corpus.documents import TOO_LONG, Columns, Document
from mistudio.corpus.files import path_source
from mistudio.corpus.formats import read_documents
from mistudio.corpus.parquet_pages import largest_page_bytes
from mistudio.errors import CorpusError

LIMIT = 1000
LONG = "long " * LIMIT


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (formats, documents_module):
        monkeypatch.setattr(module, "MAX_RECORD_BYTES", LIMIT)
    monkeypatch.setattr(formats, "_PARQUET_BYTES", 4 * LIMIT)


def read(path: Path, dropped: Counter[str] | None = None, **columns: str) -> list[Document]:
    return list(read_documents(path, path.name, Columns(**columns), dropped))


def written(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content)
    return folder / name


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "dictionary.parquet", "last.jsonl", "cut.jsonl"])
def test_a_record_over_the_limit_is_dropped_and_counted(name: str, tmp_path: Path) -> None:
    texts = ["before", LONG, "after"] if not name.startswith("last") else ["before", "after", LONG]
    rows = [{"text": text, "other": 1} for text in texts]
    if name.endswith("parquet"):
        kind = pa.dictionary(pa.int32(), pa.string()) if name.startswith("dictionary") else pa.string()
        pq.write_table(pa.table({"text": pa.array(texts).cast(kind)}), tmp_path / name)
    else:
        lines = "\n".join(map(json.dumps, rows)) if name.endswith("jsonl") else json.dumps(rows)
        written(tmp_path, name, lines + "\n" * (not name.startswith("cut")))
    dropped = Counter[str]()
    assert [document.text for document in read(tmp_path / name, dropped)] == ["before", "after"]
    assert dropped == {TOO_LONG: 1}


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize(
    "record",
    [LONG, f'"{LONG}"', '"' + "short\n" * LIMIT + '"', ",".join(["x"] * LIMIT), '"' + "never closed\n" * LIMIT],
)
def test_a_record_of_csv_over_the_limit_is_refused_with_its_line(record: str, tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", f"text\nshort\n{record}\nshort\n")
    with pytest.raises(CorpusError, match=r"a\.csv, line \d+: the record has more than 1,000 bytes"):
        read(path)


@pytest.mark.usefixtures("limited")
def test_many_records_of_csv_below_the_limit_are_read(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *[["two\nlines " * 40]] * 20])
    assert len(read(tmp_path / "a.csv")) == 20


def test_a_page_of_parquet_over_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"text": ["x" * 100_000]}), tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 2000
    monkeypatch.setattr(formats, "MAX_PAGE_BYTES", 50_000)
    with pytest.raises(CorpusError, match=r"a page of 100,\d+ bytes when unpacked; at most 50,000"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dictionary": False, "compression": "none", "write_page_index": True},
        {"data_page_version": "2.0", "compression": "zstd", "row_group_size": 70},
    ],
)
def test_pages_are_measured_as_they_are(options: dict[str, object], tmp_path: Path) -> None:
    texts = [f"{number} " * 50 for number in range(200)]
    table = pa.table({"other": ["y" * 100_000] * 200, "text": texts, "lists": [[1, 2], None] * 100})
    pq.write_table(table, tmp_path / "a.parquet", data_page_size=10_000, **options)
    assert len(max(texts)) < largest_page_bytes(tmp_path / "a.parquet", ["text", "lists"]) < 80_000
    assert largest_page_bytes(tmp_path / "a.parquet", ["other"]) > 100_000
    assert largest_page_bytes(tmp_path / "a.parquet", []) == 0
    assert [document.text for document in read(tmp_path / "a.parquet")] == texts


def test_columns_with_dots_in_their_names_and_without_rows_are_measured(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a.b": ["x" * 10_000], "a": ["y"], "ab": ["z" * 20_000]}), path)
    assert 10_000 < largest_page_bytes(path, ["a.b"]) < 11_000
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    assert read(path) == []


def test_texts_of_parquet_that_are_not_utf8_are_dropped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["before", "here", "after"]}), path, compression="none")
    path.write_bytes(path.read_bytes().replace(b"here", b"h\xffre"))
    dropped = Counter[str]()
    assert [document.text for document in read(path, dropped)] == ["before", "after"]
    assert dropped == {"broken Unicode": 1}


def test_a_damaged_page_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for junk in (b"\xff" * 64, bytes(64), b"\x1c" * 64, b"\x15\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"):
        pq.write_table(pa.table({"text": [f"{number} " * 50 for number in range(100)]}), path, compression="none")
        data = path.read_bytes()
        path.write_bytes(data[:4] + junk + data[4 + len(junk) :])
        with pytest.raises(CorpusError, match="not a whole Parquet file"):
            read(path)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("[" * 100_000, "nest deeper"),
        ('{"a":' * 100_000, "nest deeper"),
        ('{"text": "a", "n": ' + "1" * 5000 + "}", "digits"),
        ('{"text": "a", "text": "b"}', "'text' twice"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_json_that_cannot_be_read_is_named_in_short(name: str, value: str, reason: str, tmp_path: Path) -> None:
    content = f"[{value}]" if name == "a.json" else f'"first"\n{value}\n'
    with pytest.raises(CorpusError, match=f"broken JSON.*{reason}") as refused:
        read(written(tmp_path, name, content))
    assert len(str(refused.value)) < 300


def test_numbers_that_are_not_finite_do_no_harm(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"text": "a", "score": NaN, "label": 1e999}\n')
    assert read(path) == [Document("a", "a", "inf")]


@pytest.mark.parametrize("column", ["text", "task", "label"])
def test_lone_surrogates_are_dropped_and_counted(column: str, tmp_path: Path) -> None:
    rows = [{"text": "a", "task": "b", "label": "c"}, {"text": "a", "task": "b", "label": "c", column: "\ud800"}]
    dropped = Counter[str]()
    path = written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert read(path, dropped) == [Document("a", "b", "c")]
    assert dropped == {"broken Unicode": 1}


def test_names_of_files_that_are_not_utf8_are_shown_with_a_replacement(tmp_path: Path) -> None:
    folder = tmp_path / "\udce9"
    folder.mkdir()
    written(folder, "caf\udce9.txt", "text")
    for path, uri in ((folder, "folder:\ufffd"), (folder / "caf\udce9.txt", "file:caf\ufffd.txt")):
        source = path_source(path, Columns())
        assert source.uri == uri
        assert source.digest
        assert list(source.documents()) == [Document("text", "caf\ufffd")]


@pytest.mark.parametrize("header", ["Once upon a time", "hello", '"One, two"'])
def test_a_csv_whose_first_line_may_be_a_document_is_refused(header: str, tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", f"{header}\nmore\n")
    with pytest.raises(CorpusError, match=r"a\.csv begins with .*--text-column"):
        read(path)


def test_a_header_that_is_named_or_known_is_one(tmp_path: Path) -> None:
    assert read(written(tmp_path, "a.csv", "said\nmore\n"), text="said") == [Document("more", "a")]
    assert read(written(tmp_path, "a.csv", "Label,said\n1,more\n")) == [Document("more", "a", "1")]
    assert read(written(tmp_path, "a.csv", "TEXT\nmore\n")) == [Document("more", "a")]
    assert read(written(tmp_path, "a.csv", "kind,said\n1,more\n"), task="kind") == [Document("more", "1")]


@pytest.mark.parametrize(
    "names", [["text", "text"], ["Text", "text"], ["text", "label", "label"], ["task", "a", "TASK"]]
)
@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_of_two_columns_that_could_be_meant_none_is_taken(suffix: str, names: list[str], tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    values = [f"value {number}" for number in range(len(names))]
    if suffix == "parquet":
        pq.write_table(pa.Table.from_arrays([pa.array([value]) for value in values], names), path)
    elif suffix == "csv":
        path.write_text(f"{','.join(names)}\n{','.join(values)}\n")
    else:
        path.write_text("{" + ", ".join(f'"{name}": "x"' for name in names) + "}")
    with pytest.raises(CorpusError, match=r"2 columns that could be the (text|label|task)|twice"):
        read(path)
    if "Text" in names:
        assert [document.text for document in read(path, text="text")] == ["x" if suffix == "jsonl" else "value 1"]


def test_names_of_columns_are_shown_in_short(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", f"{'left ' * 1000},{'right ' * 1000}\n1,2\n")
    for columns in ({}, {"text": "x" * 5000}):
        with pytest.raises(CorpusError) as refused:
            read(path, **columns)
        assert len(str(refused.value)) < 400
