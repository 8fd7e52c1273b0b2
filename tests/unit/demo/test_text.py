import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from mistudio.corpus.documents import Document
from mistudio.corpus.ingest import is_held_out
from mistudio.corpus.tokens import Specials, find_specials
from mistudio.demo.config import DemoConfig
from mistudio.demo.text import BOS_ID, EOS_ID, IGNORED, collate, one_epoch, plan, sequences, split, train_tokenizer

TEXTS = ["for name in names:\n    yield name\n" * 5, "Return the names.", "\N{SNOWMAN} is <s>not</s> common"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 300)


@pytest.fixture(scope="module")
def lengths() -> list[int]:
    return np.random.default_rng(0).integers(2, 66, size=500).tolist()


def test_the_tokenizer_puts_the_bos_token_before_a_text_and_gives_every_text_back(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert find_specials(tokenizer) == Specials(prefix=(BOS_ID,))
    for text in [*TEXTS[:2], "\t\N{GREEK SMALL LETTER PI}\r\n  \x00"]:
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_sequences_are_the_pieces_of_one_document_behind_bos(tokenizer: PreTrainedTokenizerFast) -> None:
    found = sequences(tokenizer, TEXTS, context_length=16)
    plain = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS[:2]]
    documents: list[list[int]] = [[]]
    for ids in found:
        assert ids[0] == BOS_ID
        assert len(ids) <= 17
        documents[-1] += [int(id_) for id_ in ids[1:] if id_ != EOS_ID]
        if ids[-1] == EOS_ID:
            documents.append([])
    assert documents[:2] == plain
    assert len(documents) == len(TEXTS) + 1


def test_text_that_spells_a_special_token_is_only_text(tokenizer: PreTrainedTokenizerFast) -> None:
    [ids] = sequences(tokenizer, ["<s>"], context_length=16)
    assert ids.tolist().count(BOS_ID) == 1


def test_a_batch_predicts_each_next_token_and_nothing_where_it_is_padded() -> None:
    batch = collate([np.array([BOS_ID, 7, 8, EOS_ID], np.int32), np.array([BOS_ID, 9], np.int32)])
    assert batch.ids_BT[0, :3].tolist() == [BOS_ID, 7, 8]
    assert batch.targets_BT[0, :3].tolist() == [7, 8, EOS_ID]
    assert batch.targets_BT[1].tolist() == [9] + [IGNORED] * 15


def test_an_epoch_has_every_sequence_once_within_the_batch_size_and_with_little_padding(lengths: list[int]) -> None:
    batches = one_epoch(lengths, 1_024, np.random.default_rng(0))
    assert sorted(number for members in batches for number in members) == list(range(500))
    cells = [len(members) * (-(-max(lengths[number] - 1 for number in members) // 16) * 16) for members in batches]
    assert max(cells) <= 1_024
    assert sum(length - 1 for length in lengths) > 0.75 * sum(cells)


def test_the_plan_repeats_the_text_in_another_order_until_the_budget_is_spent(lengths: list[int]) -> None:
    one_pass = sum(length - 1 for length in lengths)
    batches = plan(lengths, 2 * one_pass, 1_024, seed=0)
    half = len(batches) // 2
    assert sum(lengths[number] - 1 for members in batches for number in members) >= 2 * one_pass
    assert sorted(sum(batches[:half], [])) == sorted(sum(batches[half:], [])) == list(range(500))
    assert batches[:half] != batches[half:]
    assert plan(lengths, one_pass, 1_024, seed=0) == batches[:half]


def test_the_split_is_the_one_that_ingestion_makes() -> None:
    config = DemoConfig(evaluated_bytes=1_000)
    documents = [Document(f"Text of document {number}, which is short.", "prose") for number in range(2_000)]
    found = split(iter(documents), config, seed=0)
    out = {document.text for document in documents if is_held_out(document.text, 0.1, 0)}
    assert found.train == [document.text for document in documents if document.text not in out]
    assert set(found.held_out) < out
    assert 1_000 <= sum(map(len, found.held_out)) < 1_100
