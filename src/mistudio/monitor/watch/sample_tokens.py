"""Samples of traffic as the tokens that a model reads: which of them count, and where an answer begins.

Special tokens are known by their ids and do not count, nor does what a chat's template writes around the messages. A
text that spells a special token is text like any other. A chat for a model that has no template for chats is read
message by message, a line break between them.

Shape legend: T tokens of a sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mistudio.corpus.tokens import TextEncoder, TokenIds, find_specials
from mistudio.errors import InputError
from mistudio.instrument.messages import Message
from mistudio.instrument.prompts import PromptReader
from mistudio.instrument.where import PromptTokens
from mistudio.monitor.records import Sample
from mistudio.subject import Subject

_BETWEEN = "\n"


@dataclass(frozen=True, eq=False)
class SampleTokens:
    """The tokens of one sample.

    Attributes:
        ids_T: all, special ones included.
        counts_T: which are text, neither special nor a template's.
        num_prefix: special tokens at the start, with which a piece of it begins too.
        reply_from: first token of the answer; None: there is none, or it cannot be told.
        is_cut: whether there was more than is read.
        role_T: whose message a token belongs to; None where there are no roles.
    """

    ids_T: TokenIds
    counts_T: NDArray[np.bool_]
    num_prefix: int
    reply_from: int | None
    is_cut: bool
    role_T: Sequence[str | None] | None = None


class SampleReader:
    """Makes tokens of samples.

    Args:
        subject: the model that is to read them.
        max_tokens: of a sample that are read; the rest is cut off.
        chat_template: to be used in place of the tokenizer's own.

    Raises:
        SubjectError: the tokenizer's special tokens cannot be told.
    """

    def __init__(self, subject: Subject, max_tokens: int, chat_template: str | None = None) -> None:
        self._subject, self._max_tokens = subject, max_tokens
        self._prompts = PromptReader(subject, chat_template)
        self._encoder, self._specials = TextEncoder(subject.tokenizer), find_specials(subject.tokenizer)
        special = subject.tokenizer.all_special_ids
        self._special_ids = np.array(sorted(set(special)), dtype=np.int32)

    def read(self, samples: Sequence[Sample]) -> list[SampleTokens | InputError]:
        """The tokens of each sample, or why it cannot be read."""
        found: list[SampleTokens | InputError | None] = [None] * len(samples)
        plain = [number for number, sample in enumerate(samples) if isinstance(sample.content, str)]
        texts = [str(samples[number].content) for number in plain]
        for number, encoded in zip(plain, self._encoder.encode_with_offsets(texts), strict=True):
            found[number] = self._text(*encoded, samples[number].reply_from)
        for number, sample in enumerate(samples):
            if found[number] is None:
                found[number] = self._other(sample)
        return [each for each in found if each is not None]

    def _other(self, sample: Sample) -> SampleTokens | InputError:
        content = sample.content
        try:
            if content and isinstance(content[0], Message):
                return self._chat([each for each in content if isinstance(each, Message)], sample.reply_from)
            return self._ids([each for each in content if isinstance(each, int)], sample.reply_from)
        except InputError as error:
            return error

    def _text(
        self, ids_T: TokenIds, offset_T2: NDArray[np.int32] | None, reply_from: int | None
    ) -> SampleTokens | InputError:
        start = None
        if reply_from is not None and offset_T2 is not None:
            start = int(np.searchsorted(offset_T2[:, 1], reply_from, side="right"))
        return self._around(ids_T, np.ones(len(ids_T), dtype=np.bool_), start)

    def _ids(self, ids: Sequence[int], reply_from: int | None) -> SampleTokens:
        """Token ids as they are.

        Raises:
            InputError: the model has no such token.
        """
        vocabulary = self._subject.vocab_size
        wrong = next((token for token in ids if not 0 <= token < vocabulary), None)
        if wrong is not None:
            message = f"There is no token {wrong}: the model has {vocabulary:,}, numbered from 0."
            raise InputError(message)
        ids_T = np.array(ids, dtype=np.int32)
        return self._cut(ids_T, ~np.isin(ids_T, self._special_ids), self._begins(ids_T), reply_from)

    def _chat(self, messages: Sequence[Message], reply_from: int | None) -> SampleTokens:
        if not self._prompts.takes_chats:
            return self._lines(messages, reply_from)
        laid_out = self._prompts.chat(messages)
        start = None
        if reply_from is not None and reply_from < len(messages):
            before = (
                self._prompts.chat(messages[:reply_from]) if reply_from else PromptTokens((), np.zeros(0, np.bool_))
            )
            start = _shared(laid_out.ids, before.ids)
        ids_T = np.array(laid_out.ids, dtype=np.int32)
        return self._cut(ids_T, ~laid_out.exempt_P, self._begins(ids_T), start, laid_out.role_P)

    def _lines(self, messages: Sequence[Message], reply_from: int | None) -> SampleTokens:
        """A chat without a template."""
        (between_T,) = self._encoder.encode([_BETWEEN])
        parts: list[TokenIds] = []
        counts: list[NDArray[np.bool_]] = []
        roles: list[str | None] = [None] * len(self._specials.prefix)
        start, length = None, 0
        encoded = self._encoder.encode([message.content for message in messages])
        for number, (message, ids_T) in enumerate(zip(messages, encoded, strict=True)):
            if number == reply_from:
                start = length
            parts += [ids_T, between_T]
            counts += [np.ones(len(ids_T), dtype=np.bool_), np.zeros(len(between_T), dtype=np.bool_)]
            roles += [message.role] * len(ids_T) + [None] * len(between_T)
            length += len(ids_T) + len(between_T)
        return self._around(np.concatenate(parts), np.concatenate(counts), start, roles)

    def _around(
        self,
        ids_T: TokenIds,
        counts_T: NDArray[np.bool_],
        reply_from: int | None,
        roles: Sequence[str | None] | None = None,
    ) -> SampleTokens:
        """Text with the special tokens that begin one."""
        prefix = np.array(self._specials.prefix, dtype=np.int32)
        counts_T = np.concatenate([np.zeros(len(prefix), dtype=np.bool_), counts_T])
        start = None if reply_from is None else reply_from + len(prefix)
        return self._cut(np.concatenate([prefix, ids_T]), counts_T, len(prefix), start, roles)

    def _begins(self, ids_T: TokenIds) -> int:
        """How many tokens at the start are those that every sequence begins with: all of them, or none."""
        prefix = self._specials.prefix
        return len(prefix) if tuple(ids_T[: len(prefix)].tolist()) == prefix else 0

    def _cut(
        self,
        ids_T: TokenIds,
        counts_T: NDArray[np.bool_],
        num_prefix: int,
        reply_from: int | None,
        roles: Sequence[str | None] | None = None,
    ) -> SampleTokens:
        """What is read of it; what no token that counts comes behind is not looked at by one, in a causal model."""
        end = min(len(ids_T), self._max_tokens + num_prefix)
        is_cut = end < len(ids_T)
        if self._subject.is_causal:
            last = np.flatnonzero(counts_T[:end])
            end = int(last[-1]) + 1 if len(last) else 0
        if reply_from is not None and not 0 <= reply_from <= len(ids_T):
            reply_from = None
        shown = None if roles is None else roles[:end]
        return SampleTokens(ids_T[:end], counts_T[:end], min(num_prefix, end), reply_from, is_cut, shown)


def _shared(some: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    return next(
        (n for n, (one, other) in enumerate(zip(some, others, strict=False)) if one != other),
        min(len(some), len(others)),
    )
