"""How well an autoencoder reconstructs activations it was not trained on, streamed from memory-mapped files.

With y the target (the input itself, or what a transcoder is to predict), x̂ its reconstruction and ȳ the mean
of all targets:

- ``fvu`` = Σ‖y - x̂‖² / Σ‖y - ȳ‖², sums over tokens; explained variance is 1 - fvu, as in SAELens today.
- ``explained_variance_by_token`` = mean of 1 - ‖y - x̂‖² / ‖y - ȳ‖² over tokens: what SAEBench calls explained
  variance. It weighs a token near the mean as much as one far from it, and so comes out lower. SAEBench takes
  ȳ over the batch at hand; here it is the mean over all tokens, so that no figure depends on the batch size.
- ``mse`` is over tokens and dimensions (SAEBench sums dimensions and divides by the batch size once more).
- ``relative_bias`` = E‖x̂‖² / E⟨y, x̂⟩ (Rajamanoharan et al. 2024, arXiv:2404.16014, equation 10): the γ for
  which x̂/γ fits y best; below 1 the reconstruction is too short. ``l2_ratio`` is the mean of ‖x̂‖ / ‖y‖,
  whatever the scale of y (SAEBench takes targets shorter than 1e-4 as of length 1; here those of length 0 alone are).

Tokens that training left out (``norm_limit``) are counted and left out here too. Beside these figures stands the FVU
over all tokens, as if the autoencoder were for them: a few outliers can be most of the variance, so that it flatters.
An autoencoder without a limit is measured on all tokens; then the FVU without the outliers stands beside that. They are
those beyond the limit that training sets by default.

A first pass takes the mean of the targets; reading costs little beside encoding.

Shape legend: T tokens of a batch, D width of the input, E width of the target, F features (latents).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mistudio.activations import OUTLIER_RATIO, ActivationReader
from mistudio.errors import InputError
from mistudio.evaluate.control import sample_rows
from mistudio.progress import progress
from mistudio.sae import NormLimit, SparseAutoencoder

BATCH_ROWS = 4096


class Reconstruction(NamedTuple):
    """Means over tokens, and how often each latent fires."""

    tokens: int  # that are within the norm limit; all, where there is none
    fvu: float  # fraction of variance unexplained
    explained_variance_by_token: float
    mse: float  # in squared units of the activations
    l0: float  # active latents a token
    l1: float  # sum of activations a token, in the activations' units
    cosine: float  # between target and reconstruction
    l2_ratio: float
    relative_bias: float | None  # None where nothing is reconstructed
    density_F: Tensor  # share of tokens on which each latent fires, float64
    fvu_all: float  # over all tokens
    filtered_tokens: int | None  # beyond the norm limit; None where there is none
    outliers: "Outliers | None"  # where there is no norm limit

    @property
    def dead_fraction(self) -> float:
        """Share of latents that never fired."""
        return float((self.density_F == 0).double().mean())

    def dense_fraction(self, threshold: float) -> float:
        """Share of latents that fire on more than ``threshold`` of the tokens."""
        return float((self.density_F > threshold).double().mean())


class Outliers(NamedTuple):
    """What an autoencoder without a norm limit was measured on that training leaves out by default."""

    tokens: int
    fvu_without: float  # over all other tokens


@torch.no_grad()
def measure_reconstruction(
    sae: SparseAutoencoder,
    reader: ActivationReader,
    max_tokens: int | None,
    device: torch.device,
    target_reader: ActivationReader | None = None,
) -> Reconstruction:
    """Reconstruct the reader's rows in order; ``max_tokens`` ends the pass early.

    Args:
        sae: an autoencoder, or a transcoder where there is a target.
        reader: what is encoded.
        max_tokens: rows to read at most; None: all.
        device: where the autoencoder is.
        target_reader: what has to be reconstructed, row for row; None: the input.

    Raises:
        InputError: input and target have different numbers of rows, or all are beyond the norm limit.
    """
    target = reader if target_reader is None else target_reader
    if len(target) != len(reader):
        message = f"{reader.hook} has {len(reader):,} rows and {target.hook} {len(target):,}: capture both in one run."
        raise InputError(message)
    num_tokens = min(len(reader), max_tokens or len(reader))
    limit = sae.norm_limit or NormLimit.measured(sample_rows(reader), OUTLIER_RATIO)
    means = _means(limit, reader, target, num_tokens, device)
    if sae.norm_limit is not None and not means.num_kept:
        raise _all_beyond(reader, num_tokens)
    totals = _Totals(sae, limit, means, num_tokens)
    with progress("Evaluate reconstruction", num_tokens, "tokens") as bar:
        for start, x_TD in _batches(reader, num_tokens, device):
            y_TE = x_TD if target_reader is None else _rows(target, start, start + len(x_TD), device)
            totals.add(x_TD, y_TE)
            bar.advance(len(x_TD))
    return totals.means(target.width)


class _Means(NamedTuple):
    """Means of the targets, over the tokens within the norm limit and over all."""

    num_kept: int
    kept_E: Tensor
    all_E: Tensor


_SUMS = ("error", "variance", "unexplained", "cosine", "l2_ratio", "rebuilt", "product", "active", "activation")


class _Totals:
    """What is summed over the batches: the figures of the tokens that count, and the FVU of the other set of tokens.

    With a norm limit those within count and the others are all; without one all count and the others are those within
    the limit that training would have set.
    """

    def __init__(self, sae: SparseAutoencoder, limit: NormLimit | None, means: _Means, num_tokens: int) -> None:
        self.sae, self.limit, self.num_tokens = sae, limit, num_tokens
        self.leaves_out, self.num_beyond = sae.norm_limit is not None, num_tokens - means.num_kept
        self.mean_E, self.other_mean_E = means.kept_E, means.all_E
        if not self.leaves_out:
            self.mean_E, self.other_mean_E = means.all_E, means.kept_E
        self.sums = torch.zeros(len(_SUMS), dtype=torch.float64)
        self.other = torch.zeros(2, dtype=torch.float64)
        self.count_F = torch.zeros(sae.width, dtype=torch.int64)

    def add(self, x_TD: Tensor, y_TE: Tensor) -> None:
        """Reconstruct a batch."""
        active = self.sae.encode_active(x_TD, beyond_limit=True)
        rebuilt_TE = self.sae.decode_active(active, len(x_TD), x_TD)
        if self.limit is not None and self.num_beyond:
            kept_T = self.limit.keeps(x_TD)
            kept = y_TE[kept_T], rebuilt_TE[kept_T]
            other = (y_TE, rebuilt_TE) if self.leaves_out else kept
            self.other += _error_and_variance(*other, self.other_mean_E).cpu()
            if self.leaves_out:
                y_TE, rebuilt_TE, active = *kept, active.on(kept_T)
        self.sums += _sums(y_TE, rebuilt_TE, self.mean_E, active.value_A).cpu()
        self.count_F += torch.bincount(active.feature_A, minlength=self.sae.width).cpu()

    def means(self, width: int) -> Reconstruction:
        """The figures, for targets of this width."""
        num_tokens = self.num_tokens - self.num_beyond if self.leaves_out else self.num_tokens
        measured = _reconstruction(dict(zip(_SUMS, self.sums.tolist(), strict=True)), num_tokens, width, self.count_F)
        fvu_other = _fvu(*self.other.tolist()) if self.num_beyond else measured.fvu
        if self.leaves_out:
            return measured._replace(filtered_tokens=self.num_beyond, fvu_all=fvu_other)
        return measured._replace(outliers=Outliers(self.num_beyond, fvu_other))


def _sums(y_TE: Tensor, rebuilt_TE: Tensor, mean_E: Tensor, value_A: Tensor) -> Tensor:
    """Sums over the tokens of a batch, in the order of ``_SUMS``."""
    y_TE, rebuilt_TE = y_TE.double(), rebuilt_TE.double()
    error_T = (y_TE - rebuilt_TE).square().sum(dim=1)
    variance_T = (y_TE - mean_E).square().sum(dim=1)
    no_variance_T = variance_T == 0
    unexplained_T = torch.where(
        no_variance_T, (error_T > 0).double(), error_T / variance_T.masked_fill(no_variance_T, 1)
    )
    length_T = y_TE.norm(dim=1)
    ratio_T = rebuilt_TE.norm(dim=1) / length_T.masked_fill(length_T == 0, 1)
    return torch.stack(
        [
            error_T.sum(),
            variance_T.sum(),
            unexplained_T.sum(),
            torch.cosine_similarity(y_TE, rebuilt_TE, dim=1).sum(),
            ratio_T.sum(),
            rebuilt_TE.square().sum(),
            (y_TE * rebuilt_TE).sum(),
            torch.tensor(len(value_A), dtype=torch.float64, device=y_TE.device),
            value_A.double().sum(),
        ]
    )


def _error_and_variance(y_TE: Tensor, rebuilt_TE: Tensor, mean_E: Tensor) -> Tensor:
    y_TE = y_TE.double()
    return torch.stack([(y_TE - rebuilt_TE.double()).square().sum(), (y_TE - mean_E).square().sum()])


def _fvu(error: float, variance: float) -> float:
    return error / variance if variance > 0 else float(error > 0)


def _reconstruction(sums: dict[str, float], num_tokens: int, width: int, count_F: Tensor) -> Reconstruction:
    error, variance, product = sums["error"], sums["variance"], sums["product"]
    return Reconstruction(
        tokens=num_tokens,
        fvu=_fvu(error, variance),
        fvu_all=_fvu(error, variance),
        filtered_tokens=None,
        outliers=None,
        explained_variance_by_token=1 - sums["unexplained"] / num_tokens,
        mse=error / (num_tokens * width),
        l0=sums["active"] / num_tokens,
        l1=sums["activation"] / num_tokens,
        cosine=sums["cosine"] / num_tokens,
        l2_ratio=sums["l2_ratio"] / num_tokens,
        relative_bias=sums["rebuilt"] / product if product else None,
        density_F=count_F.double() / num_tokens,
    )


def _means(
    limit: NormLimit | None, reader: ActivationReader, target: ActivationReader, num_tokens: int, device: torch.device
) -> _Means:
    total_E, beyond_E = torch.zeros(2, target.width, dtype=torch.float64, device=device)
    num_kept = num_tokens
    for start, y_TE in _batches(target, num_tokens, device):
        total_E += y_TE.double().sum(dim=0)
        if limit is not None:
            x_TD = y_TE if reader is target else _rows(reader, start, start + len(y_TE), device)
            beyond_T = ~limit.keeps(x_TD)
            beyond_E += y_TE[beyond_T].double().sum(dim=0)
            num_kept -= int(beyond_T.sum())
    return _Means(num_kept, (total_E - beyond_E) / max(num_kept, 1), total_E / num_tokens)


def _all_beyond(reader: ActivationReader, num_tokens: int) -> InputError:
    return InputError(
        f"All of the {num_tokens:,} tokens at {reader.hook} are beyond the norm limit of the autoencoder: nothing "
        "is left to measure. Raise max_tokens, or train with a larger max_norm_ratio."
    )


def _batches(reader: ActivationReader, num_tokens: int, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, num_tokens, BATCH_ROWS):
        yield start, _rows(reader, start, min(start + BATCH_ROWS, num_tokens), device)


def _rows(reader: ActivationReader, start: int, stop: int, device: torch.device) -> Tensor:
    return reader.acts(start, stop).to(device, torch.float32)
