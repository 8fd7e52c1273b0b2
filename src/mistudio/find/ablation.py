"""What the model loses when a feature is taken out of it: the change in cross-entropy of the next token.

The feature's part of the reconstruction (its activation times its decoder row) is subtracted at the hook point on
every token of a context; all else stays, the autoencoder's error too. As a control, another feature's direction is
subtracted instead, as long as the first was: what any change of that size does.

Shape legend: P contexts, B contexts of a batch, T tokens, D width of the hook point, V vocabulary, F features.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mistudio.find.contexts import hashed
from mistudio.find.reading import Batch, HookedSubject, Readings, batches
from mistudio.subject import forward_logits, observed, spliced


class Ablation(NamedTuple):
    """Mean change in cross-entropy for each context, in nats; NaN where nothing could be asked."""

    firing: NDArray[np.float32]  # predictions made from tokens on which the feature fires [P]
    elsewhere: NDArray[np.float32]  # other predictions behind its first firing
    control: NDArray[np.float32]  # as ``firing``, with another feature's direction taken away instead


def can_ablate(hooked: HookedSubject) -> bool:
    """Whether the model predicts the next token."""
    return hooked.subject.is_causal and hooked.subject.model.get_output_embeddings() is not None


@torch.no_grad()
def ablate(hooked: HookedSubject, read: Readings, seed: int) -> Ablation:
    """Take each context's feature out of the model; three forward passes over each."""
    changes = np.full((3, len(read.token_ids)), np.nan, dtype=np.float32)
    for batch in batches(hooked, read):
        run = _Passes(hooked, batch, torch.from_numpy(read.feature[batch.places]))
        clean_BT = run.clean_losses()
        zeroed_BT = run.losses(run.feature_B) - clean_BT
        lot_B = torch.from_numpy(hashed(read.feature[batch.places].astype(np.uint64), seed).astype(np.int64))
        other_BT = run.losses(_another(run.feature_B, lot_B, hooked.sae.width)) - clean_BT
        asked_BT = batch.text[:, :-1] & batch.text[:, 1:]
        fires_BT = (run.acts_BT.cpu() > 0)[:, :-1]
        firing_BT = fires_BT & asked_BT
        behind_BT = (fires_BT.int().cumsum(dim=1) > 0) & ~fires_BT & asked_BT
        pairs = ((zeroed_BT, firing_BT), (zeroed_BT, behind_BT), (other_BT, firing_BT))
        for row, (change_BT, where_BT) in enumerate(pairs):
            mean_B = (change_BT * where_BT).sum(dim=1) / where_BT.sum(dim=1)  # 0 / 0 is NaN
            changes[row, batch.places] = mean_B.numpy()
    return Ablation(*changes)


def _another(feature_B: Tensor, lot_B: Tensor, width: int) -> Tensor:
    """Another feature for each, by lot."""
    return (feature_B + 1 + lot_B.remainder(width - 1)) % width


class _Passes:
    """Forward passes over one batch, as it is and with what one feature a row gives taken away."""

    def __init__(self, hooked: HookedSubject, batch: Batch, feature_B: Tensor) -> None:
        self.hooked, self.batch, self.feature_B = hooked, batch, feature_B
        self.acts_BT = torch.zeros(batch.text.shape)  # of the rows' features, once the clean losses are known

    def clean_losses(self) -> Tensor:
        """Cross-entropy [B, T - 1] of the model as it is."""

        def remember(x_BTD: Tensor) -> None:
            self.acts_BT = self._own_acts(x_BTD)

        with observed(self.hooked.subject, self.hooked.ends.read, remember):
            return _losses(self.hooked, self.batch)

    def losses(self, direction_B: Tensor) -> Tensor:
        """Cross-entropy [B, T - 1] with the rows' features taken away along the directions of some features.

        The directions are made as long as those of the rows' own features.
        """
        W_dec = self.hooked.sae.W_dec
        own_BE, rows_BE = (W_dec[each_B.to(W_dec.device)].float() for each_B in (self.feature_B, direction_B))
        rows_BE = functional.normalize(rows_BE, dim=1) * own_BE.norm(dim=1, keepdim=True)

        def take_away(y_BTE: Tensor) -> Tensor:
            part_BTE = self.acts_BT.to(y_BTE.device)[..., None] * rows_BE[:, None].to(y_BTE.device)
            changed_BTE: Tensor = y_BTE - part_BTE.to(y_BTE)
            return changed_BTE

        with spliced(self.hooked.subject, self.hooked.ends.write, take_away):
            return _losses(self.hooked, self.batch)

    def _own_acts(self, x_BTD: Tensor) -> Tensor:
        """The activation of each row's feature on its text [B, T]."""
        sae, text_BT = self.hooked.sae, self.batch.text.to(x_BTD.device)
        active = sae.encode_active(x_BTD[text_BT].to(sae.W_dec))
        row_N = text_BT.nonzero()[:, 0]
        own_A = active.feature_A == self.feature_B.to(row_N.device)[row_N[active.token_A]]
        acts_N = torch.zeros(len(row_N), device=x_BTD.device)
        acts_N[active.token_A[own_A]] = active.value_A[own_A].float()
        acts_BT = torch.zeros(text_BT.shape, device=x_BTD.device)
        acts_BT[text_BT] = acts_N
        return acts_BT


def _losses(hooked: HookedSubject, batch: Batch) -> Tensor:
    """Cross-entropy of each next token [B, T - 1], on the CPU."""
    logits_BTV = forward_logits(hooked.subject, batch.ids, batch.mask)[:, :-1]
    answer_BT = batch.ids[:, 1:].to(logits_BTV.device)
    losses: Tensor = functional.cross_entropy(logits_BTV.flatten(0, 1).float(), answer_BT.flatten(), reduction="none")
    return losses.view(answer_BT.shape).cpu()
