"""How a local judge writes, with a model whose every next token is written down."""

import pytest

from mistudio.explain.judge import Chat, Reply
from mistudio.explain.llm_writing import Writer
from mistudio.subject import Subject
from tests.support.bigrams import bigram_model

WORDS = {1: "[", 2: "1", 3: "]", 4: "</s>", 5: "so", 6: "</think>", 7: "<think>"}
NEXT = {10: 1, 1: 2, 2: 3, 3: 11, 11: 4, 12: 13, 13: 14, 14: 15, 15: 12, 20: 5, 5: 4, 21: 7, 7: 22, 22: 23, 23: 24}


@pytest.fixture(scope="module")
def subject() -> Subject:
    """After w10 a list and more, after w12 words without end, after w20 one word and the end."""
    says = {token + 30: {after: 9.0, 9: 5.0} for token, after in NEXT.items()}
    return bigram_model({token: [token + 30] for token in NEXT}, says, WORDS).subject


def written(subject: Subject, prompts: dict[Chat, list[int]], num_rows: int = 2) -> dict[Chat, Reply]:
    pairs = list(Writer(subject, num_rows).write(prompts))
    assert len(pairs) == len(prompts)
    return dict(pairs)


def chat(name: str, limit: int = 8, alternatives: int = 0) -> Chat:
    return Chat("", name, limit, alternatives)


def test_each_answer_ends_where_its_json_is_whole_or_its_text_ends_or_its_room(subject: Subject) -> None:
    prompts = {chat("list"): [9, 10], chat("on"): [12], chat("end"): [9, 9, 20], chat("brief", limit=2): [10]}
    replies = written(subject, prompts)
    assert [replies[each].text for each in prompts] == ["[ 1 ]", "w13 w14 w15 w12 w13 w14 w15 w12", "so", "[ 1"]
    assert [replies[each].truncated for each in prompts] == [False, True, False, True]
    assert [replies[each].usage for each in prompts] == [(2, 3), (1, 8), (3, 1), (1, 2)]
    assert all(reply.tokens is None for reply in replies.values())


def test_answers_come_as_they_end_and_others_take_their_rows(subject: Subject) -> None:
    prompts = {chat("long", 30): [12]} | {chat(f"{number}"): [10] for number in range(6)}
    pairs = list(Writer(subject, 2).write(prompts))
    assert [request.prompt for request, _ in pairs] == [*"012345", "long"]
    assert [reply.text for _, reply in pairs[:6]] == ["[ 1 ]"] * 6


def test_json_that_is_whole_with_the_last_token_is_not_cut_off(subject: Subject) -> None:
    (reply,) = written(subject, {chat("list", limit=3): [10]}).values()
    assert (reply.text, reply.truncated) == ("[ 1 ]", False)


def test_each_request_has_as_many_alternatives_as_it_asks_for(subject: Subject) -> None:
    replies = written(subject, {chat("two", 2, alternatives=2): [12], chat("none", 2): [12]})
    two, none = replies.values()
    assert none.tokens is None
    assert two.tokens is not None
    assert [token.text for token in two.tokens] == ["w13", " w14"]
    for token in two.tokens:
        (first, likely), (second, less) = token.logprobs
        assert (first, second.strip()) == (token.text, "w9")
        assert likely - less == pytest.approx(4.0, abs=1e-3)


def test_a_longer_answer_than_there_was_room_for_finds_room(subject: Subject) -> None:
    writer = Writer(subject, 1)
    for limit in (4, 600, 4):
        ((_, reply),) = writer.write({chat("on", limit): [12]})
        assert reply.usage.completion_tokens == limit


def test_nothing_is_written_for_nobody(subject: Subject) -> None:
    assert list(Writer(subject, 1).write({})) == []
