"""Which input tokens a feature's activation comes from, in the contexts that are shown.

What is traced is the encoder's pre-activation at the peak, which is the activation wherever it is above the
threshold, and still has a gradient below it. By two measures, on the token embeddings:

* gradient x input (Simonyan et al. 2014; Shrikumar et al. 2017): what the embeddings would add if all were linear;
* integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) from the mean embedding of the vocabulary: they
  add up to the difference that the text makes, up to the error of a sum over a few steps (midpoint rule).

Shape legend: P contexts, B contexts of a batch, T tokens, D width of the hook point, E of the embeddings, V vocabulary.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mistudio.find.reading import Batch, HookedSubject, Readings, batches
from mistudio.subject import Subject, observed
from mistudio.subject.trace import StopForward

_TOKENS_AT_ONCE = 8192


class Attribution(NamedTuple):
    """Of each context, figures beside the tokens that were read; special tokens have 0."""

    gradient: list[NDArray[np.float32]]  # P times [T]
    integrated: list[NDArray[np.float32]]


def attribute(hooked: HookedSubject, read: Readings, steps: int) -> Attribution:
    """Trace each context's feature to its tokens, by ``steps`` passes with gradients as far as the hook point."""
    none = np.empty(0, dtype=np.float32)
    found = Attribution([none] * len(read.token_ids), [none] * len(read.token_ids))
    baseline_E = _mean_embedding(hooked.subject)
    for batch in batches(hooked, read):
        embedded_BTE = hooked.subject.model.get_input_embeddings()(batch.ids).detach()
        text_BT1 = batch.text.to(embedded_BTE.device)[..., None]
        change_BTE = (embedded_BTE - baseline_E.to(embedded_BTE)) * text_BT1
        feature_B = torch.from_numpy(read.feature[batch.places])
        peak_B = torch.from_numpy(read.peak[batch.places])
        own_BTE = _gradient(hooked, batch, embedded_BTE, feature_B, peak_B)
        summed_BTE = torch.zeros_like(change_BTE)
        for step in range(steps - 1):
            missing = 1 - (step + 0.5) / (steps - 1)
            summed_BTE += _gradient(hooked, batch, embedded_BTE - missing * change_BTE, feature_B, peak_B)
        gradient_BT = (own_BTE * embedded_BTE * text_BT1).sum(dim=-1).float().cpu().numpy()
        integrated_BT = (summed_BTE * change_BTE / (steps - 1)).sum(dim=-1).float().cpu().numpy()
        for row, place in enumerate(batch.places.tolist()):
            length = len(read.token_ids[place])
            found.gradient[place], found.integrated[place] = gradient_BT[row, :length], integrated_BT[row, :length]
    return found


@torch.no_grad()
def _mean_embedding(subject: Subject) -> Tensor:
    """What the embedding module returns on average over the vocabulary [E]; some scale what they look up."""
    embed = subject.model.get_input_embeddings()
    total = torch.zeros((), device=subject.device)
    for start in range(0, subject.vocab_size, _TOKENS_AT_ONCE):
        ids = torch.arange(start, min(start + _TOKENS_AT_ONCE, subject.vocab_size), device=subject.device)
        total = total + embed(ids[None])[0].float().sum(dim=0)
    return total / subject.vocab_size


@torch.enable_grad()
def _gradient(hooked: HookedSubject, batch: Batch, embedded_BTE: Tensor, feature_B: Tensor, peak_B: Tensor) -> Tensor:
    """The gradient of the features at the peaks with respect to the embeddings [B, T, E]."""
    leaf_BTE = embedded_BTE.detach().requires_grad_(True)
    reached: list[Tensor] = []

    def stop(x_BTD: Tensor) -> None:
        reached.append(x_BTD)
        raise StopForward

    embedding = hooked.subject.model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda _module, _args, _output: leaf_BTE)
    try:
        with observed(hooked.subject, hooked.ends.read, stop):
            hooked.subject.model(input_ids=batch.ids, attention_mask=batch.mask)
    except StopForward:
        (x_BTD,) = reached
    finally:
        handle.remove()
    rows_B = torch.arange(len(peak_B), device=x_BTD.device)
    peak_BD = x_BTD[rows_B, peak_B.to(x_BTD.device)].float()
    directions_BD = hooked.sae.W_enc.detach()[feature_B.to(hooked.sae.W_enc.device)].to(peak_BD)
    (gradient_BTE,) = torch.autograd.grad((peak_BD * directions_BD).sum(), leaf_BTE)
    return gradient_BTE
