"""Exact activations of chosen latents, without those of all others where an architecture allows it.

Where a latent is active above a threshold, its own column of the encoder's product says all, and only such columns are
computed. In a TopK autoencoder the largest of a token are kept, so all latents of the token have to be known.

Shape legend: T tokens, D width of the input, F latents, L chosen latents, A active (token, latent) pairs.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mistudio.errors import InputError
from mistudio.sae import ActiveLatents, SparseAutoencoder, new_autoencoder
from mistudio.sae.batchtopk import BatchTopKAutoencoder
from mistudio.sae.jumprelu import JumpReLUAutoencoder
from mistudio.sae.l1 import L1Autoencoder

_THRESHOLDED = (BatchTopKAutoencoder, JumpReLUAutoencoder, L1Autoencoder)


@torch.no_grad()
def encode_chosen(sae: SparseAutoencoder, x_TD: Tensor, latents: Sequence[int]) -> Tensor:
    """Activations of some latents [T, L], in the order asked for; equal to their columns of ``sae.encode``.

    Columns that are computed alone differ from those of the whole product by rounding.

    Raises:
        InputError: there is no such latent.
    """
    check_latents(sae, latents)
    device, (unique_L, place_L) = sae.W_enc.device, np.unique(np.array(latents, np.int64), return_inverse=True)
    latent_L = torch.from_numpy(unique_L).to(device)
    if not latents:
        return x_TD.new_zeros(len(x_TD), 0)
    if isinstance(sae, _THRESHOLDED):
        acts_TL = _with_latents(sae, latent_L).encode(x_TD)
    else:
        acts_TL = _columns(sae.encode_active(x_TD), len(x_TD), sae.width, latent_L)
    return acts_TL[:, torch.from_numpy(place_L).to(device)]


def check_latents(sae: SparseAutoencoder, latents: Sequence[int]) -> None:
    """Refuse latents that are not there.

    Raises:
        InputError: there is no such latent.
    """
    for latent in latents:
        if not 0 <= latent < sae.width:
            message = f"There is no latent {latent}: the autoencoder has {sae.width:,}, 0 to {sae.width - 1}."
            raise InputError(message)


def _columns(active: ActiveLatents, num_tokens: int, width: int, latent_L: Tensor) -> Tensor:
    """The columns of some latents [T, L] of the dense matrix that active ones stand for."""
    column_F = latent_L.new_full((width,), -1)
    column_F[latent_L] = torch.arange(len(latent_L), device=latent_L.device)
    column_A = column_F[active.feature_A]
    chosen_A = column_A >= 0
    acts_TL = active.value_A.new_zeros(num_tokens, len(latent_L))
    acts_TL[active.token_A[chosen_A], column_A[chosen_A]] = active.value_A[chosen_A]
    return acts_TL


def _with_latents(sae: SparseAutoencoder, latent_L: Tensor) -> SparseAutoencoder:
    """An autoencoder of the same kind that has some of the latents alone."""
    few = new_autoencoder(sae.config.model_copy(update={"width": len(latent_L)}), sae.d_in, sae.d_out)
    few.requires_grad_(requires_grad=False).to(sae.W_enc)
    by_latent = {"W_enc", "b_enc", "W_dec", *sae.own_weights}
    for name in sae.weight_names():
        weight = getattr(sae, name)
        getattr(few, name).data = weight[latent_L] if name in by_latent and weight.ndim else weight
    return few
