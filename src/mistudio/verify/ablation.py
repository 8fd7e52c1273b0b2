"""A language model without some of the latents at one of its hook points: what it then says, and how well it predicts.

Shape legend: B sequences, T tokens, D width of the hook point, F latents, L of them, N tokens, V vocabulary.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mistudio.instrument import ListedSequences, token_batches
from mistudio.sae import SparseAutoencoder
from mistudio.subject import ResolvedHook, Subject, forward_logits, spliced, text_rows
from mistudio.verify.poison import padded


class Model(NamedTuple):
    """A language model with an autoencoder at one of its hook points."""

    subject: Subject
    hook: ResolvedHook
    sae: SparseAutoencoder


class Active(NamedTuple):
    """Active latents, one entry for each on each token."""

    document: NDArray[np.int64]
    position: NDArray[np.int64]  # in its sequence, the token that begins it counted
    latent: NDArray[np.int64]
    value: NDArray[np.float32]
    num_tokens: int

    def mass(self, width: int, is_counted: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """The mean activation of each latent [F], of all entries or of those that are counted."""
        weights = self.value if is_counted is None else self.value * is_counted
        return np.bincount(self.latent, weights=weights, minlength=width) / self.num_tokens


def encode(model: Model, rows: list[list[int]]) -> Active:
    """Every latent that is active on a token of some documents."""
    parts, num_tokens = [], 0
    for number_B, batch in token_batches(model.subject, sequences_of(rows)):
        found = text_rows(model.subject, [model.hook], batch)
        active = model.sae.encode_active(found.acts[model.hook.point])
        document_N = torch.from_numpy(number_B)[found.sequence_N]
        parts.append((document_N[active.token_A], found.place_N[active.token_A], active.feature_A, active.value_A))
        num_tokens += len(document_N)
    document, position, latent, value = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return Active(document, position, latent, value, num_tokens)


def sequences_of(rows: list[list[int]]) -> ListedSequences:
    """Documents as sequences; what begins one is no text."""
    return ListedSequences([np.array(row, dtype=np.int32) for row in rows], num_prefix=1)


@torch.no_grad()
def continuation(model: Model, prompts: list[list[int]], latents: list[int], count: int) -> Tensor:
    """The likeliest next tokens [B, T] with some latents ablated."""
    rows = [list(prompt) for prompt in prompts]
    for _ in range(count):
        ids_BT, is_text_BT = padded(rows)
        with ablated(model, latents):
            logits_BTV = forward_logits(model.subject, ids_BT, is_text_BT.long())
        last_B = is_text_BT.sum(dim=1) - 1
        next_B = logits_BTV[torch.arange(len(rows)), last_B].argmax(dim=-1)
        rows = [[*row, token] for row, token in zip(rows, next_B.tolist(), strict=True)]
    return torch.tensor([row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)])


def ablated(model: Model, latents: list[int]) -> AbstractContextManager[None]:
    """Within this context the parts that some latents write are taken out, everywhere."""

    def take_out(x_BTD: Tensor) -> Tensor:
        acts_NL = model.sae.encode_chosen(x_BTD.flatten(0, 1), torch.tensor(latents))
        return x_BTD - (acts_NL @ model.sae.W_dec[latents]).view_as(x_BTD)

    return spliced(model.subject, model.hook, take_out) if latents else nullcontext()


@torch.no_grad()
def mean_loss(model: Model, rows: list[list[int]], latents: list[int]) -> float:
    """Mean cross-entropy of the next token in nats, with some latents ablated."""
    total, count = 0.0, 0
    for _, (ids_BT, mask_BT, text_BT) in token_batches(model.subject, sequences_of(rows)):
        with ablated(model, latents):
            logits_BTV = forward_logits(model.subject, ids_BT, mask_BT)[:, :-1]
        asked_BT = text_BT[:, 1:]
        total += float(functional.cross_entropy(logits_BTV[asked_BT], ids_BT[:, 1:][asked_BT], reduction="sum"))
        count += int(asked_BT.sum())
    return total / count
