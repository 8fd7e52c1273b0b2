"""Texts, chats and token ids as look-ups read them: every token with whether it counts, and the latents active on it.

What does not count: special tokens, what a chat's template writes around the messages, messages of other roles than
those that were asked for, and tokens beyond the autoencoder's norm limit. Longer texts are read in pieces, each as a
sequence of its own: the first tokens of a piece do not see those before them.

Shape legend: T tokens of a text, N tokens of some texts, A active (token, latent) pairs.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from mistudio.corpus.tokens import TextEncoder, TokenIds, chunk, find_specials
from mistudio.correlate.replies import ReadToken, WhyNot
from mistudio.errors import ConfigError, InputError
from mistudio.instrument import ListedSequences, text_activations
from mistudio.instrument.messages import Message
from mistudio.instrument.prompts import PromptReader
from mistudio.instrument.session import PlacedAutoencoder
from mistudio.instrument.where import PromptTokens
from mistudio.subject import Subject, token_strings, unedited

Item = TypeVar("Item")

_TOKENS_AT_ONCE = 8192  # of which all activations are held


class Tokens(NamedTuple):
    """A text as tokens, and what is known of each.

    Attributes:
        ids: of all tokens that the reply speaks of [T].
        num_lead: how many of them are special ones at the start, as every sequence has them.
        prefix: special tokens that every piece begins with.
        suffix: special tokens that every piece ends with.
        strings: how each token reads [T].
        offsets: first character and the one behind the last [T, 2]; None: cannot be told.
        roles: whose message each is of; None where there are no roles [T].
        left_out: why a token does not count; None where it does [T].
    """

    ids: TokenIds
    num_lead: int
    prefix: TokenIds
    suffix: TokenIds
    strings: list[str]
    offsets: NDArray[np.int32] | None
    roles: Sequence[str | None] | None
    left_out: list[WhyNot | None]


class Active(NamedTuple):
    """The latents that are active on the tokens of a text that count, by token, then by latent."""

    token_A: NDArray[np.int64]
    latent_A: NDArray[np.int64]
    value_A: NDArray[np.float32]
    left_out: list[WhyNot | None]  # as of the tokens, with those beyond the norm limit [T]

    @property
    def num_counted(self) -> int:
        """Tokens that count."""
        return sum(why is None for why in self.left_out)


class TokenReader:
    """Makes tokens of texts, chats and ids.

    Args:
        subject: the model that is to read them.
        chat_template: to be used in place of the tokenizer's own; None: that one.

    Raises:
        SubjectError: the special tokens of the tokenizer cannot be told.
    """

    def __init__(self, subject: Subject, chat_template: str | None = None) -> None:
        self.prompts = PromptReader(subject, chat_template)
        self._encoder, self._specials = TextEncoder(subject.tokenizer), find_specials(subject.tokenizer)
        self._special_ids = frozenset(subject.tokenizer.all_special_ids)
        self._vocab_size = subject.vocab_size
        if "strings" not in subject.cache:
            subject.cache["strings"] = token_strings(subject.tokenizer)
        self.strings: list[str] = subject.cache["strings"]

    def encode(self, text: str) -> TokenIds:
        """The ids of a text without special tokens around it."""
        (ids_T,) = self._encoder.encode([text])
        return ids_T

    def text(self, text: str) -> Tokens:
        """A text; special tokens that it spells are text like any other."""
        ((ids_T, offsets_T2),) = self._encoder.encode_with_offsets([text])
        prefix, suffix = (np.array(each, dtype=np.int32) for each in (self._specials.prefix, self._specials.suffix))
        return Tokens(
            ids_T, 0, prefix, suffix, self._read(ids_T), offsets_T2, None, self._why(self.prompts.ids(ids_T.tolist()))
        )

    def ids(self, ids: Sequence[int]) -> Tokens:
        """Token ids as they are.

        Raises:
            InputError: the model has no such token.
        """
        wrong = next((token for token in ids if not 0 <= token < self._vocab_size), None)
        if wrong is not None:
            message = f"ids: there is no token {wrong}; the model knows {self._vocab_size:,}, numbered from 0."
            raise InputError(message)
        return self._as_they_are(self.prompts.ids(ids), None)

    def chat(self, messages: Sequence[Message], roles: Sequence[str] | None = None) -> Tokens:
        """A chat, of which messages of these roles count; None: all.

        Raises:
            InputError: no message is of these roles, or the template does not take the chat.
            SubjectError: there is no template for chats.
        """
        there = list(dict.fromkeys(one.role for one in messages))
        if roles is not None and not set(roles) & set(there):
            message = f"roles: no message is of {', '.join(roles)}; the chat has {', '.join(there)}."
            raise InputError(message)
        return self._as_they_are(self.prompts.chat(messages), roles)

    def token(self, token: int) -> ReadToken:
        """One token, as a reply shows it."""
        return ReadToken(id=token, text=self._read(np.array([token], dtype=np.int32))[0])

    def _as_they_are(self, prompt: PromptTokens, wanted: Sequence[str] | None) -> Tokens:
        ids_T, prefix = np.array(prompt.ids, dtype=np.int32), np.array(self._specials.prefix, dtype=np.int32)
        num_lead = len(prefix) if np.array_equal(ids_T[: len(prefix)], prefix) else 0
        none = np.empty(0, dtype=np.int32)
        return Tokens(
            ids_T, num_lead, prefix[:num_lead], none, self._read(ids_T), None, prompt.role_P, self._why(prompt, wanted)
        )

    def _read(self, ids_T: TokenIds) -> list[str]:
        known = len(self.strings)
        return [self.strings[token] if token < known else f"<unused {token}>" for token in ids_T.tolist()]

    def _why(self, prompt: PromptTokens, wanted: Sequence[str] | None = None) -> list[WhyNot | None]:
        """Why each token does not count."""
        roles = prompt.role_P or [None] * prompt.length
        found: list[WhyNot | None] = []
        for token, is_exempt, role in zip(prompt.ids, prompt.exempt_P.tolist(), roles, strict=True):
            if is_exempt:
                found.append("special" if token in self._special_ids else "template")
            else:
                found.append(None if wanted is None or role in wanted else "role")
        return found


def read_active(
    subject: Subject, placed: PlacedAutoencoder, texts: Sequence[Tokens], piece_tokens: int
) -> Iterator[Active]:
    """The latents that are active on each text, in the order of texts.

    Raises:
        ConfigError: special tokens leave no room for text.
    """
    for (num_prefix, num_suffix), same in groupby(texts, key=lambda one: (len(one.prefix), len(one.suffix))):
        limit = min(piece_tokens, subject.max_positions or piece_tokens)
        room = limit - num_prefix - num_suffix
        if room < 1:
            message = f"Pieces of {limit} tokens have no room for text beside {num_prefix + num_suffix} special tokens."
            raise ConfigError(message)
        for some in _bounded(list(same), lambda one: len(one.ids)):
            yield from _read_group(subject, placed, some, room)


def _bounded(items: Sequence[Item], size: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Items that go through the model together: a bounded number of tokens, or one item."""
    group: list[Item] = []
    total = 0
    for item in items:
        if group and total + size(item) > _TOKENS_AT_ONCE:
            yield group
            group, total = [], 0
        group.append(item)
        total += size(item)
    if group:
        yield group


