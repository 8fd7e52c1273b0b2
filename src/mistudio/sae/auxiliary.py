"""The losses that bring dead latents back: AuxK, and a pull on those that AuxK cannot reach.

AuxK (Gao et al. 2024, arXiv:2406.04093, appendix A.2): the best of the latents that have long been silent model
what the active ones missed. A latent whose pre-activation is negative on every token has no gradient there, and
stays dead. So all dead latents are drawn up as well, by the pre-activation loss (Anthropic, "Circuits updates",
January 2025). Only the dead part of the dictionary is looked at.

Shape legend: T tokens, D and E widths of input and output, F features (latents), A active pairs.
"""

import torch
from torch import Tensor
from torch.nn import functional

from mistudio.sae.kernels import active_preactivations, sparse_decode
from mistudio.sae.selection import top_pattern
from mistudio.sae.training import SAETraining


def auxiliary_loss(
    training: SAETraining, pre_TF: Tensor, x_TD: Tensor, missed_TE: Tensor, dead_F: Tensor, aux_k: int | None
) -> Tensor:
    """How badly the best dead latents reconstruct what the active ones missed.

    Args:
        training: of the autoencoder.
        pre_TF: pre-activations of all latents.
        x_TD: inputs.
        missed_TE: the error of the reconstruction, without gradient.
        dead_F: indices of the dead latents; at least one, where no process has the others.
        aux_k: latents to use a token; half of the output's width if None.
    """
    sae = training.sae
    k = min(aux_k or max(sae.d_out // 2, 1), training.latents.agree(len(dead_F)))
    W_enc_FD, b_enc_F, W_dec_FE = sae.W_enc[dead_F], sae.b_enc[dead_F], sae.W_dec[dead_F]
    dead_TF = pre_TF[:, dead_F]
    pattern = top_pattern(dead_TF, k, training.latents)
    values_A = torch.relu(active_preactivations(dead_TF, x_TD, W_enc_FD, b_enc_F, pattern))
    left_TE = missed_TE - training.latents.total(sparse_decode(values_A, W_dec_FE, pattern))
    missed = training.batch.mean(missed_TE.square().mean(), len(x_TD))
    return left_TE.square().mean() / missed.clamp(min=1e-12)


def drawn_up(training: SAETraining, x_TD: Tensor, dead_F: Tensor) -> Tensor:
    """How far dead latents lie below zero on the mean token: the pre-activation loss but for a constant.

    A dead latent lies below the threshold θ of every token, so that ReLU(θ - pre) is θ - pre: its gradient is that
    of the mean pre-activation, which needs the mean token alone.

    Args:
        training: of the autoencoder.
        x_TD: inputs.
        dead_F: indices of the dead latents; at least one, where no process has the others.
    """
    pre_F = functional.linear(x_TD.mean(dim=0), training.sae.W_enc[dead_F], training.sae.b_enc[dead_F])
    return -training.latents.total(pre_F.sum()) / training.latents.agree(len(dead_F))
