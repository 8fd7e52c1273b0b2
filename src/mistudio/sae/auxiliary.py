"""The auxiliary loss that keeps latents alive (AuxK; Gao et al. 2024, arXiv:2406.04093, appendix A.2).

The best of the latents that have long been silent model what the active ones missed. Only the dead part of
the dictionary is looked at.

Shape legend: T tokens, D and E widths of input and output, F features (latents), A active pairs.
"""

import torch
from torch import Tensor

from mistudio.sae.base import SparseAutoencoder
from mistudio.sae.kernels import active_preactivations, sparse_decode
from mistudio.sae.selection import top_pattern


def auxiliary_loss(
    sae: SparseAutoencoder, pre_TF: Tensor, x_TD: Tensor, missed_TE: Tensor, dead_F: Tensor, aux_k: int | None
) -> Tensor:
    """How badly the best dead latents reconstruct what the active ones missed.

    Args:
        sae: the autoencoder.
        pre_TF: pre-activations of all latents.
        x_TD: inputs.
        missed_TE: the error of the reconstruction, without gradient.
        dead_F: indices of the dead latents; at least one, where no process has the others.
        aux_k: latents to use a token; half of the output's width if None.
    """
    k = min(aux_k or max(sae.d_out // 2, 1), sae.latents.agree(len(dead_F)))
    W_enc_FD, b_enc_F, W_dec_FE = sae.W_enc[dead_F], sae.b_enc[dead_F], sae.W_dec[dead_F]
    dead_TF = pre_TF[:, dead_F]
    pattern = top_pattern(dead_TF, k, sae.latents)
    values_A = torch.relu(active_preactivations(dead_TF, x_TD, W_enc_FD, b_enc_F, pattern))
    left_TE = missed_TE - sae.latents.total(sparse_decode(values_A, W_dec_FE, pattern))
    missed = sae.batch.mean(missed_TE.square().mean(), len(x_TD))
    return left_TE.square().mean() / missed.clamp(min=1e-12)
