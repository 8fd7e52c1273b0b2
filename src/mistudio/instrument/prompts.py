"""Prompts and chats as tokens, with what edits have to know of them: special tokens, the template's, whose message.

A chat is laid out by the tokenizer's own template. Where each message stands in what that makes of it is found by
:mod:`mistudio.instrument.message_spans`; all other tokens are the template's.

Shape legend: P tokens of a prompt.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jinja2 import TemplateError

from mistudio.corpus.tokens import TextEncoder, find_specials
from mistudio.errors import InputError, SubjectError
from mistudio.instrument.message_spans import LayOut, message_spans
from mistudio.instrument.messages import Message
from mistudio.instrument.where import PromptTokens, plain_prompt
from mistudio.subject import Subject


class PromptReader:
    """Makes prompts for a model.

    Args:
        subject: the model.
        chat_template: to be used in place of the tokenizer's own; None: that one.

    Raises:
        SubjectError: the tokenizer's special tokens cannot be told.
    """

    def __init__(self, subject: Subject, chat_template: str | None = None) -> None:
        self._tokenizer = subject.tokenizer
        self._encoder, self._specials = TextEncoder(self._tokenizer), find_specials(self._tokenizer)
        self._special_ids = frozenset(self._tokenizer.all_special_ids)
        self._template: str | None = chat_template or self._tokenizer.chat_template or None

    @property
    def takes_chats(self) -> bool:
        """Whether there is a template for chats."""
        return self._template is not None

    def text(self, text: str) -> PromptTokens:
        """A text, with the special tokens that begin one; one that it spells is text like any other."""
        (ids,) = self._encoder.encode([text])
        return plain_prompt([*self._specials.prefix, *ids.tolist()], self._special_ids)

    def ids(self, ids: Sequence[int]) -> PromptTokens:
        """Token ids as they are."""
        return plain_prompt(ids, self._special_ids)

    def chat(self, messages: Sequence[Message]) -> PromptTokens:
        """A chat, up to where the assistant's next message begins.

        Raises:
            SubjectError: there is no template for chats.
            InputError: the template does not take this one.
        """
        chat = [{"role": one.role, "content": one.content} for one in messages]
        laid_out = self._laid_out(chat)
        found = self._tokenizer(laid_out, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, offsets = list(found["input_ids"]), found["offset_mapping"]
        role_at = _roles_by_character(laid_out, chat, self._laid_out)
        roles = [next((role for role in role_at[start:end] if role), None) for start, end in offsets]
        special = [token in self._special_ids for token in ids]
        exempt_P = np.array([known or role is None for known, role in zip(special, roles, strict=True)], dtype=np.bool_)
        return PromptTokens(tuple(ids), exempt_P, roles)

    def _laid_out(self, chat: list[dict[str, str]]) -> str:
        if self._template is None:
            message = (
                "messages: the model's tokenizer has no template for chats. Give a text in place of messages (to "
                "completions, a prompt), or start a server with --chat-template FILE (a Jinja template)."
            )
            raise SubjectError(message)
        if not self._tokenizer.is_fast:
            message = "messages: this tokenizer cannot tell where its tokens are in a text; send a prompt."
            raise SubjectError(message)
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    chat, tokenize=False, add_generation_prompt=True, chat_template=self._template
                )
            )
        except (TemplateError, TypeError, ValueError) as error:
            message = f"messages: the chat template does not take this chat: {error}"
            raise InputError(message) from error


def _roles_by_character(laid_out: str, chat: Sequence[Mapping[str, str]], lay_out: LayOut) -> list[str | None]:
    """Whose message each character of a chat belongs to; None for the template's own, and for all that it changes."""
    role_at: list[str | None] = [None] * len(laid_out)
    for role, start, end in message_spans(lay_out, chat, laid_out) or ():
        role_at[start:end] = [role] * (end - start)
    return role_at
