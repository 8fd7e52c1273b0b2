"""Texts and chats as the sequences that a model reads, and each token's place in the text.

Special tokens around a text are ours to add, as when a corpus is made; what is longer than a sequence may be goes on in
the next one. A chat is laid out by the tokenizer's own template, whose special tokens are tokens of its text.

Shape legend: T tokens of a text.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from mistudio.corpus.tokens import Specials, TextEncoder, TokenIds, chunk, find_specials
from mistudio.errors import ConfigError, InputError, SubjectError
from mistudio.instrument.passes import ListedSequences
from mistudio.subject import Subject, token_strings

Chat = Sequence[Mapping[str, str]]  # messages, each with role and content
Text = str | Chat

_NO_LIMIT = 1 << 30


class TextTokens(NamedTuple):
    """The tokens of one text, without special ones around it."""

    text: str  # of a chat: as its template lays it out
    token_ids: TokenIds  # [T]
    strings: list[str]  # how each reads
    offsets: NDArray[np.int32] | None  # its first character, and that behind it [T, 2]; None: tokenizer cannot tell


class Tokenised(NamedTuple):
    """Some texts, and the sequences that they are read in."""

    texts: list[TextTokens]
    sequences: ListedSequences  # those of each text, one after the other


class TextReader:
    """Makes sequences of texts and of chats.

    Args:
        subject: the model that is to read them.
        context_length: most tokens of a sequence, special ones included; None: what the model takes.

    Raises:
        ConfigError: special tokens leave no room.
        SubjectError: the tokenizer's template cannot be understood.
    """

    def __init__(self, subject: Subject, context_length: int | None = None) -> None:
        self._tokenizer = subject.tokenizer
        self._encoder, self._specials = TextEncoder(self._tokenizer), find_specials(self._tokenizer)
        wanted = _NO_LIMIT if context_length is None else context_length
        limit = min(wanted, subject.max_positions or _NO_LIMIT)
        self._room = limit - self._specials.num
        if self._room < 1:
            message = f"Sequences of {limit} tokens have no room for text beside {self._specials.num} special tokens."
            raise ConfigError(message)
        if "strings" not in subject.cache:
            subject.cache["strings"] = token_strings(self._tokenizer)
        self._strings: list[str] = subject.cache["strings"]

    def read(self, texts: Sequence[Text]) -> Tokenised:
        """Texts, or chats.

        Raises:
            SubjectError: there are chats, and the tokenizer has no template for them.
        """
        plain = [text for text in texts if isinstance(text, str)]
        if len(plain) == len(texts):
            encoded = self._encoder.encode_with_offsets(plain)
            return self._tokenised(
                [self._tokens(text, *one) for text, one in zip(plain, encoded, strict=True)], self._specials
            )
        return self._chats([self._laid_out(text) for text in texts])

    def _laid_out(self, chat: Text) -> str:
        if isinstance(chat, str):
            message = "Texts and chats are read in different ways: give the ones or the others."
            raise InputError(message)
        if not self._tokenizer.chat_template:
            message = "The model's tokenizer has no template for chats: give what was said as plain text."
            raise SubjectError(message)
        try:
            return str(self._tokenizer.apply_chat_template([dict(message) for message in chat], tokenize=False))
        except TemplateError as error:
            message = f"The tokenizer's template does not take this chat: {error}"
            raise SubjectError(message) from error

    def _chats(self, texts: list[str]) -> Tokenised:
        fast = bool(self._tokenizer.is_fast)
        found = self._tokenizer(texts, add_special_tokens=False, return_offsets_mapping=fast, verbose=False)
        ids = [np.array(one, dtype=np.int32) for one in found["input_ids"]]
        offsets = [_pairs(one) for one in found["offset_mapping"]] if fast else [None] * len(ids)
        prefix = self._specials.prefix
        # Where a chat begins as every sequence does, that is no part of the text.
        skipped = len(prefix) if all(tuple(one[: len(prefix)].tolist()) == prefix for one in ids) else 0
        tokens = [
            self._tokens(text, one[skipped:], pairs if pairs is None else pairs[skipped:])
            for text, one, pairs in zip(texts, ids, offsets, strict=True)
        ]
        return self._tokenised(tokens, Specials(prefix[:skipped]))

    def _tokens(self, text: str, token_ids: TokenIds, offsets: NDArray[np.int32] | None) -> TextTokens:
        return TextTokens(text, token_ids, [self._strings[token] for token in token_ids.tolist()], offsets)

    def _tokenised(self, texts: list[TextTokens], specials: Specials) -> Tokenised:
        prefix, suffix = (np.array(ids, dtype=np.int32) for ids in (specials.prefix, specials.suffix))
        sequences = [
            np.concatenate([prefix, piece, suffix]) for text in texts for piece in chunk(text.token_ids, self._room)
        ]
        return Tokenised(texts, ListedSequences(sequences, len(prefix), len(suffix)))


def _pairs(offsets: Sequence[tuple[int, int]]) -> NDArray[np.int32]:
    return np.array(offsets, dtype=np.int32).reshape(-1, 2)
