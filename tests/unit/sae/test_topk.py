"""The TopK autoencoder against its formulas, written out densely in float64."""

import pytest
import torch
from torch import Tensor

from mistudio.sae import TopKConfig, new_autoencoder
from mistudio.sae.topk import TopKAutoencoder

WIDTH, D_IN, K = 64, 12, 5


def make(seed: int = 0, dtype: torch.dtype = torch.float64, **settings: float) -> TopKAutoencoder:
    """An autoencoder whose four weights are all random and unrelated."""
    sae = new_autoencoder(TopKConfig(width=WIDTH, k=K, **settings), D_IN)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    assert isinstance(sae, TopKAutoencoder)
    return sae.to(dtype)


def batch(num_tokens: int = 40, seed: int = 1) -> Tensor:
    return torch.randn(num_tokens, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def no_dead() -> Tensor:
    return torch.zeros(WIDTH, dtype=torch.bool)


def naive_losses(sae: TopKAutoencoder, x_TD: Tensor, dead_F: Tensor) -> tuple[Tensor, Tensor]:
    """Fraction of variance unexplained and auxiliary loss, by dense matrices and autograd alone."""
    pre_TF = (x_TD - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    top = pre_TF.topk(K, dim=1)
    acts_TF = torch.zeros_like(pre_TF).scatter(1, top.indices, top.values.relu())
    error_TD = x_TD - (acts_TF @ sae.W_dec + sae.b_dec)
    dead_TF = torch.where(dead_F, pre_TF, -torch.inf)
    aux_k = min(sae.config.aux_k or D_IN // 2, int(dead_F.sum()))
    auxiliary = torch.zeros(())
    if aux_k:
        top = dead_TF.topk(aux_k, dim=1)
        acts_TF = torch.zeros_like(pre_TF).scatter(1, top.indices, top.values.relu())
        missed_TD = error_TD.detach()
        auxiliary = (missed_TD - acts_TF @ sae.W_dec).square().mean() / missed_TD.square().mean()
    return error_TD.square().mean(), auxiliary


def gradients(sae: TopKAutoencoder, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*sae.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize("num_dead", [0, 3, 20])
def test_losses_and_gradients_equal_the_dense_formula(num_dead: int) -> None:
    sae, x_TD = make(), batch()
    dead_F = torch.arange(WIDTH) < num_dead
    losses = sae.losses(x_TD, dead_F, 0.5)
    fvu, auxiliary = naive_losses(sae, x_TD, dead_F)
    total = fvu + sae.config.aux_coefficient * auxiliary
    torch.testing.assert_close(losses.total, total)
    torch.testing.assert_close(losses.objective, fvu.detach())
    torch.testing.assert_close(losses.parts["fvu"], fvu.detach())
    assert ("auxiliary" in losses.parts) == (num_dead > 0)
    torch.testing.assert_close(gradients(sae, losses.total), gradients(sae, total), rtol=1e-10, atol=1e-12)


def test_l0_and_fired_count_the_positive_latents_of_the_batch() -> None:
    sae, x_TD = make(), batch()
    with torch.no_grad():
        sae.b_enc -= 2.0  # so that some tokens have fewer than K positive pre-activations
    losses = sae.losses(x_TD, no_dead(), 0.0)
    acts_TF = sae.encode(x_TD)
    assert 0 < float(losses.parts["l0"]) < K
    assert float(losses.parts["l0"]) == pytest.approx(float((acts_TF > 0).sum() / len(x_TD)))
    assert losses.fired_F.tolist() == (acts_TF > 0).sum(dim=0).tolist()


def test_the_auxiliary_loss_moves_encoder_and_decoder_of_dead_latents_and_no_live_one() -> None:
    sae, x_TD = make(aux_k=8), batch()
    dead_F = torch.zeros(WIDTH, dtype=torch.bool)
    dead_F[[3, 17, 40]] = True
    with torch.no_grad():
        sae.W_enc[dead_F] *= 0.2  # never among the K largest, yet positive on some tokens
        sae.b_enc[dead_F] = 0
    assert not sae.losses(x_TD, no_dead(), 0.0).fired_F[dead_F].any()
    without = gradients(sae, sae.losses(x_TD, no_dead(), 0.0).total)
    losses = sae.losses(x_TD, dead_F, 0.0)
    assert "auxiliary" in losses.parts
    with_auxiliary = gradients(sae, losses.total)
    for name in ("W_enc", "b_enc", "W_dec"):
        change = with_auxiliary[name] - without[name]
        assert change[dead_F].reshape(3, -1).any(dim=1).all(), name
        assert not without[name][dead_F].any(), name
        assert not change[~dead_F].any(), name


def test_an_auxiliary_coefficient_of_zero_leaves_the_loss_out() -> None:
    sae = make(aux_coefficient=0)
    assert "auxiliary" not in sae.losses(batch(), torch.ones(WIDTH, dtype=torch.bool), 0.0).parts


def test_the_auxiliary_loss_is_near_one_where_dead_latents_explain_nothing() -> None:
    sae = make()
    with torch.no_grad():
        sae.b_enc[:4] = -100.0  # pre-activations stay negative: the ReLU keeps them silent
    losses = sae.losses(batch(), torch.arange(WIDTH) < 4, 0.0)
    assert float(losses.parts["auxiliary"]) == pytest.approx(1.0)


def test_before_step_removes_the_gradient_along_the_decoder_directions() -> None:
    sae = make()
    sae.after_step()
    sae.losses(batch(), no_dead(), 0.0).total.backward()
    grad_FD = sae.W_dec.grad
    assert grad_FD is not None
    along_F = (grad_FD * sae.W_dec).sum(dim=1)
    across_FD = grad_FD - along_F[:, None] * sae.W_dec
    assert float(along_F.detach().abs().max()) > 1e-4
    sae.before_step()
    torch.testing.assert_close(sae.W_dec.grad, across_FD.detach())
    assert float((sae.W_dec.grad * sae.W_dec).sum(dim=1).detach().abs().max()) < 1e-15


def test_after_step_brings_decoder_directions_to_unit_norm_and_keeps_where_they_point() -> None:
    sae = make()
    before_FD = sae.W_dec.detach().clone()
    sae.after_step()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(WIDTH, dtype=torch.float64))
    torch.testing.assert_close(sae.W_dec * before_FD.norm(dim=1, keepdim=True), before_FD)


def test_initialisation_is_tied_with_unit_directions_and_the_mean_as_origin() -> None:
    sae = new_autoencoder(TopKConfig(width=WIDTH, k=K), D_IN)
    sample_TD = batch().float() + 7
    sae.initialise(sample_TD, torch.Generator().manual_seed(0))
    assert torch.equal(sae.W_enc, sae.W_dec)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(WIDTH))
    torch.testing.assert_close(sae.b_dec.detach(), sample_TD.mean(dim=0))
    assert not sae.b_enc.any()


def test_initialisation_depends_on_the_generator_alone() -> None:
    first, same, other = (new_autoencoder(TopKConfig(width=WIDTH, k=K), D_IN) for _ in range(3))
    for sae, seed in ((first, 1), (same, 1), (other, 2)):
        torch.manual_seed(torch.seed() % 1000)  # the global generator must not matter
        sae.initialise(batch().float(), torch.Generator().manual_seed(seed))
    assert torch.equal(first.W_dec, same.W_dec)
    assert not torch.equal(first.W_dec, other.W_dec)


def test_encoding_keeps_the_k_largest_positive_latents() -> None:
    sae, x_TD = make(), batch()
    pre_TF = ((x_TD - sae.b_dec) @ sae.W_enc.T + sae.b_enc).detach()
    threshold_T = pre_TF.sort(dim=1, descending=True).values[:, K - 1 : K]
    expected_TF = torch.where(pre_TF >= threshold_T, pre_TF.clamp(min=0), 0)
    torch.testing.assert_close(sae.encode(x_TD), expected_TF)


def test_k_may_be_the_whole_width() -> None:
    sae = new_autoencoder(TopKConfig(width=64, k=64), D_IN).double()
    sae.initialise(batch().float(), torch.Generator().manual_seed(0))
    x_TD = batch()
    expected_TF = ((x_TD - sae.b_dec) @ sae.W_enc.T + sae.b_enc).clamp(min=0)
    torch.testing.assert_close(sae.encode(x_TD), expected_TF.detach())
    assert sae.losses(x_TD, no_dead(), 0.0).total.isfinite()
