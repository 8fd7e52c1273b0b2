"""What the model loses when a feature is taken out of it: the change in cross-entropy of the next token.

The feature's part of the reconstruction (its activation times its decoder row) is subtracted at the hook point on
every token of a context; all else stays, the autoencoder's error too. As a control, another feature's direction is
subtracted instead, as long as the first was: what any change of that size does.

Contexts that begin alike are one passage, the longest of them, which the model reads as far as the hook once: a token
of a causal model sees only those before it. From there it goes on as it is, and with each change beside; the output
head is asked for the predictions that count, and for no others.

Shape legend: P contexts, M contexts of a batch, B its passages, R its runs from the hook on, T tokens, D width of the
hook point it reads, E of the one it writes.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mistudio.find.contexts import hashed
from mistudio.find.passages import Passages, join_alike
from mistudio.find.reading import BATCH_TOKENS, Batch, HookedSubject, Readings, batches
from mistudio.find.runs import Change, losses_from, run_to_hook
from mistudio.instrument.resume import Prefix


class Ablation(NamedTuple):
    """Mean change in cross-entropy for each context, in nats; NaN where nothing could be asked."""

    firing: NDArray[np.float32]  # predictions made from tokens on which the feature fires [P]
    elsewhere: NDArray[np.float32]  # other predictions behind its first firing
    control: NDArray[np.float32]  # as ``firing``, with another feature's direction taken away instead


class _Members(NamedTuple):
    """The contexts of a batch, what their features do on it, and the predictions that are asked for."""

    place_M: NDArray[np.int64]  # which contexts
    passage_M: Tensor  # where in the batch each is read
    feature_M: Tensor
    acts_MT: Tensor  # activation of its feature
    firing_MT: Tensor  # of the predictions [M, T - 1], on the CPU
    behind_MT: Tensor


def can_ablate(hooked: HookedSubject) -> bool:
    """Whether the model predicts the next token."""
    return hooked.subject.is_causal and hooked.subject.model.get_output_embeddings() is not None


@torch.no_grad()
def ablate(hooked: HookedSubject, read: Readings, seed: int) -> Ablation:
    """Take each context's feature out of the model: two runs from the hook on, and one of the whole a passage."""
    changes = np.full((3, len(read.token_ids)), np.nan, dtype=np.float32)
    passages = join_alike(read.token_ids)
    for batch in batches(hooked, [read.token_ids[place] for place in passages.longest], BATCH_TOKENS):
        prefix = run_to_hook(hooked, batch)
        members = _members(hooked, read, passages, batch, prefix)
        if len(members.place_M):
            changes[:, members.place_M] = _changes(hooked, prefix, members, seed)
    return Ablation(*changes)


def _members(hooked: HookedSubject, read: Readings, passages: Passages, batch: Batch, prefix: Prefix) -> _Members:
    """The contexts that a batch of passages has, but those in which nothing can be asked."""
    place_M, in_batch_M = passages.members(batch.places)
    length_M1 = torch.tensor([len(read.token_ids[place]) for place in place_M])[:, None]
    feature_M, passage_M = torch.from_numpy(read.feature[place_M]), torch.from_numpy(in_batch_M)
    acts_MT = _acts(hooked, batch, prefix.values[hooked.ends.read.point], passage_M, feature_M)
    text_MT = batch.text[passage_M] & (torch.arange(batch.text.shape[1]) < length_M1)
    asked_MT, fires_MT = text_MT[:, :-1] & text_MT[:, 1:], (acts_MT.cpu() > 0)[:, :-1]
    behind_MT = (fires_MT.int().cumsum(dim=1) > 0) & ~fires_MT & asked_MT
    firing_MT = fires_MT & asked_MT
    some_M = (firing_MT | behind_MT).any(dim=1)
    kept = (passage_M, feature_M, acts_MT, firing_MT, behind_MT)
    return _Members(place_M[some_M.numpy()], *(each[some_M.to(each.device)] for each in kept))


