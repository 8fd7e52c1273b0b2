"""Texts as sequences: the tokens of ingest, each with its place in the text; chats by the tokenizer's template."""

import copy
from dataclasses import replace

import pytest

from mistudio.corpus.tokens import TextEncoder
from mistudio.errors import ConfigError, InputError, SubjectError
from mistudio.instrument.texts import TextReader
from mistudio.subject import Subject
from tests.support.tiny_run import TinyRun

TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
CHAT = [{"role": "user", "content": "the cat sat"}, {"role": "assistant", "content": "a dog, then"}]


def with_template(subject: Subject, template: str | None) -> Subject:
    tokenizer = copy.deepcopy(subject.tokenizer)
    tokenizer.chat_template = template
    return replace(subject, tokenizer=tokenizer, cache={})


def test_tokens_are_those_of_a_corpus_and_know_their_place_in_the_text(llama: TinyRun, texts: list[str]) -> None:
    found = TextReader(llama.subject).read(texts).texts
    expected = TextEncoder(llama.subject.tokenizer).encode(texts)
    for one, text, ids in zip(found, texts, expected, strict=True):
        assert one.text == text
        assert one.token_ids.tolist() == ids.tolist()
        assert one.offsets is not None
        assert one.offsets.shape == (len(ids), 2)
        for token, (first, last) in zip(one.strings, one.offsets.tolist(), strict=True):
            assert token == text[first:last] or token.startswith("<0x")
    assert any("猫" in text for text in texts)


@pytest.mark.parametrize(("kind", "specials"), [("llama", ([0], [])), ("bert", ([2], [3]))])
def test_long_texts_go_on_in_the_next_sequence_with_special_tokens_around_each(
    kind: str, specials: tuple[list[int], list[int]], request: pytest.FixtureRequest, texts: list[str]
) -> None:
    run: TinyRun = request.getfixturevalue(kind)
    found = TextReader(run.subject, context_length=10).read(texts)
    prefix, suffix = specials
    room, pieces = 10 - len(prefix) - len(suffix), []
    for one in found.texts:
        ids = one.token_ids.tolist()
        pieces += [[*prefix, *ids[start : start + room], *suffix] for start in range(0, len(ids), room)]
    assert [ids.tolist() for ids in found.sequences.token_ids] == pieces
    assert (found.sequences.num_prefix, found.sequences.num_suffix) == (len(prefix), len(suffix))
    assert len(pieces) > len(texts)


def test_what_spells_a_special_token_is_text(llama: TinyRun) -> None:
    (found,) = TextReader(llama.subject).read(["a </s> b"]).texts
    assert 1 not in found.token_ids
    assert "".join(found.strings) == "a </s> b"


def test_the_sequence_is_no_longer_than_the_model_takes(llama: TinyRun) -> None:
    found = TextReader(llama.subject, context_length=10_000).read(["the cat " * 300])
    assert max(map(len, found.sequences.token_ids)) == llama.subject.max_positions


def test_no_room_beside_special_tokens_is_refused(bert: TinyRun) -> None:
    with pytest.raises(ConfigError, match="Sequences of 2 tokens have no room for text beside 2 special tokens"):
        TextReader(bert.subject, context_length=2)
    with pytest.raises(ConfigError, match="Sequences of 0 tokens"):
        TextReader(bert.subject, context_length=0)


@pytest.mark.parametrize(("template", "prefix"), [(TEMPLATE, 1), (TEMPLATE.removeprefix("{{ bos_token }}"), 0)])
def test_a_chat_is_laid_out_by_the_template(llama: TinyRun, template: str, prefix: int) -> None:
    subject = with_template(llama.subject, template)
    found = TextReader(subject).read([CHAT, CHAT[:1]])
    expected = subject.tokenizer.apply_chat_template([CHAT, CHAT[:1]], tokenize=True, return_dict=False)
    assert [ids.tolist() for ids in found.sequences.token_ids] == expected
    assert found.sequences.num_prefix == prefix
    for one, whole in zip(found.texts, expected, strict=True):
        assert one.token_ids.tolist() == whole[prefix:]
        assert one.offsets is not None
        assert [one.text[first:last] for first, last in one.offsets.tolist()] == one.strings
    assert "".join(found.texts[1].strings) == "[user] the cat sat\n"


def test_a_chat_without_a_template_is_refused(llama: TinyRun) -> None:
    with pytest.raises(SubjectError, match="no template for chats"):
        TextReader(with_template(llama.subject, None)).read([CHAT])


def test_a_chat_that_the_template_refuses_is_refused_with_its_reason(llama: TinyRun) -> None:
    subject = with_template(llama.subject, "{{ raise_exception('only users speak') }}")
    with pytest.raises(SubjectError, match="does not take this chat: only users speak"):
        TextReader(subject).read([CHAT])


def test_texts_among_chats_are_refused(llama: TinyRun) -> None:
    with pytest.raises(InputError, match="Texts and chats are read in different ways"):
        TextReader(with_template(llama.subject, TEMPLATE)).read([CHAT, "text"])
