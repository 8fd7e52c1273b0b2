"""A sparse autoencoder as it is used: weights, encode, decode. What training adds is in :mod:`mistudio.sae.training`.

    z = activation(W_enc x + b_enc),    ŷ = W_dec z + b_dec + skip(x)

All architectures share these weights and this form; they differ in the activation and in the losses. An
autoencoder has y = x; a transcoder (Dunefsky et al. 2024, arXiv:2406.11944) reads x at one hook point and
predicts y at another. The skip is nothing, a share α of the input (x̂ = decode(encode(x)) + αx), or for
transcoders a linear map (Paulo et al. 2025, arXiv:2501.18823).

No bias is subtracted from the input: while training the input is normalised, and what is published takes
activations as the model has them.

Where training left out tokens far from the others, the autoencoder knows from where on (``norm_limit``), and nothing
is active on such a token.

Shape legend: T tokens, D width of the input, E width of the output, F features (latents), A active (token,
latent) pairs, C chosen latents.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mistudio.errors import ConfigError, InputError
from mistudio.parallel import single_threads
from mistudio.sae.config import ArchitectureConfig
from mistudio.sae.kernels import ActivePattern, weighted_bags
from mistudio.sae.limit import NormLimit
from mistudio.sae.selection import ascending

# Pre-activations held at once while encoding: large enough for fast products, whatever the width.
BLOCK_PREACTIVATIONS = 1 << 24
# On a CPU a block that stays in a core's cache takes half the time, but products want rows enough.
_CACHED_PREACTIVATIONS = 1 << 19
_LEAST_TOKENS = 256


class ActiveLatents(NamedTuple):
    """The active latents of T tokens as sorted pairs: by token, then by latent."""

    token_A: Tensor  # which token, int64
    feature_A: Tensor  # which latent, int64
    value_A: Tensor  # its activation, > 0

    def on(self, wanted_T: Tensor) -> "ActiveLatents":
        """What is active on wanted tokens [T], bool; tokens keep their numbers."""
        kept_A = wanted_T[self.token_A]
        return ActiveLatents(self.token_A[kept_A], self.feature_A[kept_A], self.value_A[kept_A])


class ExportForm(NamedTuple):
    """What an encoder computes, for formats that hold a formula; and what they call it where they have own names.

    ``topk``: ReLU of the ``config.k`` largest pre-activations. ``thresholds``: a pre-activation in full where it
    exceeds the threshold of its latent. ``gated``: the same with the magnitudes ``r_mag`` and ``b_mag``.
    """

    computes: Literal["topk", "thresholds", "gated"]
    names: Mapping[str, str] = {}  # by format; otherwise what the format calls this computation


class SparseAutoencoder(nn.Module, ABC):
    """A dictionary of F latents that reads D-wide and writes E-wide activations.

    ``W_enc`` [F, D] and ``W_dec`` [F, E] hold one direction a row.

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
    # As other libraries can hold it; asked for by :meth:`exported_as`.
    export_form: ClassVar[ExportForm | None] = None
    # Beyond it training left tokens out; set when training is over, and on loading.
    norm_limit: NormLimit | None = None

    def __init__(self, config: ArchitectureConfig, d_in: int, d_out: int | None = None) -> None:
        super().__init__()
        self.config, self.d_in, self.d_out = config, d_in, d_out or d_in
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

    @property
    def width(self) -> int:
        """Number of latents."""
        return self.config.width

    def weight_names(self) -> tuple[str, ...]:
        """Names of the tensors that a saved autoencoder consists of."""
        skip = {"linear": ("W_skip",), "none": ()}.get(self.config.skip, ("skip_scale",))
        return "W_enc", "b_enc", "W_dec", "b_dec", *skip, *self.own_weights

    @classmethod
    def exported_as(cls) -> ExportForm | None:
        """What the class says of itself, not one that it derives from: it may compute something else."""
        own: ExportForm | None = vars(cls).get("export_form")
        return own

    def for_training(self) -> Any:
        """What trains these weights: a :class:`mistudio.sae.training.SAETraining`.

        Raises:
            ConfigError: the architecture has no training.
        """
        message = f"{self.config.architecture} has no training (for_training): it can be used, not trained."
        raise ConfigError(message)

    @abstractmethod
    def select(self, pre_TF: Tensor) -> ActivePattern:
        """The latents that may be active, given the pre-activations."""

    def activate(self, pre_A: Tensor, feature_A: Tensor) -> Tensor:
        """The activations of selected latents; ReLU by default. What is not positive is not active."""
        return torch.relu(pre_A)

    def keeps(self, x_TD: Tensor) -> Tensor:
        """Which tokens are within the norm limit [T], bool; all, where there is none."""
        if self.norm_limit is None:
            return torch.ones(len(x_TD), dtype=torch.bool, device=x_TD.device)
        return self.norm_limit.keeps(x_TD)

    def encode_active(self, x_TD: Tensor, *, beyond_limit: bool = False) -> ActiveLatents:
        """The active latents of each token, without gradients; memory does not grow with tokens times features.

        Args:
            x_TD: inputs.
            beyond_limit: encode tokens beyond the norm limit like any other; otherwise nothing is active on them.
        """
        active = self._encode_all(x_TD)
        return active if beyond_limit or self.norm_limit is None else active.on(self.norm_limit.keeps(x_TD))

    def _encode_all(self, x_TD: Tensor) -> ActiveLatents:
        block_tokens = max(BLOCK_PREACTIVATIONS // self.width, 1)
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

    def encode_chosen(self, x_TD: Tensor, latents_C: Tensor) -> Tensor:
        """Activations of chosen latents as a dense matrix [T, C], without gradients: those columns of :meth:`encode`.

        Where latents compete this takes as long as encoding all of them, and gives the same bits.

        Args:
            x_TD: inputs.
            latents_C: numbers of latents, in any order.

        Raises:
            InputError: there is no such latent.
        """
        latents_C = self._checked(latents_C)
        active = self.encode_active(x_TD)
        distinct_C, column_C = latents_C.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        column_F = distinct_C.new_full((self.width,), -1)
        column_F[distinct_C] = torch.arange(len(distinct_C), device=distinct_C.device)
        column_A = column_F[active.feature_A]
        kept_A = column_A >= 0
        acts_TC = x_TD.new_zeros(len(x_TD), len(distinct_C))
        acts_TC[active.token_A[kept_A], column_A[kept_A]] = active.value_A[kept_A]
        return acts_TC[:, column_C]

    def encoder_of(self, latents_C: Tensor) -> Callable[[Tensor], Tensor]:
        """:meth:`encode_chosen` of always the same latents, which takes no time to choose them.

        Raises:
            InputError: there is no such latent.
        """
        latents_C = self._checked(latents_C)
        return lambda x_TD: SparseAutoencoder.encode_chosen(self, x_TD, latents_C)

    def decode(self, acts_TF: Tensor, x_TD: Tensor | None = None) -> Tensor:
        """The reconstruction from a dense matrix of activations [T, E]; ``x_TD`` is needed where there is a skip."""
        return self.with_skip(acts_TF @ self.W_dec + self.b_dec, x_TD)

    def decode_active(self, active: ActiveLatents, num_tokens: int, x_TD: Tensor | None = None) -> Tensor:
        """The reconstruction from active latents [T, E], through their decoder rows alone."""
        counts_T = torch.bincount(active.token_A, minlength=num_tokens)
        starts_T = counts_T.cumsum(0) - counts_T
        bags_TE = weighted_bags(active.feature_A, active.value_A, starts_T, self.W_dec)
        return self.with_skip(bags_TE + self.b_dec, x_TD)

    @torch.no_grad()
    def reconstruct(self, x_TD: Tensor) -> Tensor:
        """Encode and decode [T, E]; a token beyond the norm limit gets what passes beside the latents."""
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
    def _encode_block(self, x_TD: Tensor) -> ActiveLatents:
        pre_TF = functional.linear(x_TD, self.W_enc, self.b_enc)
        place_A = ascending(self.select(pre_TF).place_A)
        feature_A = place_A % self.width
        values_A = self.activate(pre_TF.view(-1).index_select(0, place_A), feature_A)
        kept = (values_A > 0).nonzero().squeeze(1)
        place_A, feature_A = place_A.index_select(0, kept), feature_A.index_select(0, kept)
        return ActiveLatents(place_A // self.width, feature_A, values_A.index_select(0, kept))

    def _checked(self, latents_C: Tensor) -> Tensor:
        """Numbers of latents on the device of the weights; a negative one would count from the end."""
        wrong = latents_C[(latents_C < 0) | (latents_C >= self.width)]
        if len(wrong):
            message = f"There is no latent {int(wrong[0])}: this autoencoder has {self.width:,}, numbered from 0."
            raise InputError(message)
        return latents_C.to(self.W_enc.device)


class ThresholdedAutoencoder(SparseAutoencoder):
    """Latents that do not compete: each is active where its own pre-activation exceeds its threshold."""

    @property
    @abstractmethod
    def threshold_F(self) -> Tensor:
        """Above which pre-activation each latent is active [F]; or one for all, without dimensions."""

    def select(self, pre_TF: Tensor) -> ActivePattern:
        """The latents above their thresholds."""
        return ActivePattern.of_mask(pre_TF > self.threshold_F)

    @torch.no_grad()
    def encode_chosen(self, x_TD: Tensor, latents_C: Tensor) -> Tensor:
        """As of all architectures, by the rows of the chosen latents alone.

        Values agree with those of :meth:`encode` up to the order of sums in a product; a pre-activation as near to
        its threshold as that may count as active in one and not in the other.
        """
        return self.encoder_of(latents_C)(x_TD)

    def encoder_of(self, latents_C: Tensor) -> Callable[[Tensor], Tensor]:
        """As of all architectures; the rows of these latents are taken out once."""
        latents_C = self._checked(latents_C)
        W_CD, b_C = self.W_enc.detach()[latents_C], self.b_enc.detach()[latents_C]
        threshold_C = self.threshold_F.detach().expand(self.width)[latents_C]

        @torch.no_grad()
        def encode(x_TD: Tensor) -> Tensor:
            pre_TC = functional.linear(x_TD, W_CD, b_C)
            acts_TC = self.activate(pre_TC, latents_C)
            acts_TC = torch.where((pre_TC > threshold_C) & (acts_TC > 0), acts_TC, 0.0)
            if self.norm_limit is None:
                return acts_TC
            return acts_TC.masked_fill(~self.norm_limit.keeps(x_TD)[:, None], 0.0)

        return encode


def _check_scale(d_in: int, d_out: int) -> None:
    if d_in != d_out:
        message = f"A skip that scales the input needs outputs as wide as inputs, not {d_in} and {d_out}. Use linear."
        raise ConfigError(message)
