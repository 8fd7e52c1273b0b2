"""What the TopK autoencoder does around a step; its losses are tested with those of all architectures."""

import pytest
import torch
from torch import Tensor

from mistudio.sae import Stage, TopKConfig, new_autoencoder
from mistudio.sae.topk import TopKTraining

WIDTH, D_IN, K = 64, 12, 5


def make(seed: int = 0, dtype: torch.dtype = torch.float64, **settings: float) -> TopKTraining:
    """The training of an autoencoder whose four weights are all random and unrelated."""
    training = new_autoencoder(TopKConfig(width=WIDTH, k=K, **settings), D_IN).for_training()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in training.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    assert isinstance(training, TopKTraining)
    return training.to(dtype)


def batch(num_tokens: int = 40, seed: int = 1) -> Tensor:
    return torch.randn(num_tokens, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_an_auxiliary_coefficient_of_zero_leaves_the_loss_out() -> None:
    training = make(aux_coefficient=0)
    assert "auxiliary" not in training.losses(batch(), batch(), Stage(0.0, torch.arange(WIDTH))).parts


def test_the_auxiliary_loss_is_near_one_where_dead_latents_explain_nothing() -> None:
    training = make()
    sae = training.sae
    with torch.no_grad():
        sae.b_enc[:4] = -100.0  # pre-activations stay negative: the ReLU keeps them silent
    losses = training.losses(batch(), batch(), Stage(0.0, torch.arange(4)))
    assert float(losses.parts["auxiliary"]) == pytest.approx(1.0)


def test_before_step_removes_the_gradient_along_the_decoder_directions() -> None:
    training = make()
    sae = training.sae
    training.constrain()
    training.losses(batch(), batch(), Stage(0.0)).total.backward()
    grad_FD = sae.W_dec.grad
    assert grad_FD is not None
    along_F = (grad_FD * sae.W_dec).sum(dim=1)
    across_FD = grad_FD - along_F[:, None] * sae.W_dec
    assert float(along_F.detach().abs().max()) > 1e-4
    training.before_step()
    torch.testing.assert_close(sae.W_dec.grad, across_FD.detach())
    assert float((sae.W_dec.grad * sae.W_dec).sum(dim=1).detach().abs().max()) < 1e-15


def test_constraining_brings_decoder_directions_to_unit_norm_and_keeps_where_they_point() -> None:
    training = make()
    sae = training.sae
    before_FD = sae.W_dec.detach().clone()
    training.constrain()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(WIDTH, dtype=torch.float64))
    torch.testing.assert_close(sae.W_dec * before_FD.norm(dim=1, keepdim=True), before_FD)


def test_initialisation_is_tied_with_unit_directions_and_the_mean_as_origin() -> None:
    sae = new_autoencoder(TopKConfig(width=WIDTH, k=K), D_IN)
    sample_TD = batch().float() + 7
    sae.for_training().initialise(sample_TD, torch.Generator().manual_seed(0), sample_TD.mean(dim=0))
    assert torch.equal(sae.W_enc, sae.W_dec)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(WIDTH))
    torch.testing.assert_close(sae.b_dec.detach(), sample_TD.mean(dim=0))
    torch.testing.assert_close(sae.W_enc @ sae.b_dec + sae.b_enc, torch.zeros(WIDTH), rtol=0, atol=1e-5)


def test_initialisation_depends_on_the_generator_alone() -> None:
    first, same, other = (new_autoencoder(TopKConfig(width=WIDTH, k=K), D_IN) for _ in range(3))
    for sae, seed in ((first, 1), (same, 1), (other, 2)):
        torch.manual_seed(torch.seed() % 1000)  # the global generator must not matter
        sae.for_training().initialise(batch().float(), torch.Generator().manual_seed(seed))
    assert torch.equal(first.W_dec, same.W_dec)
    assert not torch.equal(first.W_dec, other.W_dec)


def test_encoding_keeps_the_k_largest_positive_latents() -> None:
    training, x_TD = make(), batch()
    sae = training.sae
    pre_TF = (x_TD @ sae.W_enc.T + sae.b_enc).detach()
    threshold_T = pre_TF.sort(dim=1, descending=True).values[:, K - 1 : K]
    expected_TF = torch.where(pre_TF >= threshold_T, pre_TF.clamp(min=0), 0)
    torch.testing.assert_close(sae.encode(x_TD), expected_TF)


def test_k_may_be_the_whole_width() -> None:
    sae = new_autoencoder(TopKConfig(width=64, k=64), D_IN)
    sae.for_training().initialise(batch().float(), torch.Generator().manual_seed(0))
    sae = sae.double()
    x_TD = batch()
    expected_TF = (x_TD @ sae.W_enc.T + sae.b_enc).clamp(min=0)
    torch.testing.assert_close(sae.encode(x_TD), expected_TF.detach())
    assert sae.for_training().losses(x_TD, x_TD, Stage(0.0)).total.isfinite()
