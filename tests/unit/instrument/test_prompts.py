"""Prompts and chats as tokens, with roles and what edits leave alone."""

import numpy as np
import pytest

from mistudio.errors import InputError, SubjectError
from mistudio.instrument.messages import Message
from mistudio.instrument.prompts import PromptReader
from mistudio.subject import load_subject, resolve_source
from mistudio.subject.config import SubjectConfig
from tests.support.tiny import tiny_llama

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> PromptReader:
    source = tiny_llama(tmp_path_factory.mktemp("llama"))
    return PromptReader(load_subject(resolve_source(source.path), SubjectConfig(device="cpu")), TEMPLATE)


def chat(*said: tuple[str, str]) -> list[Message]:
    return [Message(role=role, content=content) for role, content in said]


def test_a_text_begins_with_the_special_token_which_is_exempt(reader: PromptReader) -> None:
    prompt = reader.text("the cat")
    assert prompt.ids[0] == 0
    assert prompt.exempt_P.tolist() == [True] + [False] * (prompt.length - 1)


def test_special_tokens_that_a_text_spells_are_text(reader: PromptReader) -> None:
    assert reader.text("</s>").ids.count(1) == 0


def test_each_token_of_a_chat_is_of_its_message_or_of_the_template(reader: PromptReader) -> None:
    prompt = reader.chat(chat(("system", "be small"), ("user", "  the cat sat "), ("assistant", "cat")))
    decode = reader._tokenizer.decode  # noqa: SLF001
    by_role = {
        role: decode([token for token, its in zip(prompt.ids, prompt.role_P or [], strict=True) if its == role])
        for role in ("system", "user", "assistant")
    }
    # A token may begin with the template's space or end with its line break: it is the message's as soon as it has a
    # character of it.
    assert {role: text.strip() for role, text in by_role.items()} == {
        "system": "be small",
        "user": "the cat sat",
        "assistant": "cat",
    }
    of_template = decode(np.array(prompt.ids)[prompt.exempt_P])
    assert "[assistant]" in of_template
    assert "cat" not in of_template


def test_a_message_that_repeats_another_is_found_behind_it(reader: PromptReader) -> None:
    prompt = reader.chat(chat(("user", "cat"), ("assistant", "cat"), ("user", "cat")))
    assert [role for role in prompt.role_P or [] if role] == ["user", "assistant", "user"]


def test_a_message_that_the_templates_own_words_hold_is_found_where_it_stands(reader: PromptReader) -> None:
    prompt = reader.chat(chat(("user", "user"), ("assistant", "a"), ("user", "s")))
    decode = reader._tokenizer.decode  # noqa: SLF001
    before = decode([token for token, role in zip(prompt.ids, prompt.role_P or [], strict=True) if role])
    assert before.split() == ["user", "a", "s"]
    assert decode(np.array(prompt.ids)[prompt.exempt_P]).count("user") == 2


def test_without_a_template_a_chat_is_refused_with_what_to_do(tmp_path_factory: pytest.TempPathFactory) -> None:
    source = tiny_llama(tmp_path_factory.mktemp("plain"))
    plain = PromptReader(load_subject(resolve_source(source.path), SubjectConfig(device="cpu")))
    with pytest.raises(SubjectError, match=r"no template for chats.*--chat-template"):
        plain.chat(chat(("user", "hi")))


def test_a_template_that_refuses_a_chat_is_the_requests_fault(reader: PromptReader) -> None:
    template = "{{ raise_exception('no system part') }}"
    refusing = PromptReader.__new__(PromptReader)
    refusing.__dict__.update({**reader.__dict__, "_template": template})
    with pytest.raises(InputError, match="no system part"):
        refusing.chat(chat(("system", "x")))
