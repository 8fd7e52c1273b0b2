import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistudio.corpus.documents import RECORDS_SEEN, Columns, Document
from mistudio.corpus.formats import WHOLE_TEXT_BYTES, read_documents
from mistudio.errors import CorpusError

ROWS = [
    {"text": "one\nline two, with a comma", "task": "code", "label": 1},
    {"text": 'he said "hi" é 🦊', "task": "prose", "label": 0},
]
EXPECTED = [Document(ROWS[0]["text"], "code", "1"), Document(ROWS[1]["text"], "prose", "0")]


def documents(path: Path, dropped: Counter[str] | None = None, **columns: str) -> list[Document]:
    return list(read_documents(path, path.name, Columns(**columns), dropped))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def parquet(path: Path, table: dict[str, object], **options: object) -> Path:
    pq.write_table(pa.table(table), path, **options)
    return path


def write_rows(path: Path) -> Path:
    match path.suffix:
        case ".jsonl":
            return write(path, "".join(json.dumps(row) + "\n" for row in ROWS))
        case ".json":
            return write(path, json.dumps({"version": 1, "data": ROWS}, ensure_ascii=False))
        case ".csv":
            quoted = "".join(
                '"{}",{task},{label}\r\n'.format(row["text"].replace('"', '""'), **row)  # type: ignore[attr-defined]
                for row in ROWS
            )
            return write(path, "text,task,label\r\n" + quoted)
        case _:
            return parquet(path, {name: [row[name] for row in ROWS] for name in ROWS[0]}, row_group_size=1)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_record_format_gives_the_same_documents(tmp_path: Path, suffix: str) -> None:
    assert documents(write_rows(tmp_path / f"data{suffix}")) == EXPECTED


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_byte_order_mark_is_skipped(tmp_path: Path, suffix: str) -> None:
    path = write_rows(tmp_path / f"data{suffix}")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert documents(path) == EXPECTED


def test_the_task_is_the_files_stem_where_no_column_states_it(tmp_path: Path) -> None:
    path = write(tmp_path / "stories.jsonl", '{"story": "a", "label": null}\n"b"\n{"story": "c"}\n')
    dropped: Counter[str] = Counter()
    assert documents(path, dropped) == [Document("a", "stories"), Document("c", "stories")]
    assert dropped == {"no text": 1}


def test_a_json_list_of_strings_is_a_corpus(tmp_path: Path) -> None:
    path = write(tmp_path / "list.json", '["first", "second"]')
    assert [document.text for document in documents(path)] == ["first", "second"]


def test_named_columns_are_used(tmp_path: Path) -> None:
    path = write(tmp_path / "films.csv", "text,review,stars,kind\nx,good,5,film\n")
    assert documents(path, text="review", label="stars", task="kind") == [Document("good", "film", "5")]


def test_text_columns_are_found_in_the_documented_order_whatever_their_case(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "sentence,Content\nno,yes\n")
    assert [document.text for document in documents(path)] == ["yes"]


def test_the_only_string_column_is_the_text(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"id": [1, 2], "utterance": ["hi", "you"], "label": ["x", "y"]})
    assert documents(path) == [Document("hi", "a", "x"), Document("you", "a", "y")]


def test_no_usable_text_column_lists_the_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "left,right\na,b\n")
    with pytest.raises(CorpusError, match=r"a\.csv has no usable text column.*'left', 'right'.*--text-column"):
        documents(path)


@pytest.mark.parametrize("what", ["text", "label", "task"])
def test_a_named_column_that_is_missing_is_refused(tmp_path: Path, what: str) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a", "other": 1}\n')
    with pytest.raises(CorpusError, match=rf"no {what} column 'nope'; its columns are 'text', 'other'"):
        documents(path, **{what: "nope"})


def test_documents_without_text_are_dropped_and_counted(tmp_path: Path) -> None:
    lines = ['{"text": "a"}', '{"text": ""}', '{"text": " \\n\\t"}', '{"text": null}', "{}", '{"text": "\\ud800"}']
    dropped: Counter[str] = Counter()
    assert [d.text for d in documents(write(tmp_path / "a.jsonl", "\n".join(lines)), dropped)] == ["a"]
    assert dropped == {"empty text": 2, "no text": 2, "broken Unicode": 1}


def test_text_is_not_changed(tmp_path: Path) -> None:
    text = "  \u00e9 e\u0301 \r\n tab\t\x00 end \n"
    path = write(tmp_path / "a.jsonl", json.dumps({"text": text}))
    assert documents(path)[0].text == text
    assert documents(write(tmp_path / "a.txt", text))[0].text == text


def test_a_broken_json_line_is_named_by_its_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a"}\n\n{"text": "b"\n')
    with pytest.raises(CorpusError, match=r"a\.jsonl, line 3: broken JSON"):
        documents(path)


def test_text_that_is_not_a_string_is_refused_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": ["b"]}\n')
    with pytest.raises(CorpusError, match=r"a\.jsonl, line 2: column 'text' holds list"):
        documents(path)


