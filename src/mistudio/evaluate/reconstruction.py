"""How well an autoencoder reconstructs activations it was not trained on, in one streaming pass.

Shape legend: T tokens of a batch, D model width, F features (latents).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mistudio.activations import ActivationReader
from mistudio.progress import progress
from mistudio.sae import SparseAutoencoder

_BATCH_ROWS = 4096


class Reconstruction(NamedTuple):
    """Means over tokens, and how often each latent fires."""

    tokens: int
    fvu: float  # fraction of variance unexplained: squared error over squared distance from the mean
    l0: float  # active latents a token
    l1: float  # sum of activations a token, in the activations' units
    cosine: float  # between activation and reconstruction
    density_F: Tensor  # share of tokens on which each latent fires, float64


@torch.no_grad()
def measure_reconstruction(
    sae: SparseAutoencoder, reader: ActivationReader, max_tokens: int | None, device: torch.device
) -> Reconstruction:
    """Reconstruct the reader's rows in order; ``max_tokens`` ends the pass early."""
    num_tokens = min(len(reader), max_tokens or len(reader))
    sum_D = torch.zeros(reader.width, dtype=torch.float64)
    count_F = torch.zeros(sae.width, dtype=torch.int64)
    squares = errors = active_pairs = activation = cosine = 0.0
    with progress("Evaluate reconstruction", num_tokens, "tokens") as bar:
        for start in range(0, num_tokens, _BATCH_ROWS):
            x_TD = reader.acts(start, min(start + _BATCH_ROWS, num_tokens)).to(device, torch.float32)
            active = sae.encode_active(x_TD)
            rebuilt_TD = sae.decode_active(active, len(x_TD))
            sum_D += x_TD.double().sum(dim=0).cpu()
            squares += float(x_TD.double().square().sum())
            errors += float((x_TD - rebuilt_TD).double().square().sum())
            cosine += float(torch.cosine_similarity(x_TD, rebuilt_TD, dim=1).double().sum())
            active_pairs += len(active.value_A)
            activation += float(active.value_A.double().sum())
            count_F += torch.bincount(active.feature_A, minlength=sae.width).cpu()
            bar.advance(len(x_TD))
    variance = squares - float(sum_D.square().sum()) / num_tokens
    return Reconstruction(
        tokens=num_tokens,
        fvu=errors / variance if variance > 0 else float(errors > 0),
        l0=active_pairs / num_tokens,
        l1=activation / num_tokens,
        cosine=cosine / num_tokens,
        density_F=count_F.double() / num_tokens,
    )