def _read_group(subject: Subject, placed: PlacedAutoencoder, texts: list[Tokens], room: int) -> Iterator[Active]:
    sequences = [
        np.concatenate([one.prefix, piece, one.suffix])
        for one in texts
        for piece in chunk(one.ids[one.num_lead :], room)
    ]
    around = len(texts[0].prefix), len(texts[0].suffix)
    token_A, latent_A, value_A, beyond_N = _encoded(subject, placed, sequences, around)
    first = 0
    for one in texts:
        last = first + len(one.ids) - one.num_lead
        pairs = slice(*np.searchsorted(token_A, (first, last)).tolist())
        yield _counted(one, token_A[pairs] - first, latent_A[pairs], value_A[pairs], beyond_N[first:last])
        first = last


def _counted(
    one: Tokens,
    token_A: NDArray[np.int64],
    latent_A: NDArray[np.int64],
    value_A: NDArray[np.float32],
    beyond: NDArray[np.bool_],
) -> Active:
    """What is active on tokens that count."""
    left_out = list(one.left_out)
    for place in np.flatnonzero(beyond).tolist():
        left_out[one.num_lead + place] = left_out[one.num_lead + place] or "beyond_norm"
    counts_T = np.array([why is None for why in left_out], dtype=np.bool_)
    token_A = token_A + one.num_lead
    kept_A = counts_T[token_A]
    return Active(token_A[kept_A], latent_A[kept_A], value_A[kept_A], left_out)


def _encoded(
    subject: Subject, placed: PlacedAutoencoder, sequences: list[TokenIds], around: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
    """The latents active on the text of sequences, and which of its tokens are beyond the norm limit."""
    sae, start, parts = placed.sae, 0, []
    hook = placed.ends.read
    for some in _bounded(sequences, len):
        # Steering may go on beside this, in another thread: these passes are of the model as it is.
        with torch.inference_mode(), unedited():
            acts_ND = text_activations(subject, [hook], ListedSequences(some, *around))[hook.point].to(sae.W_dec)
            active, beyond_N = sae.encode_active(acts_ND), ~sae.keeps(acts_ND)
        token_A, latent_A, value_A = (column.cpu().numpy() for column in active)
        parts.append((token_A + start, latent_A, value_A, beyond_N.cpu().numpy()))
        start += len(acts_ND)
    if not parts:
        none = np.empty(0, dtype=np.int64)
        return none, none, none.astype(np.float32), none.astype(np.bool_)
    token_A, latent_A, value_A, beyond = (np.concatenate(column) for column in zip(*parts, strict=True))
    return token_A, latent_A, value_A, beyond
