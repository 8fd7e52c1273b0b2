"""Which input tokens a feature's activation comes from, in the contexts that are shown.

What is traced is the encoder's pre-activation at the peak, which is the activation wherever it is above the
threshold, and still has a gradient below it. By two measures, on the token embeddings:

* gradient x input (Simonyan et al. 2014; Shrikumar et al. 2017): what the embeddings would add if all were linear;
* integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) from the mean embedding of the vocabulary: they
  add up to the difference that the text makes, up to the error of a sum over a few steps (midpoint rule).

Shape legend: P contexts, B contexts of a batch, S steps, R = S x B rows, T tokens, D width of the hook point, E of the
embeddings, V vocabulary.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mistudio.find.reading import BATCH_TOKENS, GRADIENT_BYTES, Batch, HookedSubject, Readings, batches, traced_bytes
from mistudio.subject import Subject, observed
from mistudio.subject.cost import subject_shape
from mistudio.subject.structure import Tap
from mistudio.subject.taps import disturbing
from mistudio.subject.trace import StopForward

_TOKENS_AT_ONCE = 8192


class Attribution(NamedTuple):
    """Of each context, figures beside the tokens that were read; special tokens have 0."""

    gradient: list[NDArray[np.float32]]  # P times [T]
    integrated: list[NDArray[np.float32]]


def attribute(hooked: HookedSubject, read: Readings, steps: int) -> Attribution:
    """Trace each context's feature to its tokens, by ``steps`` passes with gradients as far as the hook point.

    The steps of a batch run side by side, as many as there is memory for.
    """
    none = np.empty(0, dtype=np.float32)
    found = Attribution([none] * len(read.token_ids), [none] * len(read.token_ids))
    baseline_E, tokens = _mean_embedding(hooked.subject), _tokens_at_once(hooked)
    for batch in batches(hooked, read.token_ids, max(tokens // steps, 1)):
        feature_B, peak_B = (torch.from_numpy(each[batch.places]) for each in (read.feature, read.peak))
        traced = _Traced(hooked, batch, feature_B, peak_B, baseline_E)
        own_BTE, mean_BTE = traced.gradients(steps, max(tokens // batch.ids.numel(), 1))
        text_BT1 = batch.text.to(own_BTE.device)[..., None]
        gradient_BT = (own_BTE * traced.embedded_BTE * text_BT1).sum(dim=-1).float().cpu().numpy()
        integrated_BT = (mean_BTE * traced.change_BTE).sum(dim=-1).float().cpu().numpy()
        for row, place in enumerate(batch.places.tolist()):
            length = len(read.token_ids[place])
            found.gradient[place], found.integrated[place] = gradient_BT[row, :length], integrated_BT[row, :length]
    return found


def _tokens_at_once(hooked: HookedSubject) -> int:
    """Tokens of a pass whose activations fit the memory set aside for them."""
    shape, blocks = subject_shape(hooked.subject), hooked.ends.read.point.layer + 1
    kept_bytes = blocks * traced_bytes(shape, hooked.subject.model.dtype.itemsize)
    return max(min(GRADIENT_BYTES // kept_bytes, BATCH_TOKENS), 1)


@torch.no_grad()
def _mean_embedding(subject: Subject) -> Tensor:
    """What the embedding module returns on average over the vocabulary [E]; some scale what they look up."""
    embed = subject.model.get_input_embeddings()
    total = torch.zeros((), device=subject.device)
    for start in range(0, subject.vocab_size, _TOKENS_AT_ONCE):
        ids = torch.arange(start, min(start + _TOKENS_AT_ONCE, subject.vocab_size), device=subject.device)
        total = total + embed(ids[None])[0].float().sum(dim=0)
    return total / subject.vocab_size


class _Traced:
    """The embeddings of a batch, on their way from the baseline to the text."""

    def __init__(
        self, hooked: HookedSubject, batch: Batch, feature_B: Tensor, peak_B: Tensor, baseline_E: Tensor
    ) -> None:
        self.hooked, self.batch, self.feature_B, self.peak_B = hooked, batch, feature_B, peak_B
        with torch.no_grad():
            self.embedded_BTE: Tensor = hooked.subject.model.get_input_embeddings()(batch.ids)
        text_BT1 = batch.text.to(self.embedded_BTE.device)[..., None]
        self.change_BTE = (self.embedded_BTE - baseline_E.to(self.embedded_BTE)) * text_BT1

    def gradients(self, steps: int, at_once: int) -> tuple[Tensor, Tensor]:
        """The gradient at the text itself, and the mean of those at the other steps, from the baseline on."""
        points = steps - 1
        missing_S = torch.tensor([0.0, *(1 - (step + 0.5) / points for step in range(points))])
        own_BTE, summed_BTE = torch.empty(0), torch.zeros_like(self.embedded_BTE)
        for first in range(0, steps, at_once):
            gradient_SBTE = self._gradient(missing_S[first : first + at_once])
            if first == 0:
                own_BTE = gradient_SBTE[0]
            summed_BTE += gradient_SBTE[1 if first == 0 else 0 :].sum(dim=0)
        return own_BTE, summed_BTE / points

    @torch.enable_grad()
    def _gradient(self, missing_S: Tensor) -> Tensor:
        """The gradient of the features at the peaks with respect to the embeddings, at some steps [S, B, T, E]."""
        steps, model = len(missing_S), self.hooked.subject.model
        missing_S111 = missing_S.to(self.embedded_BTE)[:, None, None, None]
        leaf_SBTE = (self.embedded_BTE - missing_S111 * self.change_BTE).requires_grad_(True)
        reached: list[Tensor] = []

        def stop(x_RTD: Tensor) -> None:
            reached.append(x_RTD)
            raise StopForward

        embeddings = Tap(model.get_input_embeddings(), "output")
        mask = None if self.batch.mask is None else self.batch.mask.repeat(steps, 1)
        try:
            with (
                disturbing(embeddings, lambda _value: leaf_SBTE.flatten(0, 1)),
                observed(self.hooked.subject, self.hooked.ends.read, stop),
            ):
                model(input_ids=self.batch.ids.repeat(steps, 1), attention_mask=mask)
        except StopForward:
            (x_RTD,) = reached
        gradient_SBTE: Tensor = torch.autograd.grad(self._summed(x_RTD, steps), leaf_SBTE)[0]
        return gradient_SBTE

    def _summed(self, x_RTD: Tensor, steps: int) -> Tensor:
        """The sum of the pre-activations at the peaks, each of which depends on a row of its own."""
        peak_R = self.peak_B.repeat(steps).to(x_RTD.device)
        peak_RD = x_RTD[torch.arange(len(peak_R), device=x_RTD.device), peak_R].float()
        W_enc = self.hooked.sae.W_enc.detach()
        direction_RD = W_enc[self.feature_B.to(W_enc.device)].repeat(steps, 1).to(peak_RD)
        summed: Tensor = (peak_RD * direction_RD).sum()
        return summed