def _acts(hooked: HookedSubject, batch: Batch, x_BTD: Tensor, passage_M: Tensor, feature_M: Tensor) -> Tensor:
    """The activation of each context's feature on the text of its passage [M, T]."""
    sae, text_BT = hooked.sae, batch.text.to(x_BTD.device)
    active = sae.encode_active(x_BTD[text_BT].to(sae.W_dec))
    pair_A, order_A = (active.token_A * sae.width + active.feature_A).to(x_BTD.device).sort()
    token_BT = torch.full(text_BT.shape, -1, device=x_BTD.device)
    token_BT[text_BT] = torch.arange(int(text_BT.sum()), device=x_BTD.device)
    token_MT = token_BT[passage_M.to(x_BTD.device)]
    pair_MT = token_MT * sae.width + feature_M.to(x_BTD.device)[:, None]
    place_MT = torch.searchsorted(pair_A, pair_MT).clamp(max=max(len(pair_A) - 1, 0))
    if not len(pair_A):
        return torch.zeros(pair_MT.shape, device=x_BTD.device)
    value_A = active.value_A.to(x_BTD.device)[order_A].float()
    return torch.where((token_MT >= 0) & (pair_A[place_MT] == pair_MT), value_A[place_MT], 0.0)


def _changes(hooked: HookedSubject, prefix: Prefix, members: _Members, seed: int) -> NDArray[np.float32]:
    """Mean changes of the loss [3, M]."""
    change = _change(hooked, prefix, members, seed)
    num_members = len(members.place_M)
    losses_RT = losses_from(hooked, prefix, change)
    zeroed_MT, other_MT = losses_RT[-2 * num_members :].chunk(2)
    clean_MT = losses_RT[members.passage_M]  # the passages come first
    pairs = ((zeroed_MT, members.firing_MT), (zeroed_MT, members.behind_MT), (other_MT, members.firing_MT))
    means = [
        torch.where(where_MT, changed_MT - clean_MT, 0).sum(dim=1) / where_MT.sum(dim=1)  # 0 / 0 is NaN
        for changed_MT, where_MT in pairs
    ]
    return torch.stack(means).numpy()


def _change(hooked: HookedSubject, prefix: Prefix, members: _Members, seed: int) -> Change:
    """The runs: each passage as it is, each context without its feature, and each without the control instead."""
    lot_M = torch.from_numpy(hashed(members.feature_M.numpy().astype(np.uint64), seed).astype(np.int64))
    own_ME, other_ME = _directions(hooked, members.feature_M, lot_M)
    asked_MT = members.firing_MT | members.behind_MT
    none_BT = torch.zeros(len(prefix.ids_BT), asked_MT.shape[1], dtype=torch.int32)
    asked_BT = none_BT.index_add(0, members.passage_M, asked_MT.int()) > 0
    nothing_BT = members.acts_MT.new_zeros(prefix.ids_BT.shape)
    return Change(
        passage_R=torch.cat([torch.arange(len(asked_BT)), members.passage_M, members.passage_M]),
        times_RT=torch.cat([nothing_BT, members.acts_MT, members.acts_MT]),
        direction_RE=torch.cat([own_ME.new_zeros(len(asked_BT), own_ME.shape[1]), own_ME, other_ME]),
        asked_RT=torch.cat([asked_BT, asked_MT, members.firing_MT]),
    )


def _directions(hooked: HookedSubject, feature_M: Tensor, lot_M: Tensor) -> tuple[Tensor, Tensor]:
    """Decoder rows of the features, and those of others by lot, made as long [M, E]."""
    W_dec = hooked.sae.W_dec
    other_M = _another(feature_M, lot_M, hooked.sae.width)
    own_ME, rows_ME = (W_dec[each_M.to(W_dec.device)].float() for each_M in (feature_M, other_M))
    return own_ME, functional.normalize(rows_ME, dim=1) * own_ME.norm(dim=1, keepdim=True)


def _another(feature_M: Tensor, lot_M: Tensor, width: int) -> Tensor:
    """Another feature for each, by lot."""
    return (feature_M + 1 + lot_M.remainder(width - 1)) % width