def test_a_record_that_is_no_object_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"a\.jsonl, line 1: a record has to be an object or a string, not int"):
        documents(write(tmp_path / "a.jsonl", "3\n"))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt", ".json"])
def test_bytes_that_are_not_utf8_are_named_by_line_and_offset(tmp_path: Path, suffix: str) -> None:
    good = 'text\n"é a"\n'.encode() if suffix == ".csv" else '"é a"\n\n'.encode()
    path = write(tmp_path / f"a{suffix}", good + b'"b\xff"\n')
    with pytest.raises(
        CorpusError, match=rf"a\{suffix} is not UTF-8 text: byte 0xff on line 3 \(byte {len(good) + 2} "
    ):
        documents(path)


def test_a_utf8_file_that_ends_within_a_character_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"byte 0xc3 on line 1 \(byte 2 "):
        documents(write(tmp_path / "a.txt", b"ab\xc3"))


def test_a_truncated_parquet_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"text": ["word " * 50] * 100})
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CorpusError, match=r"a\.parquet is not a whole Parquet file"):
        documents(path)


def test_a_parquet_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    texts = [f"{number} " * 50 for number in range(1000)]
    path = parquet(tmp_path / "a.parquet", {"text": texts}, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[2000:2400] = bytes(400)
    path.write_bytes(bytes(data))
    with pytest.raises(CorpusError, match=r"a\.parquet is not a whole Parquet file"):
        documents(path)


def test_parquet_takes_every_kind_of_string_column(tmp_path: Path) -> None:
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        path = parquet(tmp_path / "a.parquet", {"id": [1, 2], "said": pa.array(["a", "b"]).cast(kind)})
        assert [document.text for document in documents(path)] == ["a", "b"], kind


def test_csv_of_another_separator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="does not separate its columns with commas"):
        documents(write(tmp_path / "a.csv", "id;text\n1;a\n"))


def test_csv_with_a_field_too_many_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"a\.csv, line 3: 3 fields where the header names 2 columns"):
        documents(write(tmp_path / "a.csv", "id,text\n1,a\n2,b,c\n"))


def test_csv_with_an_open_quote_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"a\.csv, line \d+: broken CSV"):
        documents(write(tmp_path / "a.csv", 'text\n"never closed\nmore\n'))


def test_csv_takes_fields_longer_than_pythons_default_limit(tmp_path: Path) -> None:
    text = "long " * 50_000
    assert documents(write(tmp_path / "a.csv", f"text\n{text}\n"))[0].text == text


def test_json_lines_named_json_are_told_their_right_name(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"broken JSON.*name it \.jsonl"):
        documents(write(tmp_path / "a.json", '{"text": "a"}\n{"text": "b"}\n'))


@pytest.mark.parametrize("content", ['{"a": 1}', '{"a": [1], "b": [2]}', '"text"'])
def test_json_without_one_list_of_records_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(CorpusError, match="list of records, or an object with one list"):
        documents(write(tmp_path / "a.json", content))


def test_a_json_file_over_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mistudio.corpus.formats.MAX_JSON_BYTES", 10)
    with pytest.raises(CorpusError, match=r"may have at most 10.*\.jsonl"):
        documents(write(tmp_path / "a.json", '["a", "b", "c"]'))


def test_a_short_text_file_is_one_document(tmp_path: Path) -> None:
    text = "one\n\ntwo\n\n" * 100
    assert documents(write(tmp_path / "a.txt", text)) == [Document(text, "a")]


def test_a_long_text_file_is_cut_at_blank_lines(tmp_path: Path) -> None:
    paragraph = "word " * 300 + "\n"
    text = f"{paragraph}\n" * 100
    texts = [document.text for document in documents(write(tmp_path / "a.txt", text))]
    assert "".join(texts) == text
    assert len(texts) > 20
    assert all(piece.endswith("\n\n") and piece.count("word") == 900 for piece in texts[:-1])


@pytest.mark.parametrize("newline", ["\n", ""])
def test_a_long_text_file_without_blank_lines_is_cut_all_the_same(tmp_path: Path, newline: str) -> None:
    text = f"Füchse springen über Hunde.{newline}" * 10_000
    texts = [document.text for document in documents(write(tmp_path / "a.txt", text))]
    assert "".join(texts) == text
    assert len(texts) > 3
    assert max(len(piece) for piece in texts) < 2 * WHOLE_TEXT_BYTES


def test_a_text_file_has_no_columns(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="has no columns"):
        documents(write(tmp_path / "a.txt", "a"), text="text")


def test_an_empty_file_has_no_documents(tmp_path: Path) -> None:
    for suffix in (".txt", ".jsonl"):
        assert documents(write(tmp_path / f"a{suffix}", "")) == []


def test_files_are_streamed_not_read_whole(tmp_path: Path) -> None:
    """The first document comes although the end of the file is broken."""
    many = b'{"text": "a"}\n' * (RECORDS_SEEN + 1)
    for name, content in [("a.jsonl", many + b"\xff"), ("a.csv", b"text\na\n\xff")]:
        assert next(read_documents(write(tmp_path / name, content), name, Columns())).text == "a"
