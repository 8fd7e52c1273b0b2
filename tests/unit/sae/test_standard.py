"""The ReLU autoencoder against its formulas, and its initialisation."""

import math

import pytest
import torch
from torch import Tensor

from mistudio.sae import Stage, StandardConfig, new_autoencoder
from mistudio.sae.standard import StandardTraining

WIDTH, D_IN = 96, 16
NO_DEAD = torch.zeros(WIDTH, dtype=torch.bool)


def make(**settings: object) -> StandardTraining:
    training = new_autoencoder(StandardConfig(width=WIDTH, **settings), D_IN).for_training()
    assert isinstance(training, StandardTraining)
    return training


def initialised(**settings: object) -> StandardTraining:
    training = make(**settings)
    training.initialise(batch().float(), torch.Generator().manual_seed(0), batch().float().mean(dim=0))
    return training.double()


def batch(num_tokens: int = 50) -> Tensor:
    return torch.randn(num_tokens, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) + 2


def test_initialisation_is_xavier_uniform_and_tied() -> None:
    training = initialised()
    sae = training.sae
    bound = math.sqrt(6 / (WIDTH + D_IN))
    assert torch.equal(sae.W_enc, sae.W_dec)
    assert float(sae.W_enc.detach().abs().max()) <= bound
    assert float(sae.W_enc.detach().abs().max()) > 0.98 * bound
    assert float(sae.W_enc.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_the_initial_bias_is_minus_a_tenth_at_the_mean_of_the_data() -> None:
    training = initialised()
    sae = training.sae
    mean_D = batch().mean(dim=0)
    torch.testing.assert_close(sae.b_dec.detach(), mean_D, rtol=1e-6, atol=1e-6)
    at_mean_F = (sae.W_enc @ mean_D + sae.b_enc).detach()
    torch.testing.assert_close(at_mean_F, torch.full_like(at_mean_F, -0.1), rtol=1e-5, atol=1e-5)


def test_the_loss_is_the_squared_error_plus_l1_weighted_by_the_decoder_norms() -> None:
    training, x_TD = initialised(l1_coefficient=0.3, penalty_warmup_fraction=0), batch()
    sae = training.sae
    with torch.no_grad():
        sae.W_dec.mul_(torch.linspace(0.2, 3, WIDTH)[:, None])
    losses = training.losses(x_TD, x_TD, Stage(0.0))
    acts_TF = torch.relu(x_TD @ sae.W_enc.T + sae.b_enc)
    fvu = (x_TD - acts_TF @ sae.W_dec - sae.b_dec).square().mean()
    l1 = (acts_TF * sae.W_dec.norm(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(losses.total, fvu + 0.3 * l1)
    torch.testing.assert_close(losses.objective, losses.total.detach())
    torch.testing.assert_close(losses.parts["l1"], l1.detach())
    torch.testing.assert_close(losses.parts["fvu"], fvu.detach())
    torch.testing.assert_close(losses.parts["l0"], (acts_TF > 0).double().sum(dim=1).mean())
    assert losses.fired_F.tolist() == (acts_TF > 0).sum(dim=0).tolist()
    for name, parameter in sae.named_parameters():
        ours, dense = (
            torch.autograd.grad(loss, parameter, retain_graph=True)[0] for loss in (losses.total, fvu + 0.3 * l1)
        )
        torch.testing.assert_close(ours, dense, msg=name)


def test_the_penalty_cannot_be_dodged_by_growing_the_decoder() -> None:
    training, x_TD = initialised(penalty_warmup_fraction=0), batch()
    sae = training.sae
    before = training.losses(x_TD, x_TD, Stage(0.0))
    with torch.no_grad():
        for parameter, factor in ((sae.W_enc, 0.5), (sae.b_enc, 0.5), (sae.W_dec, 2.0)):
            parameter.mul_(factor)
    torch.testing.assert_close(training.losses(x_TD, x_TD, Stage(0.0)).total, before.total)


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.1, 0.5), (0.2, 1.0), (0.9, 1.0)])
def test_the_penalty_ramps_up_over_its_share_of_training(progress: float, share: float) -> None:
    training = initialised(l1_coefficient=0.3, penalty_warmup_fraction=0.2)
    losses = training.losses(batch(), batch(), Stage(progress))
    torch.testing.assert_close(losses.objective, losses.parts["fvu"] + share * 0.3 * losses.parts["l1"])
    assert training.ramp_fraction == 0.2


def test_reinitialised_latents_start_as_at_first_and_leave_the_others() -> None:
    training = make(revival="reinitialise")
    sae = training.sae
    training.initialise(batch().float(), torch.Generator().manual_seed(0), batch().float().mean(dim=0))
    with torch.no_grad():
        sae.W_dec.mul_(3)
        sae.b_enc.fill_(-50)
    before = {name: value.detach().clone() for name, value in sae.named_parameters()}
    dead_F = NO_DEAD.clone()
    dead_F[[2, 30, 95]] = True
    x_TD = batch().float()
    assert torch.equal(training.revive(dead_F, x_TD, x_TD, torch.Generator().manual_seed(9)), dead_F)
    for name in ("W_enc", "b_enc", "W_dec"):
        now = getattr(sae, name)
        assert torch.equal(now[~dead_F], before[name][~dead_F]), name
        assert (now[dead_F] != before[name][dead_F]).all(), name
    assert torch.equal(sae.W_enc[dead_F], sae.W_dec[dead_F])
    at_origin_F = sae.W_enc @ batch().float().mean(dim=0) + sae.b_enc
    torch.testing.assert_close(at_origin_F[dead_F].detach(), torch.full((3,), -0.1), rtol=1e-4, atol=1e-4)
    assert torch.equal(sae.b_dec, before["b_dec"])


def test_revived_latents_fire() -> None:
    training, x_TD = make(), batch().float()
    sae = training.sae
    training.initialise(x_TD, torch.Generator().manual_seed(0), x_TD.mean(dim=0))
    with torch.no_grad():
        sae.b_enc.fill_(-50)
    assert not sae.encode(x_TD).any()
    training.revive(~NO_DEAD, x_TD, x_TD, torch.Generator().manual_seed(1))
    assert (sae.encode(x_TD) > 0).any(dim=0).float().mean() > 0.9


def test_encoding_gives_all_positive_preactivations() -> None:
    training, x_TD = initialised(), batch()
    sae = training.sae
    torch.testing.assert_close(sae.encode(x_TD), torch.relu(x_TD @ sae.W_enc.T + sae.b_enc).detach())
