"""Examples: what is read, what is left out and counted, and which sets are refused."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mistudio.artifacts import InputRef, Store, hash_file
from mistudio.corpus.uploads import add_corpus
from mistudio.directions.example_files import Files
from mistudio.directions.examples import Examples, read_examples
from mistudio.errors import ConfigError, InputError
from tests.support.labelled_texts import LANDS, SEAS, labelled, made_up, write_lines


def read(path: str, most: int = 1000, seed: int = 0, **labels: str | None) -> Examples:
    return read_examples(Files.read(path), labels.get("positive"), labels.get("negative"), most, seed)


def relabelled(names: tuple[Any, Any], count: int = 10) -> list[dict[str, Any]]:
    return [{**line, "label": names[0] if line["label"] else names[1]} for line in labelled(count)]


def test_every_line_is_used_or_counted_by_why_it_is_not(tmp_path: Path) -> None:
    lines = [
        *labelled(10),
        {"text": "", "label": 1},
        {"text": " \n", "label": 0},
        {"label": 1},
        {"text": "no label"},
        {"text": "no label", "label": None},
        {"text": "of a third kind", "label": "maybe"},
        {"text": "half a \ud800 character", "label": 1},
        {"text": "of both", "label": 1},
        {"text": "of both", "label": 0},
        labelled(10)[0],
    ]
    found = read(write_lines(tmp_path / "e.jsonl", lines), positive="1", negative="0")
    expected = {"empty": 3, "unlabelled": 2, "other_label": 1, "broken_unicode": 1, "contradicting": 2, "repeated": 1}
    assert +found.left_out == Counter(expected)
    assert [(each.text, each.is_positive) for each in found.found] == [
        (line["text"], bool(line["label"])) for line in labelled(10)
    ]
    assert len(found.found) + found.left_out.total() == len(lines)


@pytest.mark.parametrize(
    "names", [(1, 0), (1.0, 0), (True, False), ("yes", "no"), ("Positive", "negative"), ("pos", "neg")]
)
def test_labels_that_say_it_themselves_need_no_naming(names: tuple[Any, Any], tmp_path: Path) -> None:
    found = read(write_lines(tmp_path / "e.jsonl", relabelled(names)))
    assert [each.is_positive for each in found.found] == [True, False] * 10


def test_other_labels_are_named_and_all_others_are_negative(tmp_path: Path) -> None:
    lines = [*relabelled(("sea", "land")), {"text": "up", "label": "air"}]
    path = write_lines(tmp_path / "e.jsonl", lines)
    found = read(path, positive="sea")
    assert [each.is_positive for each in found.found] == [*([True, False] * 10), False]
    found = read(path, positive="land", negative="sea")
    assert [each.is_positive for each in found.found] == [False, True] * 10
    assert found.left_out["other_label"] == 1
    with pytest.raises(
        ConfigError, match=r"Which label is the positive one\?.*'sea' \(10\), 'land' \(10\), 'air' \(1\)"
    ):
        read(path)
    with pytest.raises(ConfigError, match="positive_label 'fire' is on no line; the labels are 'sea'"):
        read(path, positive="fire")
    with pytest.raises(ConfigError, match="positive_label and negative_label are both 'sea'"):
        read(path, positive="sea", negative="sea")


def test_each_class_may_have_a_file_and_its_lines_may_be_plain_strings(tmp_path: Path) -> None:
    positive = write_lines(tmp_path / "p.jsonl", made_up(SEAS, 9, 1))
    negative = write_lines(tmp_path / "n.jsonl", [{"text": text} for text in made_up(LANDS, 8, 2)])
    files = Files.read("", positive, negative)
    assert list(files.refs) == ["positive", "negative"]
    found = read_examples(files, None, None, 1000, 0)
    assert [each.is_positive for each in found.found] == [True] * 9 + [False] * 8
    with pytest.raises(ConfigError, match="positive_label and negative_label are for one file"):
        read_examples(files, "1", None, 1000, 0)


@pytest.mark.parametrize(
    ("given", "named"),
    [(("", "", ""), "none"), (("e", "p", ""), "examples, positive"), (("", "p", ""), "positive")],
)
def test_one_file_or_one_for_each_class_has_to_be_given(given: tuple[str, str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=f"both positive and negative; given: {named}"):
        Files.read(*given)


def test_chats_are_examples_and_are_not_mixed_with_texts(tmp_path: Path) -> None:
    chats = [{"messages": [{"role": "user", "content": line["text"]}], "label": line["label"]} for line in labelled(8)]
    found = read(write_lines(tmp_path / "c.jsonl", chats))
    assert found.found[0].text == (chats[0]["messages"][0],)
    with pytest.raises(InputError, match="texts and chats"):
        read(write_lines(tmp_path / "m.jsonl", [*chats, *labelled(1)]))


@pytest.mark.parametrize(
    ("positive", "negative", "reason"),
    [(20, 0, "20 positive and 0 negative examples, and all are of one class"), (7, 20, "7 positive and 20 negative")],
)
def test_one_class_alone_and_too_few_examples_are_refused_with_what_was_left_out(
    positive: int, negative: int, reason: str, tmp_path: Path
) -> None:
    lines: list[Any] = [{"text": text, "label": 1} for text in made_up(SEAS, positive, 1)]
    lines += [{"text": text, "label": 0} for text in made_up(LANDS, negative, 2)]
    with pytest.raises(InputError, match=rf"{reason}.*Left out: unlabelled 1"):
        read(write_lines(tmp_path / "e.jsonl", [*lines, {"text": "no label"}]))


def test_a_file_of_negative_labels_alone_is_of_one_class(tmp_path: Path) -> None:
    lines = [{"text": text, "label": 0} for text in made_up(LANDS, 20, 2)]
    with pytest.raises(InputError, match="0 positive and 20 negative examples, and all are of one class"):
        read(write_lines(tmp_path / "e.jsonl", lines))


def test_of_many_examples_so_many_of_each_class_are_drawn_by_the_seed(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "e.jsonl", labelled(40))
    some, again, others = read(path, 10), read(path, 10), read(path, 10, seed=1)
    assert some == again
    assert some.found != others.found
    assert Counter(each.is_positive for each in some.found) == {True: 10, False: 10}
    assert some.left_out["not_drawn"] == 60


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"text": "a"', r"e\.jsonl, line 3: broken JSON"),
        (b'{"text": "\xff"}', r"line 3: this is not UTF-8"),
        (b"[1]", r"line 3: a line has to be an object with text and label, not \[1\]"),
        (b'{"text": 5}', "line 3: text has to be a text, not 5"),
        (b'{"text": "a", "messages": []}', "line 3 has text and messages"),
        (b'{"messages": [{"role": "user"}]}', "line 3: messages has to be a list of objects with role and content"),
        (b'{"text": "a", "label": [1]}', r"line 3: label has to be a text, a number or true or false, not \[1\]"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_bytes(b'{"text": "a", "label": 1}\n\n' + content + b"\n")
    with pytest.raises(InputError, match=reason):
        read(str(path))


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(InputError, match="There is no file"):
            Files.read(str(path))


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = Path(write_lines(tmp_path / "e.jsonl", labelled(8)))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read(str(path)).found) == 16


def test_examples_may_be_a_corpus_that_was_added_to_the_store(tmp_path: Path, store: Store) -> None:
    path = Path(write_lines(tmp_path / "e.jsonl", labelled(8)))
    add_corpus(store, path, "tones")
    files = Files.read("tones", store=store)
    assert files.refs["examples"] == InputRef(uri="upload:tones", digest=hash_file(path))
    assert read_examples(files, None, None, 100, 0) == read(str(path))
    (tmp_path / "more").mkdir()
    for name in ("f.jsonl", "g.jsonl"):
        write_lines(tmp_path / "more" / name, labelled(8))
    add_corpus(store, tmp_path / "more")
    with pytest.raises(InputError, match="upload:more holds 2 files: examples have to be in one"):
        Files.read("more", store=store)
    with pytest.raises(InputError, match="There is no file 'none', and no corpus of that name"):
        Files.read("none", store=store)
