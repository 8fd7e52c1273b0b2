"""Token diffs: put together they are both answers, and what is the same is said to be the same."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistudio.steer import diff
from mistudio.steer.diff import piece_diff, token_diff
from mistudio.steer.requests import Changed
from tests.support.tiny import tiny_tokenizer

WORDS = ["naïve café 猫 sat", " the cat", "猫猫", "\n", " a </s> b", ""]
ANSWERS = st.lists(st.sampled_from(["a", " b", "c", "", " the", "猫"]), max_size=30)


@given(ANSWERS, ANSWERS)
def test_stretches_put_together_are_both_answers(plain: list[str], steered: list[str]) -> None:
    found = piece_diff(plain, steered)
    assert "".join(each.plain for each in found) == "".join(plain)
    assert "".join(each.steered for each in found) == "".join(steered)
    assert all((each.kind == "same") <= (each.plain == each.steered) for each in found)
    assert all(one.kind != other.kind for one, other in zip(found, found[1:], strict=False))
    assert all(each.plain or each.steered for each in found)


def test_equal_answers_are_one_stretch_and_nothing_is_none() -> None:
    assert piece_diff(["a", " b"], ["a", " b"]) == (Changed("same", "a b", "a b"),)
    assert piece_diff([], []) == ()


def test_tokens_that_were_replaced_added_and_dropped_are_told() -> None:
    plain = ["The", " cat", " sat", " on", " it", "."]
    steered = ["The", " dog", " sat", " there", " on", "."]
    assert piece_diff(plain, steered) == (
        Changed("same", "The", "The"),
        Changed("changed", " cat", " dog"),
        Changed("same", " sat", " sat"),
        Changed("changed", "", " there"),
        Changed("same", " on", " on"),
        Changed("changed", " it", ""),
        Changed("same", ".", "."),
    )


def test_words_are_not_cut_into_letters() -> None:
    assert piece_diff([" calm"], [" palm"]) == (Changed("changed", " calm", " palm"),)


@pytest.mark.parametrize("most_pairs", [1 << 20, 0])
def test_long_answers_of_frequent_tokens_are_compared_too(most_pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diff, "_MOST_PAIRS", most_pairs)
    draw = random.Random(0)
    plain = draw.choices("ab", k=300)
    steered = ["x", *plain[:200], "y", *plain[200:], "z"]
    found = piece_diff(plain, steered)
    assert "".join(each.steered for each in found) == "".join(steered)
    same = sum(len(each.plain) for each in found if each.kind == "same")
    assert (same == 300) is bool(most_pairs)  # else tokens this frequent are no anchors


@given(st.lists(st.sampled_from(WORDS), max_size=6), st.lists(st.sampled_from(WORDS), max_size=6))
def test_of_tokens_too_stretches_put_together_are_the_texts(plain: list[str], steered: list[str]) -> None:
    tokenizer: Any = tiny_tokenizer()
    ids = [tokenizer("".join(each), add_special_tokens=False)["input_ids"] for each in (plain, steered)]
    found = token_diff(tokenizer, *ids)
    for texts, own in zip(([each.plain for each in found], [each.steered for each in found]), ids, strict=True):
        assert "".join(texts) == tokenizer.decode(own, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_a_character_that_two_tokens_make_is_no_broken_one() -> None:
    tokenizer: Any = tiny_tokenizer()
    plain, steered = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("猫 sat", "猪 sat"))
    assert plain[0] == steered[0]  # the first byte of both
    assert token_diff(tokenizer, plain, steered) == (Changed("changed", "猫", "猪"), Changed("same", " sat", " sat"))
