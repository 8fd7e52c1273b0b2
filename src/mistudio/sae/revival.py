"""Dead latents start anew where reconstruction is worst.

Resampling (Bricken et al. 2023, "Towards Monosemanticity", appendix): a token is drawn with probability that grows with
the square of its loss, and what is missed of it becomes the latent's direction. Where one latent stands for two
features, the second is what is missed; a random direction seldom finds it once the penalty presses.

Shape legend: T tokens, D and E widths of input and output, F features (latents), N dead ones.
"""

import torch
from torch import Tensor
from torch.nn import functional

from mistudio.sae.training import SAETraining


@torch.no_grad()
def resample(
    training: SAETraining,
    dead_F: Tensor,
    x_TD: Tensor,
    y_TE: Tensor,
    generator: torch.Generator,
    encoder_share: float = 0.2,
) -> None:
    """Point dead latents at what is missed of tokens, with short encoder rows, so that they start softly, and no bias.

    Args:
        training: of the autoencoder, which is changed.
        dead_F: which latents are dead, as booleans.
        x_TD: a batch of inputs.
        y_TE: their targets.
        generator: of the draw.
        encoder_share: length of the encoder rows, as a share of the mean of the others'.
    """
    sae = training.sae
    error_TE = y_TE - training.reconstruct(x_TD)
    losses_T = error_TE.square().sum(dim=1)
    counts = training.latents.gather(dead_F.sum()).tolist()
    drawn = torch.multinomial(losses_T.square().cpu().clamp(min=1e-12), sum(counts), True, generator=generator)
    drawn_N = torch.split(drawn, counts)[training.latents.rank].to(x_TD.device)
    encoder_norm = live_mean(training, sae.W_enc.norm(dim=1), dead_F, 1.0)
    decoder_norm = 1.0 if training.has_unit_norm else live_mean(training, sae.W_dec.norm(dim=1), dead_F, 1.0)
    sae.W_dec[dead_F] = functional.normalize(error_TE[drawn_N], dim=1) * decoder_norm
    rows_ND = functional.normalize(x_TD[drawn_N] if sae.d_in != sae.d_out else error_TE[drawn_N], dim=1)
    sae.W_enc[dead_F] = rows_ND * encoder_norm * encoder_share
    sae.b_enc.masked_fill_(dead_F, 0.0)


def live_mean(training: SAETraining, values_F: Tensor, dead_F: Tensor, otherwise: float) -> Tensor:
    """The mean of a figure over the latents that are not dead, of all processes; ``otherwise`` where all are."""
    sums = torch.stack([values_F.detach()[~dead_F].sum(), (~dead_F).sum().to(values_F)])
    total, count = training.latents.total(sums)
    return torch.where(count > 0, total / count.clamp(min=1), otherwise)
