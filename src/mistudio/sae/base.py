"""The interface of a sparse autoencoder: encode, decode, losses, and what training does around a step.

An architecture is a subclass that says which latents are active and what its losses are. All share the
four weights below, and the form in which they are saved.

Shape legend: T tokens, D model width, F features (latents), A active (token, latent) pairs.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mistudio.sae.config import StandardConfig, TopKConfig

# Pre-activations held at once while encoding: large enough for fast products, whatever the width.
_BLOCK_PREACTIVATIONS = 1 << 24


class ActiveLatents(NamedTuple):
    """The active latents of T tokens as sorted pairs: by token, then by latent."""

    token_A: Tensor  # which token, int64
    feature_A: Tensor  # which latent, int64
    value_A: Tensor  # its activation, > 0


class Losses(NamedTuple):
    """What one training step minimises, and what it reports."""

    total: Tensor  # differentiable scalar
    objective: Tensor  # detached scalar that tells progress: the total without losses that only help at times
    parts: dict[str, Tensor]  # detached scalars by name: fvu, l0, and the penalties of the architecture
    fired_F: Tensor  # on how many tokens of the batch each latent is active


class SparseAutoencoder(nn.Module, ABC):
    """A dictionary of F latents over D-wide activations.

    ``W_dec`` holds one decoder direction a row, ``W_enc`` one encoder direction a row. ``b_dec`` is the
    origin of the dictionary. Weights are for activations as the model has them; while training they are
    for activations divided by ``spread``, and :meth:`fold_spread` folds that in.
    """

    spread: Tensor

    def __init__(self, config: TopKConfig | StandardConfig, d_in: int) -> None:
        super().__init__()
        self.config = config
        self.d_in = d_in
        self.W_enc = nn.Parameter(torch.zeros(config.width, d_in))
        self.b_enc = nn.Parameter(torch.zeros(config.width))
        self.W_dec = nn.Parameter(torch.zeros(config.width, d_in))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        # Root of the mean squared distance of the activations from their mean, per dimension.
        self.register_buffer("spread", torch.ones(()))

    @property
    def width(self) -> int:
        """Number of latents."""
        return self.config.width

    @abstractmethod
    def initialise(self, sample_TD: Tensor, generator: torch.Generator) -> None:
        """Set the weights before training, from a sample of activations already divided by ``spread``."""

    @property
    def ramp_fraction(self) -> float:
        """Share of training at its start in which the losses themselves change; none by default."""
        return 0.0

    @abstractmethod
    def _encode_block(self, x_TD: Tensor) -> ActiveLatents:
        """The active latents of a few tokens, whose dense pre-activations may be held at once."""

    @abstractmethod
    def losses(self, x_TD: Tensor, dead_F: Tensor, progress: float) -> Losses:
        """The losses on a batch already divided by ``spread``.

        Args:
            x_TD: activations.
            dead_F: latents that have not fired for long, as booleans.
            progress: share of training that is done, 0 to 1.
        """

    def before_step(self) -> None:
        """Change gradients before they are clipped; nothing by default."""

    def after_step(self) -> None:
        """Restore what the weights must fulfil after an optimiser step; nothing by default."""

    def revive(self, dead_F: Tensor, generator: torch.Generator) -> Tensor:
        """Start dead latents anew, and return which were; none by default."""
        return torch.zeros_like(dead_F)

    @torch.no_grad()
    def encode_active(self, x_TD: Tensor) -> ActiveLatents:
        """The active latents of each token, without gradients; memory does not grow with tokens times features."""
        block_tokens = max(_BLOCK_PREACTIVATIONS // self.width, 1)
        starts = range(0, max(len(x_TD), 1), block_tokens)
        blocks = [self._encode_block(x_TD[start : start + block_tokens]) for start in starts]
        return ActiveLatents(
            torch.cat([block.token_A + start for start, block in zip(starts, blocks, strict=True)]),
            torch.cat([block.feature_A for block in blocks]),
            torch.cat([block.value_A for block in blocks]),
        )

    def encode(self, x_TD: Tensor) -> Tensor:
        """Activations of all latents as a dense matrix [T, F]; large: prefer :meth:`encode_active`."""
        active = self.encode_active(x_TD)
        acts_TF = x_TD.new_zeros(len(x_TD), self.width)
        acts_TF[active.token_A, active.feature_A] = active.value_A
        return acts_TF

    def decode(self, acts_TF: Tensor) -> Tensor:
        """The reconstruction from a dense matrix of activations [T, D]."""
        return acts_TF @ self.W_dec + self.b_dec

    def decode_active(self, active: ActiveLatents, num_tokens: int) -> Tensor:
        """The reconstruction from active latents [T, D], through their decoder rows alone."""
        counts_T = torch.bincount(active.token_A, minlength=num_tokens)
        offsets_T = torch.cumsum(counts_T, 0) - counts_T
        bags_TD = nn.functional.embedding_bag(
            active.feature_A, self.W_dec, offsets_T, per_sample_weights=active.value_A, mode="sum"
        )
        return bags_TD + self.b_dec

    @torch.no_grad()
    def reconstruct(self, x_TD: Tensor) -> Tensor:
        """Encode and decode [T, D]."""
        return self.decode_active(self.encode_active(x_TD), len(x_TD))

    @torch.no_grad()
    def fold_spread(self) -> None:
        """Turn weights for divided activations into weights for activations as they are.

        ReLU and TopK are positively homogeneous, so only the biases change: with latents counted in the
        activations' own units, encoder and decoder directions stay as they are.
        """
        self.b_enc.mul_(self.spread)
        self.b_dec.mul_(self.spread)
        self.spread.fill_(1.0)
