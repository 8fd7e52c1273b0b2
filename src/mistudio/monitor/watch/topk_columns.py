"""Chosen latents of an autoencoder on every token, as cheaply as can be without changing a value.

Where latents do not compete (all architectures but TopK) the chosen latents' rows of the encoder are enough.

In a TopK autoencoder a latent is active where it is among the K largest of all F, so that in general all F have to be
computed. But most tokens can be told without them. A chosen latent whose pre-activation is not positive is not active.
Nor is one that K of some *rivals* exceed, whoever they are: the K-th largest of a few latents is never above the K-th
largest of all. So with the latents that are active most often as rivals, a token is decided by C + S products in place
of F, unless a chosen latent comes near to being active on it; then all are computed. Nothing is estimated: the values
are those of the whole encoder, up to the order of sums in a product.

What this saves depends on how often the chosen latents fire. Where they are on for nearly every token (a thousand of
some thousands are), all are computed all the same, and rivals are given up.

Shape legend: N tokens, D width of the input, F latents, C chosen ones, S rivals, K active latents a token.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mistudio.sae import SparseAutoencoder, ThresholdedAutoencoder
from mistudio.sae.selection import top_indices
from mistudio.sae.topk import TopKAutoencoder

_LEARN_TOKENS = 2048  # read in full before rivals are chosen
_RIVALS_SHARES = (32, 16, 8, 4)  # of all latents, one in so many; those that save most are taken
_WORTH = 0.8  # where rivals and what is left over cost more than this, they are given up
_LOOK_TOKENS = 65_536  # after which it is looked at again


def column_reader(sae: SparseAutoencoder, latents: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """What gives the values [..., C] of some latents, in their order, of activations [..., D]; in float32.

    Raises:
        InputError: there is no such latent.
    """
    latents_C = torch.tensor(latents, dtype=torch.int64, device=sae.W_dec.device)
    encode = sae.encoder_of(latents_C)  # checks the numbers
    if type(sae) is TopKAutoencoder:
        encode = TopKColumns(sae, latents_C)
    elif isinstance(sae, ThresholdedAutoencoder):
        encode = threshold_columns(sae, latents_C)
    dtype = sae.W_enc.dtype

    def read(x_D: Tensor) -> Tensor:
        flat_ND = x_D.reshape(-1, x_D.shape[-1]).to(dtype)
        return encode(flat_ND).float().reshape(*x_D.shape[:-1], -1)

    return read


def threshold_columns(sae: ThresholdedAutoencoder, latents_C: Tensor) -> Callable[[Tensor], Tensor]:
    """Chosen latents of an autoencoder whose latents do not compete: the values of its ``encoder_of``.

    What is below its threshold is multiplied by zero, which takes a CPU a fraction of the time that choosing takes.
    """
    W_CD, b_C = sae.W_enc.detach()[latents_C], sae.b_enc.detach()[latents_C]
    threshold_C = sae.threshold_F.detach().expand(sae.width)[latents_C]

    @torch.no_grad()
    def encode(x_ND: Tensor) -> Tensor:
        pre_NC = functional.linear(x_ND, W_CD, b_C)
        acts_NC = sae.activate(pre_NC, latents_C).clamp(min=0)
        acts_NC.mul_((pre_NC - threshold_C).sign_().clamp_(min=0))
        if sae.norm_limit is None:
            return acts_NC
        return acts_NC.masked_fill_(~sae.norm_limit.keeps(x_ND)[:, None], 0.0)

    return encode


class TopKColumns:
    """Chosen latents of a TopK autoencoder; see the module's docstring.

    Args:
        sae: the autoencoder.
        latents_C: which latents.

    Attributes:
        tokens: that were asked for so far.
        tokens_in_full: of those, how many needed all latents.
    """

    def __init__(self, sae: TopKAutoencoder, latents_C: Tensor) -> None:
        self._whole = sae.encoder_of(latents_C)  # checks the numbers; knows what to do with equals
        self._sae, self._latents_C = sae, latents_C
        self._W_CD, self._b_C = sae.W_enc.detach()[latents_C], sae.b_enc.detach()[latents_C]
        self._times_F = torch.zeros(sae.width, dtype=torch.int64, device=latents_C.device)
        self._rivals: tuple[Tensor, Tensor] | None = None
        self._learnt = self._looked = self._left = 0
        self._until = 0
        self.tokens = self.tokens_in_full = 0

    @torch.no_grad()
    def __call__(self, x_ND: Tensor) -> Tensor:
        """Activations [N, C]."""
        pre_NC = functional.linear(x_ND, self._W_CD, self._b_C)
        best_N = pre_NC.amax(dim=1)
        left_M = (best_N > 0).nonzero().squeeze(1)
        self.tokens += len(x_ND)
        if self._rivals is not None and len(left_M):
            left_M = self._beyond_rivals(x_ND, best_N, left_M)
        self.tokens_in_full += len(left_M)
        acts_NC = torch.zeros_like(pre_NC)
        if len(left_M):
            acts_NC[left_M] = self._in_full(x_ND[left_M] if len(left_M) < len(x_ND) else x_ND)
        if self._sae.norm_limit is None:
            return acts_NC
        return acts_NC.masked_fill_(~self._sae.norm_limit.keeps(x_ND)[:, None], 0.0)

    def _beyond_rivals(self, x_ND: Tensor, best_N: Tensor, left_M: Tensor) -> Tensor:
        """The tokens that rivals do not decide."""
        assert self._rivals is not None  # noqa: S101
        x_MD = x_ND[left_M] if len(left_M) < len(x_ND) else x_ND
        pre_MS = functional.linear(x_MD, *self._rivals)
        k = self._sae.config.k
        least_M = pre_MS.gather(1, top_indices(pre_MS, k)).amin(dim=1)
        # The two products round differently: what is as near as that is computed in full.
        near_M = best_N[left_M] >= least_M - 1e-3 * least_M.abs()
        self._looked += len(left_M)
        self._left += int(near_M.sum())
        if self._looked >= _LEARN_TOKENS:
            if self._left / self._looked + len(self._rivals[1]) / self._sae.width > _WORTH:
                self._give_up()
            self._looked = self._left = 0
        return left_M[near_M]

    def _give_up(self) -> None:
        """Go on without rivals, for a while."""
        self._rivals, self._until, self._learnt = None, self.tokens + _LOOK_TOKENS, 0

    def _in_full(self, x_MD: Tensor) -> Tensor:
        """Activations of the chosen latents [M, C] by all pre-activations."""
        sae, k = self._sae, self._sae.config.k
        pre_MF = functional.linear(x_MD, sae.W_enc, sae.b_enc)
        top_MK = top_indices(pre_MF, min(k, sae.width))
        least_M1 = pre_MF.gather(1, top_MK).amin(dim=1, keepdim=True)
        pre_MC = pre_MF[:, self._latents_C]
        self._learn(pre_MF, top_MK, pre_MC.amax(dim=1))
        acts_MC = torch.where((pre_MC >= least_M1) & (pre_MC > 0), pre_MC, 0.0)
        tied_M = ((pre_MC == least_M1) & (pre_MC > 0)).any(dim=1)
        if bool(tied_M.any()):
            # Equals may compete for the last place; the chosen latent is often the last one itself, which is no tie.
            is_more_M = (pre_MF >= least_M1).sum(dim=1) > k
            tied_M &= is_more_M
            if bool(tied_M.any()):
                acts_MC[tied_M] = self._whole(x_MD[tied_M])
        return acts_MC

    def _learn(self, pre_MF: Tensor, top_MK: Tensor, best_M: Tensor) -> None:
        """Count which latents are among the largest, until there are enough to choose rivals by."""
        if self._rivals is not None or self.tokens < self._until:
            return
        self._times_F += torch.bincount(top_MK.flatten(), minlength=self._sae.width)
        self._learnt += len(top_MK)
        if self._learnt >= _LEARN_TOKENS:
            self._choose(pre_MF, best_M)
            self._times_F.zero_()

    def _choose(self, pre_MF: Tensor, best_M: Tensor) -> None:
        """As many of the latents that are active most often as would have saved most on the tokens given."""
        order_F, k = self._times_F.argsort(descending=True), self._sae.config.k
        costs: dict[int, float] = {}
        for share in _RIVALS_SHARES:
            count = self._sae.width // share
            if count >= 2 * k:
                least_M = pre_MF[:, order_F[:count]].topk(k, dim=1, sorted=False).values.amin(dim=1)
                costs[count] = count / self._sae.width + float((best_M >= least_M).float().mean())
        count = min(costs, key=lambda each: costs[each], default=0)
        if not count or costs[count] > _WORTH:
            self._give_up()
            return
        rival_S = order_F[:count]
        self._rivals = (self._sae.W_enc.detach()[rival_S], self._sae.b_enc.detach()[rival_S])
