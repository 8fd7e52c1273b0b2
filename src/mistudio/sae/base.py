"""The interface of a sparse autoencoder: encode, decode, losses, export, and what training does around a step.

    z = activation(W_enc x + b_enc),    ŷ = W_dec z + b_dec + skip(x)

All architectures share these weights and this form; they differ in the activation and in the losses. An
autoencoder has y = x; a transcoder (Dunefsky et al. 2024, arXiv:2406.11944) reads x at one hook point and
predicts y at another. The skip is nothing, a share α of the input (x̂ = decode(encode(x)) + αx), or for
transcoders a linear map (Paulo et al. 2025, arXiv:2501.18823).

No bias is subtracted from the input: while training the input is normalised, and :meth:`fold` turns the
weights into such that take activations as the model has them.

Shape legend: T tokens, D width of the input, E width of the output, F features (latents), A active (token,
latent) pairs.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mistudio.errors import ConfigError
from mistudio.parallel import single_threads
from mistudio.sae.config import MAX_SKIP_SCALE, ArchitectureConfig
from mistudio.sae.kernels import (
    ActivePattern,
    active_preactivations,
    encoder_product,
    sparse_decode,
    sum_of_squares,
    weighted_bags,
)
from mistudio.sae.parallel import Parallel
from mistudio.sae.selection import ascending
from mistudio.sae.workers import ALONE, Workers

# Pre-activations held at once while encoding: large enough for fast products, whatever the width.
_BLOCK_PREACTIVATIONS = 1 << 24
# On a CPU a block that stays in a core's cache takes half the time, but products want rows enough.
_CACHED_PREACTIVATIONS = 1 << 19
_LEAST_TOKENS = 256


class ActiveLatents(NamedTuple):
    """The active latents of T tokens as sorted pairs: by token, then by latent."""

    token_A: Tensor  # which token, int64
    feature_A: Tensor  # which latent, int64
    value_A: Tensor  # its activation, > 0


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


class SparseAutoencoder(nn.Module, ABC):
    """A dictionary of F latents that reads D-wide and writes E-wide activations.

    ``W_enc`` [F, D] and ``W_dec`` [F, E] hold one direction a row. ``target_variance`` is the mean variance a
    dimension of the targets it trains on; losses are fractions of it.

    Args:
        config: the architecture's settings.
        d_in: width of the input.
        d_out: width of the output; that of the input if None.

    Raises:
        ConfigError: the skip does not fit an autoencoder, or the two widths.
    """

    Config: ClassVar[type[ArchitectureConfig]]
    # Names of the weights of the architecture's own, beside the four and the skip.
    own_weights: ClassVar[tuple[str, ...]] = ()
    # Whether its losses are right where other processes hold the other latents: all sums over latents are totals.
    shares_latents: ClassVar[bool] = False

    def __init__(self, config: ArchitectureConfig, d_in: int, d_out: int | None = None) -> None:
        super().__init__()
        self.config, self.d_in, self.d_out = config, d_in, d_out or d_in
        self.encoder_dtype = torch.float32
        self._scratch: Tensor | None = None
        self.workers = self.batch = self.latents = ALONE
        self.W_enc = nn.Parameter(torch.zeros(config.width, d_in))
        self.b_enc = nn.Parameter(torch.zeros(config.width))
        self.W_dec = nn.Parameter(torch.zeros(config.width, self.d_out))
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        if config.skip == "linear":
            self.W_skip = nn.Parameter(torch.zeros(d_in, self.d_out))
        elif config.skip != "none":
            _check_scale(d_in, self.d_out)
            learns = config.skip == "learned_scale"
            self.skip_scale = nn.Parameter(torch.tensor(config.skip_scale), requires_grad=learns)
        self.register_buffer("target_variance", torch.ones(()))
        self.target_variance: Tensor

    @property
    def width(self) -> int:
        """Number of latents."""
        return self.config.width

    @property
    def has_unit_norm(self) -> bool:
        """Whether decoder directions are held at unit norm while training."""
        return True

    @property
    def ramp_fraction(self) -> float:
        """Share of training at its start in which the losses themselves change; none by default."""
        return 0.0

    def weight_names(self) -> tuple[str, ...]:
        """Names of the tensors that a saved autoencoder consists of."""
        skip = {"linear": ("W_skip",), "none": ()}.get(self.config.skip, ("skip_scale",))
        return "W_enc", "b_enc", "W_dec", "b_dec", *skip, *self.own_weights

    @torch.no_grad()
    def initialise(self, sample_TD: Tensor, generator: torch.Generator, b_dec_E: Tensor | None = None) -> None:
        """Random unit directions, the encoder tied to the decoder where the widths agree.

        Args:
            sample_TD: normalised inputs, whose mean the encoder starts from.
            generator: of the random directions.
            b_dec_E: first bias of the decoder, zero if None.
        """
        directions_FE = torch.randn(self.width, self.d_out, generator=generator)
        self.W_dec.copy_(functional.normalize(directions_FE, dim=1))
        if self.d_in == self.d_out:
            self.W_enc.copy_(self.W_dec)
        else:
            directions_FD = torch.randn(self.width, self.d_in, generator=generator)
            self.W_enc.copy_(functional.normalize(directions_FD, dim=1))
        self.b_enc.copy_(-(self.W_enc @ sample_TD.mean(dim=0)))  # as if the inputs were centred
        if b_dec_E is not None:
            self.b_dec.copy_(b_dec_E)

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
        if workers.size > 1 and not self.shares_latents:
            message = f"The latents of {self.config.architecture} cannot be shared: use parallel data."
            raise ConfigError(message)
        if self.width % workers.size:
            message = f"width {self.width:,} cannot be shared by {workers.size} processes: use a multiple."
            raise ConfigError(message)
        for name in self.names_by_latent():
            weight = getattr(self, name)
            weight.data = workers.block(weight.data).clone()

    def names_by_latent(self) -> list[str]:
        """Names of the weights that have a row for each latent."""
        return [name for name in ("W_enc", "b_enc", "W_dec", *self.own_weights) if getattr(self, name).ndim]

    @abstractmethod
    def losses(self, x_TD: Tensor, y_TE: Tensor, stage: Stage) -> Losses:
        """The losses on a normalised batch of inputs and targets (the same tensor for an autoencoder)."""

    @abstractmethod
    def select(self, pre_TF: Tensor) -> ActivePattern:
        """The latents that may be active, given the pre-activations; for use, not for training."""

    def activate(self, pre_A: Tensor, feature_A: Tensor) -> Tensor:
        """The activations of selected latents; ReLU by default. What is not positive is not active."""
        return torch.relu(pre_A)

    def before_step(self) -> None:
        """Change gradients before they are clipped: remove the part that would only change decoder norms."""
        if self.has_unit_norm and self.W_dec.grad is not None:
            with torch.no_grad():
                along_F = torch.linalg.vecdot(self.W_dec.grad, self.W_dec)
                self.W_dec.grad.addcmul_(self.W_dec, along_F[:, None], value=-1)

    def after_step(self, parts: dict[str, Tensor], progress: float) -> None:
        """What follows an optimiser step; ``parts`` are those of its losses, ``progress`` as in :class:`Stage`."""
        self.constrain()

    @torch.no_grad()
    def constrain(self) -> None:
        """Restore what the weights must fulfil."""
        if self.has_unit_norm:
            self.W_dec.div_(torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True).clamp_(min=1e-8))
        if self.config.skip == "learned_scale":
            # An autoencoder would learn to pass everything: the latents must have something left to do.
            self.skip_scale.clamp_(0, MAX_SKIP_SCALE)

    def revive(self, dead_F: Tensor, x_TD: Tensor, y_TE: Tensor, generator: torch.Generator) -> Tensor:
        """Start dead latents anew, and return which were; none by default.

        Args:
            dead_F: which are dead, as booleans.
            x_TD: a batch of inputs.
            y_TE: their targets.
            generator: of random directions.
        """
        return torch.zeros_like(dead_F)

    def encode_active(self, x_TD: Tensor) -> ActiveLatents:
        """The active latents of each token, without gradients; memory does not grow with tokens times features."""
        block_tokens = max(_BLOCK_PREACTIVATIONS // self.width, 1)
        on_cpu = x_TD.device.type == "cpu"
        if on_cpu:
            block_tokens = min(block_tokens, max(_CACHED_PREACTIVATIONS // self.width, _LEAST_TOKENS))
        starts = range(0, max(len(x_TD), 1), block_tokens)
        parts = [x_TD[start : start + block_tokens] for start in starts]
        if on_cpu and len(parts) > 1:
            with single_threads(len(parts)) as pool:
                blocks = list(pool.map(self._encode_block, parts))
        else:
            blocks = list(map(self._encode_block, parts))
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

    def decode(self, acts_TF: Tensor, x_TD: Tensor | None = None) -> Tensor:
        """The reconstruction from a dense matrix of activations [T, E]; ``x_TD`` is needed where there is a skip."""
        return self.with_skip(acts_TF @ self.W_dec + self.b_dec, x_TD)

    def decode_active(self, active: ActiveLatents, num_tokens: int, x_TD: Tensor | None = None) -> Tensor:
        """The reconstruction from active latents [T, E], through their decoder rows alone."""
        counts_T = torch.bincount(active.token_A, minlength=num_tokens)
        starts_T = counts_T.cumsum(0) - counts_T
        bags_TE = weighted_bags(active.feature_A, active.value_A, starts_T, self.W_dec)
        return self.with_skip(self.latents.total(bags_TE) + self.b_dec, x_TD)

    @torch.no_grad()
    def reconstruct(self, x_TD: Tensor) -> Tensor:
        """Encode and decode [T, E]."""
        return self.decode_active(self.encode_active(x_TD), len(x_TD), x_TD)

    def with_skip(self, out_TE: Tensor, x_TD: Tensor | None) -> Tensor:
        """Add what passes beside the latents.

        Raises:
            ConfigError: there is a skip, and its input is not given.
        """
        if self.config.skip == "none":
            return out_TE
        if x_TD is None:
            message = f"This autoencoder has a skip ({self.config.skip}): decoding needs its input too."
            raise ConfigError(message)
        if self.config.skip == "linear":
            return out_TE + x_TD @ self.W_skip
        return out_TE + self.skip_scale * x_TD

    @torch.no_grad()
    def fold(self, norm: Normalisation) -> None:
        """Turn weights for normalised activations into weights for activations as they are.

        All activation functions here are positively homogeneous together with their thresholds, so latents are
        counted in the output's own units, and decoder directions stay as they are.
        """
        ratio = norm.target_scale / norm.scale
        self.W_enc.mul_(ratio)
        shift_F = self.W_enc @ norm.mean_D
        self.b_enc.mul_(norm.target_scale).sub_(shift_F)
        self.b_dec.mul_(norm.target_scale).add_(norm.target_mean_E)
        if self.config.skip == "linear":
            self.W_skip.mul_(ratio)
            self.b_dec.sub_(norm.mean_D @ self.W_skip)
        elif self.config.skip != "none":
            self.skip_scale.mul_(ratio)
            self.b_dec.sub_(self.skip_scale * norm.mean_D)
        self.fold_own(norm.target_scale, shift_F)

    def fold_own(self, scale: float, shift_F: Tensor) -> None:
        """Do the same to the architecture's own weights.

        Args:
            scale: what latents and thresholds are multiplied by.
            shift_F: what was subtracted from the encoder's bias.
        """

    # What the architectures' losses are made of.

    def _preactivations(self, x_TD: Tensor, shift_F: Tensor | None = None) -> Tensor:
        bias_F = self.b_enc if shift_F is None else self.b_enc - shift_F
        return encoder_product(x_TD, self.W_enc, bias_F, self.encoder_dtype, self._scratch_for(x_TD))

    def _scratch_for(self, x_TD: Tensor) -> Tensor | None:
        """Where the pre-activations of a batch go: on a CPU, fresh memory each time costs a fifth of the product."""
        if x_TD.device.type != "cpu":
            return None
        shape = (len(x_TD), len(self.W_enc))
        if self._scratch is None or self._scratch.shape != shape or self._scratch.dtype != self.encoder_dtype:
            self._scratch = None  # the last one's memory first: the next may follow for want of it
            self._scratch = x_TD.new_empty(shape, dtype=self.encoder_dtype)
        return self._scratch

    def _active(self, pre_TF: Tensor, x_TD: Tensor, pattern: ActivePattern) -> Tensor:
        return active_preactivations(pre_TF, x_TD, self.W_enc, self.b_enc, pattern)

    def _rebuild(self, values_A: Tensor, pattern: ActivePattern, x_TD: Tensor) -> Tensor:
        latents_TE = self.latents.total(sparse_decode(values_A, self.W_dec, pattern))
        return self.with_skip(latents_TE + self.b_dec, x_TD)

    def _l0(self, fired: Tensor, x_TD: Tensor) -> Tensor:
        """Active latents a token, given in how many pairs each latent is active, or which pairs are."""
        return self.latents.total(fired.sum()) / len(x_TD)

    def _fvu(self, error_TE: Tensor) -> Tensor:
        """Fraction of the targets' variance that an error leaves."""
        return sum_of_squares(error_TE) / (error_TE.numel() * self.target_variance)

    @torch.no_grad()
    def _encode_block(self, x_TD: Tensor) -> ActiveLatents:
        pre_TF = functional.linear(x_TD, self.W_enc, self.b_enc)
        place_A = ascending(self.select(pre_TF).place_A)
        held = pre_TF.shape[1]  # other processes may have the other latents
        feature_A = place_A % held
        values_A = self.activate(pre_TF.view(-1).index_select(0, place_A), feature_A)
        kept = (values_A > 0).nonzero().squeeze(1)
        place_A, feature_A = place_A.index_select(0, kept), feature_A.index_select(0, kept)
        return ActiveLatents(place_A // held, feature_A, values_A.index_select(0, kept))


def _check_scale(d_in: int, d_out: int) -> None:
    if d_in != d_out:
        message = f"A skip that scales the input needs outputs as wide as inputs, not {d_in} and {d_out}. Use linear."
        raise ConfigError(message)
