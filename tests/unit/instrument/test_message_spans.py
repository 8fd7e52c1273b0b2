"""Messages are told from what a template writes around them, also where its own words hold them."""

import copy
from typing import Any

import pytest

from mistudio.instrument.message_spans import LayOut, message_spans
from tests.support.tiny import tiny_tokenizer

CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<s>[INST] {{ m['content'] | trim }} [/INST]"
    "{% else %} {{ m['content'] | trim }}</s>{% endif %}{% endfor %}"
)
GEMMA = (
    "<bos>{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
)
HEADERS = (
    *("<|im_start|>user", "<|im_start|>assistant", "<s>[INST]", "", "<start_of_turn>user", "<start_of_turn>model"),
    "<bos><start_of_turn>user",
)
FOOTERS = ("<|im_end|>", "[/INST]", "</s>", "<end_of_turn>")


def tokenizer_with(template: str) -> Any:
    """A tokenizer of its own: the one that all share stays as it is."""
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.chat_template = template
    return tokenizer


def lay_out(tokenizer: Any) -> LayOut:
    return lambda chat: str(tokenizer.apply_chat_template(chat, tokenize=False))


def chat(*contents: str) -> list[dict[str, str]]:
    return [
        {"role": "user" if number % 2 == 0 else "assistant", "content": content}
        for number, content in enumerate(contents)
    ]


@pytest.mark.parametrize("template", [CHATML, LLAMA2, GEMMA], ids=["chatml", "llama2", "gemma"])
@pytest.mark.parametrize(
    "contents",
    [
        ("Is it?", "It is."),
        ("a", "s"),  # letters of the roles' names
        ("user", "assistant"),
        (" with spaces around \n", "and\nlines"),
        ("the same", "the same", "the same"),
        ("[INST] <|im_start|>", "猫\U000f0000"),
        ("", "an answer to nothing"),
    ],
)
def test_each_message_is_where_it_stands(template: str, contents: tuple[str, ...]) -> None:
    tokenizer, messages = tokenizer_with(template), chat(*contents)
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    spans = message_spans(lay_out(tokenizer), messages, text)
    assert spans is not None
    assert [span.role for span in spans] == [message["role"] for message in messages]
    for number, (span, content) in enumerate(zip(spans, contents, strict=True)):
        assert text[span.start : span.end] == content.strip()
        # What these templates write of a message follows what they wrote of those before it.
        before, after = (
            tokenizer.apply_chat_template(messages[:end], tokenize=False) if end else "" for end in (number, number + 1)
        )
        assert text[: span.start].removeprefix(before).strip() in HEADERS
        assert text[span.end : len(after)].strip() in FOOTERS


def test_what_a_template_changes_is_found_and_what_it_leaves_out_has_no_span() -> None:
    shown = "{% if m['role'] == 'user' %}>{{ m['content'] | upper }}{% endif %}"
    loud = tokenizer_with(f"{{% for m in messages %}}{shown}{{% endfor %}}")
    assert message_spans(lay_out(loud), chat("hello", "ho"), ">HELLO") == [("user", 1, 6)]


@pytest.mark.parametrize(
    "shown", ["{{ m['content'][:3] }}", "{{ m['content'] | length }}", "{{ m['content'] }}{{ m['content'] }}"]
)
def test_where_a_message_cannot_be_told_there_are_no_spans(shown: str) -> None:
    tokenizer = tokenizer_with(f"{{% for m in messages %}}: {shown}{{% endfor %}}")
    messages = chat("hello")
    assert message_spans(lay_out(tokenizer), messages, tokenizer.apply_chat_template(messages, tokenize=False)) is None
