"""A language model without some of the latents at one of its hook points: what it then says, and how well it predicts.

What it says comes from the engine, with edits that ablate. What it makes of texts that are there is computed from the
hook point on: the texts are run as far as that once, whatever is taken out there.

Shape legend: B sequences, R rows that go on, T tokens, D width of the hook point, F latents, L of them, N tokens,
V vocabulary.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mistudio.instrument import ListedSequences, Session, token_batches
from mistudio.instrument.compiled import Nameable, compile_edits
from mistudio.instrument.edits import Ablate, Edits, Where
from mistudio.instrument.engine import Engine, Generation
from mistudio.instrument.resume import continue_to_head, head_logits, run_to
from mistudio.instrument.where import plain_prompt
from mistudio.instrument.write_all import write_all
from mistudio.sae import SparseAutoencoder
from mistudio.subject import ResolvedHook, Subject, text_rows

_EVERYWHERE = Where(specials=True)
_ROWS = 64  # prompts that are continued together


class Model(NamedTuple):
    """A language model with an autoencoder at one of its hook points."""

    session: Session

    @property
    def subject(self) -> Subject:
        """The language model."""
        return self.session.subject

    @property
    def hook(self) -> ResolvedHook:
        """Where the autoencoder reads and writes."""
        return self.session.placed().ends.read

    @property
    def sae(self) -> SparseAutoencoder:
        """The autoencoder."""
        return self.session.placed().sae


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


def continuation(model: Model, prompts: list[list[int]], latents: list[int], count: int) -> Tensor:
    """The likeliest next tokens [B, T] with some latents ablated, on every token."""
    edits = None
    if latents:
        ablation = Ablate(features=tuple(latents), where=_EVERYWHERE)
        edits = compile_edits(Edits(edits=(ablation,)), Nameable(model.session))
    slots = max(map(len, prompts)) + count
    with Engine(model.session, min(len(prompts), _ROWS), slots) as engine:
        written = [Generation(plain_prompt(prompt, engine.special_ids), count, edits) for prompt in prompts]
        deque(write_all(engine, written), maxlen=0)
    return torch.tensor([one.tokens for one in written])


class Resumed:
    """Texts that were run as far as the hook point, to be gone on with as often as something else is taken out.

    Args:
        model: the model.
        ids_BT: the texts.
        mask_BT: where they are not padding; None: nowhere.
    """

    def __init__(self, model: Model, ids_BT: Tensor, mask_BT: Tensor | None) -> None:
        self._model, self._prefix = model, run_to(model.subject, [model.hook], ids_BT, mask_BT)
        self.acts_BTD = self._prefix.values[model.hook.point]

    def values(self, latents: Sequence[int]) -> Tensor:
        """Activations of latents [B, T, L]."""
        latents_L = torch.tensor(latents, dtype=torch.int64, device=self.acts_BTD.device)
        acts_NL = self._model.sae.encode_chosen(self.acts_BTD.flatten(0, 1), latents_L)
        return acts_NL.view(*self.acts_BTD.shape[:2], len(latents))

    def without(self, latents: Sequence[int]) -> Tensor:
        """What is left at the hook point without the parts that some latents write [B, T, D]."""
        if not latents:
            return self.acts_BTD
        return self.acts_BTD - self.values(latents) @ self._model.sae.W_dec[list(latents)]

    @torch.no_grad()
    def logits(self, changed_RTD: Tensor, asked_RT: Tensor, rows_R: Tensor | None = None) -> Tensor:
        """Logits [N, V] at some tokens, in order.

        Args:
            changed_RTD: what is at the hook point.
            asked_RT: the tokens.
            rows_R: the text that each row goes on from; None: each once.
        """
        stream_RTE = continue_to_head(self._model.subject, self._prefix, changed_RTD, rows_R)
        return head_logits(self._model.subject, stream_RTE[asked_RT])


@torch.no_grad()
def mean_loss(model: Model, rows: list[list[int]], latents: list[int]) -> float:
    """Mean cross-entropy of the next token in nats, with some latents ablated."""
    total, count = 0.0, 0
    for _, (ids_BT, mask_BT, text_BT) in token_batches(model.subject, sequences_of(rows)):
        resumed, asked_BT = Resumed(model, ids_BT, mask_BT), text_BT.clone()
        asked_BT[:, :-1], asked_BT[:, -1] = text_BT[:, 1:], False
        logits_NV = resumed.logits(resumed.without(latents), asked_BT)
        answer_N = ids_BT[:, 1:][text_BT[:, 1:]]
        total += float(functional.cross_entropy(logits_NV, answer_N, reduction="sum"))
        count += len(answer_N)
    return total / count
