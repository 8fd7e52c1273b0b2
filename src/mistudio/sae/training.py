"""What training adds to an autoencoder: first weights, losses, what happens around a step, and the change of units.

While training the input is normalised, and :meth:`SAETraining.fold` turns the weights into such that take
activations as the model has them. Several processes can train one autoencoder together (:mod:`mistudio.sae.workers`).

Shape legend: T tokens, D width of the input, E width of the output, F features (latents), A active (token,
latent) pairs.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mistudio.errors import ConfigError
from mistudio.sae.autoencoder import SparseAutoencoder
from mistudio.sae.config import MAX_SKIP_SCALE
from mistudio.sae.kernels import (
    ActivePattern,
    active_preactivations,
    encoder_product,
    sparse_decode,
    sum_of_squares,
)
from mistudio.sae.parallel import Parallel
from mistudio.sae.workers import ALONE, Workers


class Stage(NamedTuple):
    """Where training is when a batch comes."""

    progress: float  # share of training that is done, 0 to 1
    dead_F: Tensor | None = None  # indices of latents that have been silent for long; None: none have


class Losses(NamedTuple):
    """What one training step minimises, and what it reports."""

    total: Tensor  # differentiable scalar
    objective: Tensor  # detached scalar that tells progress: the total without losses that only help at times
    parts: dict[str, Tensor]  # detached scalars by name: fvu, l0, and the penalties of the architecture
    fired_F: Tensor  # on how many tokens of the batch each latent is active


class Normalisation(NamedTuple):
    """What takes activations to the units of training: (x - mean) / scale, for input and output."""

    mean_D: Tensor
    scale: float
    target_mean_E: Tensor
    target_scale: float


class SAETraining(nn.Module, ABC):
    """The training of one autoencoder, whose weights it changes in place.

    ``target_variance`` is the mean variance a dimension of the targets it trains on; losses are fractions of it.

    Args:
        sae: what to train.
    """

    # Whether its losses are right where other processes hold the other latents: all sums over latents are totals.
    shares_latents: ClassVar[bool] = False

    def __init__(self, sae: SparseAutoencoder) -> None:
        super().__init__()
        self.sae = sae
        self.encoder_dtype = torch.float32
        self.workers = self.batch = self.latents = ALONE
        self._scratch: Tensor | None = None
        self.register_buffer("target_variance", torch.ones(()))
        self.target_variance: Tensor

    @property
    def has_unit_norm(self) -> bool:
        """Whether decoder directions are held at unit norm."""
        return True

    @property
    def ramp_fraction(self) -> float:
        """Share of training at its start in which the losses themselves change; none by default."""
        return 0.0

    def names_by_latent(self) -> list[str]:
        """Names of the weights that have a row for each latent."""
        return [name for name in ("W_enc", "b_enc", "W_dec", *self.sae.own_weights) if getattr(self.sae, name).ndim]

    def state(self) -> dict[str, Tensor]:
        """The weights, and what only training needs, by name."""
        return {name.removeprefix("sae."): value for name, value in self.state_dict().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take what :meth:`state` gave."""
        own = self.state_dict().keys()
        self.load_state_dict({name if name in own else f"sae.{name}": value for name, value in state.items()})

    @torch.no_grad()
    def initialise(self, sample_TD: Tensor, generator: torch.Generator, b_dec_E: Tensor | None = None) -> None:
        """Random unit directions, the encoder tied to the decoder where the widths agree.

        Args:
            sample_TD: normalised inputs, whose mean the encoder starts from.
            generator: of the random directions.
            b_dec_E: first bias of the decoder, zero if None.
        """
        sae = self.sae
        directions_FE = torch.randn(sae.width, sae.d_out, generator=generator)
        sae.W_dec.copy_(functional.normalize(directions_FE, dim=1))
        if sae.d_in == sae.d_out:
            sae.W_enc.copy_(sae.W_dec)
        else:
            directions_FD = torch.randn(sae.width, sae.d_in, generator=generator)
            sae.W_enc.copy_(functional.normalize(directions_FD, dim=1))
        sae.b_enc.copy_(-(sae.W_enc @ sample_TD.mean(dim=0)))  # as if the inputs were centred
        if b_dec_E is not None:
            sae.b_dec.copy_(b_dec_E)

    def join(self, workers: Workers, parallel: Parallel) -> None:
        """Train with other processes, each with a share of every batch (``batch``), or of the latents (``latents``).

        With a share of the latents only those stay here; ``width`` still counts all.

        Raises:
            ConfigError: the latents cannot be shared so.
        """
        self.workers = workers
        if parallel == "data":
            self.batch = workers
            return
        self.latents = workers
        sae = self.sae
        if workers.size > 1 and not self.shares_latents:
            message = f"The latents of {sae.config.architecture} cannot be shared: use parallel data."
            raise ConfigError(message)
        if sae.width % workers.size:
            message = f"width {sae.width:,} cannot be shared by {workers.size} processes: use a multiple."
            raise ConfigError(message)
        for name in self.names_by_latent():
            weight = getattr(sae, name)
            weight.data = workers.block(weight.data).clone()

    @abstractmethod
    def losses(self, x_TD: Tensor, y_TE: Tensor, stage: Stage) -> Losses:
        """The losses on a normalised batch of inputs and targets (the same tensor for an autoencoder)."""

    def before_step(self) -> None:
        """Change gradients before they are clipped: remove the part that would only change decoder norms."""
        W_dec = self.sae.W_dec
        if self.has_unit_norm and W_dec.grad is not None:
            with torch.no_grad():
                along_F = torch.linalg.vecdot(W_dec.grad, W_dec)
                W_dec.grad.addcmul_(W_dec, along_F[:, None], value=-1)

    def after_step(self, parts: dict[str, Tensor], progress: float) -> None:
        """What follows an optimiser step; ``parts`` are those of its losses, ``progress`` as in :class:`Stage`."""
        self.constrain()

    @torch.no_grad()
    def constrain(self) -> None:
        """Restore what the weights must fulfil."""
        W_dec = self.sae.W_dec
        if self.has_unit_norm:
            W_dec.div_(torch.linalg.vector_norm(W_dec, dim=1, keepdim=True).clamp_(min=1e-8))
        if self.sae.config.skip == "learned_scale":
            # An autoencoder would learn to pass everything: the latents must have something left to do.
            self.sae.skip_scale.clamp_(0, MAX_SKIP_SCALE)

    def revive(self, dead_F: Tensor, x_TD: Tensor, y_TE: Tensor, generator: torch.Generator) -> Tensor:
        """Start dead latents anew, and return which were; none by default.

        Args:
            dead_F: which are dead, as booleans.
            x_TD: a batch of inputs.
            y_TE: their targets.
            generator: of random directions.
        """
        return torch.zeros_like(dead_F)

    @torch.no_grad()
    def reconstruct(self, x_TD: Tensor) -> Tensor:
        """Encode and decode as in use [T, E], where other processes may have the other latents."""
        sae = self.sae
        if self.latents.size == 1:
            return sae.reconstruct(x_TD)
        pre_TF = functional.linear(x_TD, sae.W_enc, sae.b_enc)
        pattern = self._select(pre_TF)
        values_A = sae.activate(pattern.gather(pre_TF), pattern.feature_A.long())
        return self._rebuild(values_A.clamp(min=0), pattern, x_TD)

    @torch.no_grad()
    def fold(self, norm: Normalisation) -> None:
        """Turn weights for normalised activations into weights for activations as they are.

        All activation functions here are positively homogeneous together with their thresholds, so latents are
        counted in the output's own units, and decoder directions stay as they are.
        """
        sae, ratio = self.sae, norm.target_scale / norm.scale
        sae.W_enc.mul_(ratio)
        shift_F = sae.W_enc @ norm.mean_D
        sae.b_enc.mul_(norm.target_scale).sub_(shift_F)
        sae.b_dec.mul_(norm.target_scale).add_(norm.target_mean_E)
        if sae.config.skip == "linear":
            sae.W_skip.mul_(ratio)
            sae.b_dec.sub_(norm.mean_D @ sae.W_skip)
        elif sae.config.skip != "none":
            sae.skip_scale.mul_(ratio)
            sae.b_dec.sub_(sae.skip_scale * norm.mean_D)
        self.fold_own(norm.target_scale, shift_F)

    def fold_own(self, scale: float, shift_F: Tensor) -> None:
        """Do the same to the architecture's own weights.

        Args:
            scale: what latents and thresholds are multiplied by.
            shift_F: what was subtracted from the encoder's bias.
        """

    # What the architectures' losses are made of.

    def _select(self, pre_TF: Tensor) -> ActivePattern:
        """The latents of this process that would be active in use; by all pre-activations where latents compete."""
        return self.sae.select(pre_TF)

    def _preactivations(self, x_TD: Tensor) -> Tensor:
        return encoder_product(x_TD, self.sae.W_enc, self.sae.b_enc, self.encoder_dtype, self._scratch_for(x_TD))

    def _scratch_for(self, x_TD: Tensor) -> Tensor | None:
        """Where the pre-activations of a batch go: on a CPU, fresh memory each time costs a fifth of the product."""
        if x_TD.device.type != "cpu":
            return None
        shape = (len(x_TD), len(self.sae.W_enc))
        if self._scratch is None or self._scratch.shape != shape or self._scratch.dtype != self.encoder_dtype:
            self._scratch = None  # the last one's memory first: the next may follow for want of it
            self._scratch = x_TD.new_empty(shape, dtype=self.encoder_dtype)
        return self._scratch

    def _active(self, pre_TF: Tensor, x_TD: Tensor, pattern: ActivePattern) -> Tensor:
        return active_preactivations(pre_TF, x_TD, self.sae.W_enc, self.sae.b_enc, pattern)

    def _rebuild(self, values_A: Tensor, pattern: ActivePattern, x_TD: Tensor) -> Tensor:
        latents_TE = self.latents.total(sparse_decode(values_A, self.sae.W_dec, pattern))
        return self.sae.with_skip(latents_TE + self.sae.b_dec, x_TD)

    def _l0(self, fired: Tensor, x_TD: Tensor) -> Tensor:
        """Active latents a token, given in how many pairs each latent is active, or which pairs are."""
        return self.latents.total(fired.sum()) / len(x_TD)

    def _fvu(self, error_TE: Tensor) -> Tensor:
        """Fraction of the targets' variance that an error leaves."""
        return sum_of_squares(error_TE) / (error_TE.numel() * self.target_variance)
