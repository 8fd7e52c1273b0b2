"""What is read from a model text by text: activations at hook points, chosen latents, or all that are active.

Texts may come without end. Some go through the model together, and of these the activations are held.

On a token beyond an autoencoder's norm limit nothing is active, as everywhere; a reading says which tokens those are.

Shape legend: T tokens of a text, N tokens of some texts, D width of a hook point, L chosen latents, A active
(token, latent) pairs.
"""

from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mistudio.errors import InputError
from mistudio.instrument.passes import text_activations
from mistudio.instrument.texts import Text, TextReader, TextTokens
from mistudio.plain_text import shortened
from mistudio.sae import SparseAutoencoder
from mistudio.subject import HookPoint, ResolvedHook, Subject

_TEXTS_AT_ONCE = 64
_CHARACTERS_AT_ONCE = 1 << 15


class ChosenReading(NamedTuple):
    """Chosen latents on the tokens of one text."""

    tokens: TextTokens
    value_TL: NDArray[np.float32]
    beyond_T: NDArray[np.bool_]  # tokens that the autoencoder leaves out; none where it has no norm limit


class ActiveReading(NamedTuple):
    """All active latents on the tokens of one text, by token, then by latent."""

    tokens: TextTokens
    token_A: NDArray[np.int64]  # which token of the text
    latent_A: NDArray[np.int64]
    value_A: NDArray[np.float32]  # above 0
    beyond_T: NDArray[np.bool_]  # tokens that the autoencoder leaves out; none where it has no norm limit


class ActivationReading(NamedTuple):
    """Activations at hook points on the tokens of one text."""

    tokens: TextTokens
    acts: dict[HookPoint, Tensor]  # each [T, D], on the model's device and in its number format


def read_activations(
    subject: Subject, hooks: Sequence[ResolvedHook], texts: Iterable[Text], context_length: int | None = None
) -> Iterator[ActivationReading]:
    """Activations of each text, in the order of texts.

    Raises:
        SubjectError: the tokenizer's template cannot be understood, or has none for chats.
    """
    for tokens, acts in _some_at_once(subject, hooks, texts, context_length):
        lengths = [len(one.token_ids) for one in tokens]
        parts = {point: torch.split(acts_ND, lengths) for point, acts_ND in acts.items()}
        for place, one in enumerate(tokens):
            yield ActivationReading(one, {point: own[place] for point, own in parts.items()})


def read_chosen(
    subject: Subject,
    hook: ResolvedHook,
    sae: SparseAutoencoder,
    texts: Iterable[Text],
    latents: Sequence[int],
    context_length: int | None = None,
) -> Iterator[ChosenReading]:
    """Chosen latents of each text, in the order of texts.

    Raises:
        InputError: there is no such latent.
        SubjectError: the tokenizer's template cannot be understood, or has none for chats.
    """
    latent_L = torch.tensor([_whole(each) for each in latents], dtype=torch.int64)
    for tokens, acts in _some_at_once(subject, [hook], texts, context_length):
        acts_ND = acts[hook.point].to(sae.W_dec)
        value_NL = sae.encode_chosen(acts_ND, latent_L).cpu().numpy()
        beyond_N = ~sae.keeps(acts_ND).cpu().numpy()
        ends = np.cumsum([len(one.token_ids) for one in tokens])[:-1]
        yield from map(ChosenReading, tokens, np.split(value_NL, ends), np.split(beyond_N, ends))


def read_active(
    subject: Subject,
    hook: ResolvedHook,
    sae: SparseAutoencoder,
    texts: Iterable[Text],
    context_length: int | None = None,
) -> Iterator[ActiveReading]:
    """All active latents of each text, in the order of texts.

    Raises:
        SubjectError: the tokenizer's template cannot be understood, or has none for chats.
    """
    for tokens, acts in _some_at_once(subject, [hook], texts, context_length):
        acts_ND = acts[hook.point].to(sae.W_dec)
        active = sae.encode_active(acts_ND)
        beyond_N = ~sae.keeps(acts_ND).cpu().numpy()
        token_A, latent_A, value_A = (column.cpu().numpy() for column in active)
        first = 0
        for one in tokens:
            last = first + len(one.token_ids)
            pairs = slice(*np.searchsorted(token_A, (first, last)).tolist())
            yield ActiveReading(one, token_A[pairs] - first, latent_A[pairs], value_A[pairs], beyond_N[first:last])
            first = last


def _some_at_once(
    subject: Subject, hooks: Sequence[ResolvedHook], texts: Iterable[Text], context_length: int | None
) -> Iterator[tuple[list[TextTokens], dict[HookPoint, Tensor]]]:
    """Some texts and the activations of their tokens, one text after the other, until there are no more."""
    if isinstance(texts, str):
        message = "texts is one text: give a list of texts."
        raise InputError(message)
    reader = TextReader(subject, context_length)
    for some in _groups(texts):
        found = reader.read(some)
        yield found.texts, text_activations(subject, hooks, found.sequences)


def _whole(latent: object) -> int:
    if isinstance(latent, bool) or not isinstance(latent, Integral):
        message = f"{shortened(latent)} is no number of a latent: give whole numbers."
        raise InputError(message)
    return int(latent)


def _groups(texts: Iterable[Text]) -> Iterator[list[Text]]:
    """Texts that are read together: a bounded number of characters, or one text."""
    group: list[Text] = []
    size = 0
    for text in texts:
        group.append(text)
        size += _num_characters(text)
        if size >= _CHARACTERS_AT_ONCE or len(group) == _TEXTS_AT_ONCE:
            yield group
            group, size = [], 0
    if group:
        yield group


def _num_characters(text: Text) -> int:
    if isinstance(text, str):
        return len(text)
    try:
        return sum(len(message["content"]) for message in text)
    except (KeyError, TypeError) as error:
        said = f"{text!r:.60} is neither a text nor a chat: a chat is a list of messages, each with role and content."
        raise InputError(said) from error
