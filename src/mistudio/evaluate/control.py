"""A random autoencoder: what the figures of a trained one have to be held against.

It has the architecture and width of the trained one and random directions. Two numbers are fitted on a
sample, so that it is as good as random directions can be: one shift of all encoder biases, such that as many
latents are active as in the trained one; and one factor on the decoder, without which the overlapping
directions of a wide dictionary add up to far too long a reconstruction. Where its latents alone are looked
at, the second is left out, and so what it would be fitted to. It has the norm limit of the trained one, and is fitted
to what lies within.

Shape legend: N rows of the sample, D width of the input, E width of the target, A active pairs.
"""

import torch
from torch import Tensor

from mistudio.activations import OrderedRows
from mistudio.sae import ActiveLatents, Normalisation, SparseAutoencoder, new_autoencoder

_SAMPLE_ROWS = 1024
_SAMPLE_RUNS = 32
_BISECTIONS = 30
_CLOSE_ENOUGH = 0.01
_SEED_OFFSET = 0x5EED_0000


def control_generator(seed: int) -> torch.Generator:
    """The generator of random directions for a control.

    It is not that of the seed itself: an autoencoder trained with the same seed started from those directions,
    and its dead latents still have them.
    """
    return torch.Generator().manual_seed(_SEED_OFFSET + seed)


def sample_rows(reader: OrderedRows) -> Tensor:
    """About a thousand rows from all over a split [N, D], float32."""
    run = max(_SAMPLE_ROWS // _SAMPLE_RUNS, 1)
    if len(reader) <= _SAMPLE_ROWS:
        return reader.acts(0, len(reader)).float()
    starts = torch.linspace(0, len(reader) - run, _SAMPLE_RUNS).long().tolist()
    return torch.cat([reader.acts(start, start + run) for start in starts]).float()


@torch.no_grad()
def random_autoencoder(
    sae: SparseAutoencoder, sample_ND: Tensor, seed: int, target_NE: Tensor | None = None
) -> SparseAutoencoder:
    """An untrained twin of ``sae`` on the same device, fitted to a sample as the module's docstring says."""
    x_ND = sample_ND.to(sae.W_dec.device, torch.float32)
    y_NE = x_ND if target_NE is None else target_NE.to(x_ND)
    if sae.norm_limit is not None:
        kept_N = sae.norm_limit.keeps(x_ND)
        x_ND, y_NE = x_ND[kept_N], y_NE[kept_N]
    norm = Normalisation(*_centre(x_ND.cpu()), *_centre(y_NE.cpu()))
    control = _as_sparse(sae, x_ND, norm, seed)
    _fit_length(control, x_ND, y_NE)
    return control


@torch.no_grad()
def random_latents(sae: SparseAutoencoder, sample_ND: Tensor, seed: int) -> SparseAutoencoder:
    """An untrained twin of ``sae`` for its latents alone: no target is needed, and what it decodes means nothing."""
    x_ND = sample_ND.to(sae.W_dec.device, torch.float32)
    if sae.norm_limit is not None:
        x_ND = x_ND[sae.norm_limit.keeps(x_ND)]
    mean_D, scale = _centre(x_ND.cpu())
    return _as_sparse(sae, x_ND, Normalisation(mean_D, scale, torch.zeros(sae.d_out), scale), seed)


def _as_sparse(sae: SparseAutoencoder, x_ND: Tensor, norm: Normalisation, seed: int) -> SparseAutoencoder:
    """Random directions, as many of them active on the sample as latents of ``sae`` are."""
    control = new_autoencoder(sae.config, sae.d_in, sae.d_out)
    untrained = control.for_training()
    untrained.initialise((x_ND.cpu() - norm.mean_D) / norm.scale, control_generator(seed))
    untrained.fold(norm)
    control = control.requires_grad_(requires_grad=False).to(x_ND.device)
    control.norm_limit = sae.norm_limit
    _match_sparsity(control, x_ND, len(sae.encode_active(x_ND).value_A))
    return control


def _centre(rows_ND: Tensor) -> tuple[Tensor, float]:
    """Mean, and root of the mean variance a dimension (1 where there is none)."""
    mean_D = rows_ND.mean(dim=0)
    return mean_D, float((rows_ND - mean_D).square().mean().sqrt()) or 1.0


def _match_sparsity(control: SparseAutoencoder, x_ND: Tensor, wanted: int) -> None:
    """Shift the encoder's biases until about ``wanted`` pairs of token and latent are active."""

    def too_many() -> bool | None:
        active = len(control.encode_active(x_ND).value_A)
        return None if abs(active - wanted) <= _CLOSE_ENOUGH * wanted else active > wanted

    start_F = control.b_enc.clone()
    # No pre-activation is further from zero than this.
    reach = float(control.W_enc.norm(dim=1).max() * x_ND.norm(dim=1).max() + start_F.abs().max())
    low, high, shift = -2 * reach, 2 * reach, 0.0
    for _ in range(_BISECTIONS):
        control.b_enc.copy_(start_F + shift)
        answer = too_many()
        if answer is None:
            return
        low, high = (low, shift) if answer else (shift, high)
        shift = (low + high) / 2


def _fit_length(control: SparseAutoencoder, x_ND: Tensor, y_NE: Tensor) -> None:
    """Scale the decoder by the factor that fits the sample best."""
    active = control.encode_active(x_ND)
    none = ActiveLatents(*(column[:0] for column in active))
    rebuilt_NE = control.decode_active(active, len(x_ND), x_ND)
    latents_NE = rebuilt_NE - control.decode_active(none, len(x_ND), x_ND)
    power = latents_NE.double().square().sum()
    if power > 0:
        factor = 1 + ((y_NE - rebuilt_NE).double() * latents_NE.double()).sum() / power
        control.W_dec.mul_(factor.to(control.W_dec))
