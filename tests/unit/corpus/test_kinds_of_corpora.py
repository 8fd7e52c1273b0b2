"""Columns are those of many records; text is text; what is left out is counted; copies stay on one side."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mistudio.corpus.config import IngestConfig
from mistudio.corpus.documents import Columns
from mistudio.corpus.formats import read_documents
from mistudio.corpus.ingest import is_held_out
from mistudio.corpus.tokens import TextEncoder
from tests.support.cases import case

SPECIALS = ["<unk>", "<s>", "</s>"]
LETTERS = ["<", "/", "s", ">", "a"]
VOCABULARY = {piece: index for index, piece in enumerate([*SPECIALS, *LETTERS])}


def read(path: Path, **columns: str) -> tuple[list[str], Counter[str]]:
    dropped: Counter[str] = Counter()
    return [each.text for each in read_documents(path, path.name, Columns(**columns), dropped)], dropped


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
@pytest.mark.parametrize(
    ("records", "texts", "dropped"),
    [
        ([{"title": "x"}, {"title": "y", "text": "a"}, {"text": "b"}], ["a", "b"], 1),
        ([{"text": None}, {"text": "a"}], ["a"], 1),
        ([{"text": float("nan")}, {"text": "a"}, {"text": float("nan")}], ["a"], 2),
        ([{"prompt": "q", "completion": "a"}], ["q\na"], 0),
        ([{"id": 1, "Prompt": "q", "Response": "a"}, {"id": 2, "Prompt": "r"}], ["q\na", "r"], 0),
        ([{"prompt": "q", "text": "a"}], ["a"], 0),
        ([{"prompt": "q", "other": "a"}], ["q"], 0),
    ],
)
def test_the_text_is_found_by_many_records(
    suffix: str, records: list[dict[str, Any]], texts: list[str], dropped: int, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    lines = "\n".join(map(json.dumps, records)) if suffix == ".jsonl" else json.dumps(records)
    path.write_text(lines)
    assert read(path) == (texts, Counter({"no text": dropped} if dropped else {}))


def test_a_column_that_is_named_is_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "q", "completion": "a"}\n{"rare": "x", "prompt": "r"}\n')
    assert read(path, text="prompt")[0] == ["q", "r"]
    assert read(path, text="rare") == (["x"], Counter({"no text": 1}))


@pytest.mark.parametrize(
    ("name", "kept", "dropped"),
    [("05_first_record_lacks_text", 120, 1), ("06_prompt_completion", 120, 0), ("14_nan_text", 108, 12)],
)
def test_the_cases_of_columns(name: str, kept: int, dropped: int) -> None:
    texts, left_out = read(case(f"{name}.jsonl"))
    assert (len(texts), left_out.total()) == (kept, dropped)
    assert name != "06_prompt_completion" or all(text.startswith("Q ") and "\n" in text for text in texts)


@pytest.mark.parametrize(
    "model",
    [
        models.Unigram([(piece, -float(index)) for piece, index in VOCABULARY.items()], unk_id=0),
        models.WordPiece(VOCABULARY, unk_token="<unk>"),
        models.WordLevel(VOCABULARY, unk_token="<unk>"),
        models.BPE(VOCABULARY, [], unk_token="<unk>", ignore_merges=True),
    ],
    ids=["unigram", "wordpiece", "wordlevel", "bpe"],
)
def test_no_special_id_comes_out_of_a_text(model: Any) -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model), unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    encoder = TextEncoder(tokenizer)
    for text in ("<s>", "</s>", "a", "<unk>"):
        assert not {1, 2} & set(encoder.encode([text])[0].tolist())
    assert encoder.encode(["a"])[0].tolist() == [VOCABULARY["a"]]
    assert set(encoder.encode(["猫"])[0].tolist()) == {0}  # what is not known still is not
    assert tokenizer.convert_tokens_to_ids("<s>") == 1  # the caller's is as it was


def test_the_case_of_a_unigram_tokenizer() -> None:
    tokenizer = AutoTokenizer.from_pretrained(case("model_unigram_template"))
    texts = [json.loads(line)["text"] for line in case("07_specials_spelled.jsonl").read_text().splitlines()]
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    assert not any(special & set(ids.tolist()) for ids in TextEncoder(tokenizer).encode(texts))


@pytest.mark.parametrize("end", [" ", "\n", "\r\n", "\t ", "\u00a0"])
def test_texts_that_differ_in_white_space_at_the_end_are_on_one_side(end: str) -> None:
    config = IngestConfig(held_out_fraction=0.5)
    for number in range(20):
        sides = {is_held_out(text, config.held_out_fraction, 0) for text in (f"text {number}", f"text {number}{end}")}
        assert len(sides) == 1
