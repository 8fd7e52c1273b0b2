"""Tokens as text, as they come."""

import random

import pytest

from mistudio.steer.decoding import TextStream
from tests.support.families import byte_level_tokenizer
from tests.support.tiny import tiny_tokenizer

TEXT = "the cat sat, naïve café 猫🙂 and then the dog ran"


def given(stops: tuple[str, ...] = (), text: str = TEXT) -> tuple[list[str], TextStream]:
    tokenizer = tiny_tokenizer()
    stream, pieces = TextStream(tokenizer, stops), []
    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
        pieces.append(stream.add(token))
        if stream.stopped_by is not None:
            break
    pieces.append(stream.finish())
    return pieces, stream


def test_pieces_add_up_to_the_text_and_hold_whole_characters_only() -> None:
    pieces, stream = given()
    assert "".join(pieces) == stream.text == TEXT
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


@pytest.mark.parametrize("stop", ["dog", "and then", "猫", " sat, na", "n"])
def test_a_stop_text_ends_the_answer_and_no_part_of_it_is_given_out(stop: str) -> None:
    pieces, stream = given((stop, "never said"))
    assert "".join(pieces) == TEXT[: TEXT.index(stop)]
    assert stream.stopped_by == stop


def test_the_first_of_several_stop_texts_counts() -> None:
    pieces, stream = given(("dog", "then", "then the"))
    assert "".join(pieces) == TEXT[: TEXT.index("then")]
    assert stream.stopped_by == "then"


def test_what_only_looks_like_a_stop_text_is_given_out_in_the_end() -> None:
    pieces, _ = given(("the dog ran away",))
    assert "".join(pieces) == TEXT


def test_bytes_that_never_become_a_character_are_given_out() -> None:
    tokenizer = tiny_tokenizer()
    broken = tokenizer("猫", add_special_tokens=False)["input_ids"][:1]
    stream = TextStream(tokenizer)
    pieces = [stream.add(broken[0]) for _ in range(9)]
    assert "".join([*pieces, stream.finish()])


@pytest.mark.parametrize("stray", range(1, 8))
def test_a_character_behind_bytes_that_never_become_one_is_whole(stray: int) -> None:
    tokenizer = byte_level_tokenizer()
    ids = tokenizer("🙂", add_special_tokens=False)["input_ids"][:1] * stray
    ids += tokenizer("🙂猫", add_special_tokens=False)["input_ids"]
    stream = TextStream(tokenizer)
    text = "".join([*map(stream.add, ids), stream.finish()])
    assert text == tokenizer.decode(ids)


def test_any_tokens_give_the_text_that_they_are_together() -> None:
    tokenizer, draw = byte_level_tokenizer(), random.Random(0)
    for _ in range(300):
        ids = [draw.randrange(1, 260) for _ in range(draw.randrange(1, 30))]
        stream = TextStream(tokenizer)
        assert "".join([*map(stream.add, ids), stream.finish()]) == tokenizer.decode(ids)
