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

A first pass takes the mean of the targets; reading costs little beside encoding.

Shape legend: T tokens of a batch, D width of the input, E width of the target, F features (latents).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mistudio.activations import ActivationReader
from mistudio.errors import InputError
from mistudio.progress import progress
from mistudio.sae import SparseAutoencoder

BATCH_ROWS = 4096


class Reconstruction(NamedTuple):
    """Means over tokens, and how often each latent fires."""

    tokens: int
    fvu: float  # fraction of variance unexplained
    explained_variance_by_token: float
    mse: float  # in squared units of the activations
    l0: float  # active latents a token
    l1: float  # sum of activations a token, in the activations' units
    cosine: float  # between target and reconstruction
    l2_ratio: float
    relative_bias: float | None  # None where nothing is reconstructed
    density_F: Tensor  # share of tokens on which each latent fires, float64

    @property
    def dead_fraction(self) -> float:
        """Share of latents that never fired."""
        return float((self.density_F == 0).double().mean())

    def dense_fraction(self, threshold: float) -> float:
        """Share of latents that fire on more than ``threshold`` of the tokens."""
        return float((self.density_F > threshold).double().mean())


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
        InputError: input and target have different numbers of rows.
    """
    target = reader if target_reader is None else target_reader
    if len(target) != len(reader):
        message = f"{reader.hook} has {len(reader):,} rows and {target.hook} {len(target):,}: capture both in one run."
        raise InputError(message)
    num_tokens = min(len(reader), max_tokens or len(reader))
    mean_E = _mean(target, num_tokens, device)
    sums = torch.zeros(len(_SUMS), dtype=torch.float64)
    count_F = torch.zeros(sae.width, dtype=torch.int64)
    with progress("Evaluate reconstruction", num_tokens, "tokens") as bar:
        for start, x_TD in _batches(reader, num_tokens, device):
            y_TE = x_TD if target_reader is None else _rows(target, start, start + len(x_TD), device)
            active = sae.encode_active(x_TD)
            sums += _sums(y_TE, sae.decode_active(active, len(x_TD), x_TD), mean_E, active.value_A).cpu()
            count_F += torch.bincount(active.feature_A, minlength=sae.width).cpu()
            bar.advance(len(x_TD))
    return _reconstruction(dict(zip(_SUMS, sums.tolist(), strict=True)), num_tokens, target.width, count_F)


_SUMS = ("error", "variance", "unexplained", "cosine", "l2_ratio", "rebuilt", "product", "active", "activation")


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


def _reconstruction(sums: dict[str, float], num_tokens: int, width: int, count_F: Tensor) -> Reconstruction:
    error, variance, product = sums["error"], sums["variance"], sums["product"]
    return Reconstruction(
        tokens=num_tokens,
        fvu=error / variance if variance > 0 else float(error > 0),
        explained_variance_by_token=1 - sums["unexplained"] / num_tokens,
        mse=error / (num_tokens * width),
        l0=sums["active"] / num_tokens,
        l1=sums["activation"] / num_tokens,
        cosine=sums["cosine"] / num_tokens,
        l2_ratio=sums["l2_ratio"] / num_tokens,
        relative_bias=sums["rebuilt"] / product if product else None,
        density_F=count_F.double() / num_tokens,
    )


def _mean(reader: ActivationReader, num_tokens: int, device: torch.device) -> Tensor:
    total_E = torch.zeros(reader.width, dtype=torch.float64, device=device)
    for _, rows_TE in _batches(reader, num_tokens, device):
        total_E += rows_TE.double().sum(dim=0)
    return total_E / num_tokens


def _batches(reader: ActivationReader, num_tokens: int, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, num_tokens, BATCH_ROWS):
        yield start, _rows(reader, start, min(start + BATCH_ROWS, num_tokens), device)


def _rows(reader: ActivationReader, start: int, stop: int, device: torch.device) -> Tensor:
    return reader.acts(start, stop).to(device, torch.float32)
