"""Every architecture against its formula written out densely: losses and gradients, in float64."""

import pytest
import torch
from torch import Tensor

from mistudio.sae import SAETraining, Stage, architectures, kernels, new_autoencoder, selection
from mistudio.sae.jumprelu import JumpReLUAutoencoder
from tests.support.naive_sae import naive_total, small_config

WIDTH, D_IN, D_OUT, TOKENS = 64, 12, 9, 40
CASES = [
    ("topk", {}),
    ("topk", {"multi_k_coefficient": 0.125}),
    ("batchtopk", {}),
    ("matryoshka", {}),
    ("matryoshka", {"prefixes": (7, 40, 64)}),
    ("standard", {"penalty": "decoder_norm"}),
    ("standard", {"penalty": "sum"}),
    ("standard", {"penalty": "mean"}),
    ("gated", {}),
    ("jumprelu", {"bandwidth": 0.8, "l0_coefficient": 0.3}),
    ("jumprelu", {"bandwidth": 0.8, "penalty": "tanh", "l0_coefficient": 0.3}),
]
DEAD = tuple(range(2, 62, 3))
DEAD_CASES = [
    ("topk", {}),
    ("topk", {"multi_k_coefficient": 0.125, "aux_k": 2, "aux_coefficient": 0.5}),
    ("batchtopk", {"aux_k": 100}),
    ("batchtopk", {"aux_k": 2, "aux_coefficient": 0.5}),
    ("matryoshka", {}),
    ("matryoshka", {"prefixes": (7, 40, 64), "aux_k": 3}),
    ("standard", {"revival": "ghost"}),
    ("standard", {"revival": "ghost", "penalty": "sum"}),
    ("standard", {"revival": "ghost", "penalty": "mean"}),
    ("jumprelu", {"bandwidth": 0.8, "l0_coefficient": 0.3, "pre_activation_coefficient": 0.2}),
    ("jumprelu", {"bandwidth": 0.8, "penalty": "tanh", "l0_coefficient": 0.3, "pre_activation_coefficient": 0.2}),
]


def make(name: str, d_out: int = D_IN, **settings: object) -> SAETraining:
    """The training of an autoencoder whose weights are all random and unrelated."""
    training = new_autoencoder(small_config(name, WIDTH, **settings), D_IN, d_out).for_training()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in training.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        training.target_variance.fill_(1.7)
    return training.double()


def batch(width: int, seed: int) -> Tensor:
    return torch.randn(TOKENS, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gradients(training: SAETraining, loss: Tensor) -> dict[str, Tensor]:
    named = {name: value for name, value in training.sae.named_parameters() if value.requires_grad}
    return dict(zip(named, torch.autograd.grad(loss, list(named.values()), materialize_grads=True), strict=True))


@pytest.mark.parametrize("dense_share", [0.0, 1.0], ids=["dense products", "bags of rows"])
@pytest.mark.parametrize(("name", "settings"), CASES)
@pytest.mark.parametrize("kind", ["autoencoder", "scaled skip", "transcoder", "skip transcoder"])
def test_losses_and_gradients_equal_the_dense_formula(
    name: str, settings: dict[str, object], kind: str, dense_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_DENSE_SHARE", dense_share)
    skip = {"scaled skip": "learned_scale", "skip transcoder": "linear"}.get(kind, "none")
    training = make(name, D_OUT if "transcoder" in kind else D_IN, skip=skip, **settings)
    sae = training.sae
    x_TD = batch(D_IN, 1)
    y_TE = batch(sae.d_out, 2) if "transcoder" in kind else x_TD
    losses = training.losses(x_TD, y_TE, Stage(0.05))
    total = naive_total(training, x_TD, y_TE, 0.05)
    torch.testing.assert_close(losses.total, total)
    fast, naive = gradients(training, losses.total), gradients(training, total)
    torch.testing.assert_close(fast, naive, rtol=1e-9, atol=1e-12)
    assert all(gradient.any() for gradient in fast.values())


@pytest.mark.parametrize("dense_share", [0.0, 1.0], ids=["dense products", "bags of rows"])
@pytest.mark.parametrize(("name", "settings"), DEAD_CASES)
@pytest.mark.parametrize("kind", ["autoencoder", "scaled skip", "transcoder", "skip transcoder"])
def test_losses_and_gradients_with_dead_latents_equal_the_dense_formula(
    name: str, settings: dict[str, object], kind: str, dense_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_DENSE_SHARE", dense_share)
    skip = {"scaled skip": "learned_scale", "skip transcoder": "linear"}.get(kind, "none")
    training = make(name, D_OUT if "transcoder" in kind else D_IN, skip=skip, **settings)
    sae = training.sae
    is_dead_F = torch.zeros(WIDTH, dtype=torch.bool).index_fill(0, torch.tensor(DEAD), value=True)
    with torch.no_grad():
        sae.b_enc[list(DEAD)] -= torch.linspace(0, 3, len(DEAD), dtype=torch.float64)  # above zero often to never
    x_TD = batch(D_IN, 1)
    y_TE = batch(sae.d_out, 2) if "transcoder" in kind else x_TD
    losses = training.losses(x_TD, y_TE, Stage(0.05, torch.tensor(DEAD)))
    total = naive_total(training, x_TD, y_TE, 0.05, is_dead_F)
    torch.testing.assert_close(losses.total, total)
    torch.testing.assert_close(gradients(training, losses.total), gradients(training, total), rtol=1e-9, atol=1e-12)
    # What brings latents back is there, and is no sign of progress.
    assert float(total.detach()) != pytest.approx(float(naive_total(training, x_TD, y_TE, 0.05).detach()), rel=1e-3)
    assert torch.equal(losses.objective, training.losses(x_TD, y_TE, Stage(0.05)).objective)


def test_ghosts_of_large_pre_activations_are_cut_off_as_in_the_dense_formula() -> None:
    training, x_TD = make("standard", revival="ghost"), batch(D_IN, 1)
    sae = training.sae
    with torch.no_grad():
        sae.b_enc[:2] = 10.0  # above the cut on about half of the tokens
    is_dead_F = torch.arange(WIDTH) < 2
    losses = training.losses(x_TD, x_TD, Stage(0.05, torch.tensor([0, 1])))
    total = naive_total(training, x_TD, x_TD, 0.05, is_dead_F)
    torch.testing.assert_close(losses.total, total)
    torch.testing.assert_close(gradients(training, losses.total), gradients(training, total), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["standard", "gated"])
def test_where_dead_latents_are_resampled_no_loss_is_of_them(name: str) -> None:
    training, x_TD = make(name), batch(D_IN, 1)
    losses = training.losses(x_TD, x_TD, Stage(0.05, torch.tensor(DEAD)))
    torch.testing.assert_close(losses.total, naive_total(training, x_TD, x_TD, 0.05))


@pytest.mark.parametrize("name", architectures())
def test_l0_and_fired_count_the_active_latents(name: str) -> None:
    training, x_TD = make(name), batch(D_IN, 1)
    sae = training.sae
    losses = training.losses(x_TD, x_TD, Stage(0.5))
    if "threshold" in sae.weight_names():
        sae.threshold.copy_(losses.parts["smallest"] - 1e-9)  # what is active in use is then what was in training
    acts_TF = sae.encode(x_TD)
    assert losses.fired_F.tolist() == (acts_TF > 0).sum(dim=0).tolist()
    assert float(losses.parts["l0"]) == pytest.approx(float((acts_TF > 0).sum() / TOKENS))


@pytest.mark.parametrize("name", architectures())
def test_a_bfloat16_encoder_selects_nearly_the_same_and_computes_what_it_selected_in_full(name: str) -> None:
    training = make(name).float()
    x_TD = batch(D_IN, 1).float()
    full = training.losses(x_TD, x_TD, Stage(0.5))
    training.encoder_dtype = torch.bfloat16
    narrow = training.losses(x_TD, x_TD, Stage(0.5))
    assert float(narrow.parts["fvu"]) == pytest.approx(float(full.parts["fvu"]), rel=0.02)
    assert narrow.total.dtype == torch.float32
    assert float((narrow.fired_F - full.fired_F).abs().sum()) <= 0.05 * float(full.fired_F.sum())


@pytest.mark.parametrize("name", ["topk", "batchtopk"])
@pytest.mark.parametrize("num_dead", [0, 5])
def test_a_step_needs_no_number_from_the_device(name: str, num_dead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def products(pattern: kernels.ActivePattern, matrix_TD: Tensor, _: Tensor) -> Tensor:
        return matrix_TD.new_empty(len(pattern.feature_A))

    monkeypatch.setattr(kernels, "_DENSE_SHARE", 1.0)
    monkeypatch.setattr(kernels.ActivePattern, "products", products)  # PyTorch has the real ones for CPU and CUDA alone
    training = make(name).float().to("meta")  # whatever asks for one is refused there
    x_TD = torch.empty(TOKENS, D_IN, device="meta")
    dead = torch.empty(num_dead, dtype=torch.int64, device="meta") if num_dead else None
    losses = training.losses(x_TD, x_TD, Stage(0.5, dead))
    losses.total.backward()
    training.before_step()
    training.after_step(losses.parts, 0.5)
    with pytest.raises(NotImplementedError):
        x_TD.nonzero()


@pytest.mark.parametrize("shift", [0.0, -3.0], ids=["enough positive pairs", "too few"])
@pytest.mark.parametrize("name", ["batchtopk", "matryoshka"])
def test_a_gpu_selects_the_same_of_a_batch(name: str, shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    training, x_TD = make(name), batch(D_IN, 1)
    sae = training.sae
    with torch.no_grad():
        sae.b_enc += shift
    on_cpu = training.losses(x_TD, x_TD, Stage(0.5))
    assert (float(on_cpu.parts["l0"]) == 5) == (shift == 0)
    monkeypatch.setattr(selection, "_batch_top", selection._batch_top_unseen)
    on_gpu = training.losses(x_TD, x_TD, Stage(0.5))
    torch.testing.assert_close((on_gpu.parts, on_gpu.fired_F), (on_cpu.parts, on_cpu.fired_F))
    fast, naive = gradients(training, on_gpu.total), gradients(training, on_cpu.total)
    torch.testing.assert_close(fast, naive, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["topk", "batchtopk", "matryoshka"])
def test_the_auxiliary_loss_moves_dead_latents_alone(name: str) -> None:
    training, x_TD = make(name, aux_k=8), batch(D_IN, 1)
    sae = training.sae
    dead = torch.tensor([3, 17, 40])
    with torch.no_grad():
        sae.W_enc[dead] *= 0.2  # never among the largest, yet positive on some tokens
        sae.b_enc[dead] = 0
    without = gradients(training, training.losses(x_TD, x_TD, Stage(0.5)).total)
    losses = training.losses(x_TD, x_TD, Stage(0.5, dead))
    change = {name: value - without[name] for name, value in gradients(training, losses.total).items()}
    assert "auxiliary" in losses.parts
    alive = torch.ones(WIDTH, dtype=torch.bool).index_fill(0, dead, value=False)
    for weight in ("W_enc", "b_enc", "W_dec"):
        assert change[weight][dead].reshape(3, -1).any(dim=1).all(), weight
        assert not change[weight][alive].any(), weight


@pytest.mark.parametrize("name", ["topk", "batchtopk", "matryoshka"])
def test_dead_latents_that_no_token_makes_positive_are_drawn_up(name: str) -> None:
    training, x_TD = make(name, aux_coefficient=0.5), batch(D_IN, 1)
    sae = training.sae
    dead = torch.tensor([3, 17])
    with torch.no_grad():
        sae.b_enc[dead] = -50.0  # the auxiliary loss alone has no gradient here
    change = gradients(training, training.losses(x_TD, x_TD, Stage(0.5, dead)).total)
    torch.testing.assert_close(change["b_enc"][dead], torch.tensor([-0.25, -0.25], dtype=torch.float64))
    torch.testing.assert_close(change["W_enc"][dead], -0.25 * x_TD.mean(dim=0).expand(2, -1))
    assert not change["W_dec"][dead].any()


def test_the_pre_activation_loss_draws_dead_jumprelu_latents_up() -> None:
    training, x_TD = make("jumprelu", pre_activation_coefficient=0.5), batch(D_IN, 1)
    sae = training.sae
    dead = torch.tensor([5])
    with torch.no_grad():
        sae.b_enc[dead] = -50.0
    without = gradients(training, training.losses(x_TD, x_TD, Stage(0.5)).total)
    with_loss = gradients(training, training.losses(x_TD, x_TD, Stage(0.5, dead)).total)
    assert not without["b_enc"][dead].any()
    assert float(with_loss["b_enc"][dead]) == pytest.approx(-0.5)


@pytest.mark.parametrize("dense_share", [0.0, 1.0], ids=["dense products", "bags of rows"])
def test_the_pre_activation_loss_is_that_of_a_dense_product(
    dense_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_DENSE_SHARE", dense_share)
    training, x_TD = make("jumprelu", pre_activation_coefficient=0.5), batch(D_IN, 1)
    sae = training.sae
    assert isinstance(sae, JumpReLUAutoencoder)
    dead = torch.tensor([5, 9, 40])
    with torch.no_grad():
        sae.b_enc[5] = -50.0  # silent; the others are active on some tokens again
    below_TN = torch.relu(sae.threshold_F[dead] - x_TD @ sae.W_enc[dead].T - sae.b_enc[dead])
    assert 0 < int((below_TN[:, 1:] == 0).sum()) < below_TN[:, 1:].numel()
    naive = naive_total(training, x_TD, x_TD, 0.5) + 0.5 * below_TN.sum() / len(x_TD)
    total = training.losses(x_TD, x_TD, Stage(0.5, dead)).total
    torch.testing.assert_close(total, naive)
    torch.testing.assert_close(gradients(training, total), gradients(training, naive), rtol=1e-10, atol=1e-12)


def test_ghost_gradients_reach_dead_latents_of_the_standard_autoencoder() -> None:
    training, x_TD = make("standard", revival="ghost"), batch(D_IN, 1)
    sae = training.sae
    dead = torch.tensor([5, 6])
    with torch.no_grad():
        sae.b_enc[dead] = -8.0
    without = gradients(training, training.losses(x_TD, x_TD, Stage(0.5)).total)
    ghost = gradients(training, training.losses(x_TD, x_TD, Stage(0.5, dead)).total)
    assert not without["W_enc"][dead].any()
    assert ghost["W_enc"][dead].any(dim=1).all()
    assert ghost["W_dec"][dead].any(dim=1).all()


def test_gated_starts_as_standard_does_and_has_free_norms() -> None:
    training, x_TD = make("gated"), batch(D_IN, 1)
    sae = training.sae
    training.initialise(x_TD, torch.Generator().manual_seed(0))
    bound = (6 / (WIDTH + D_IN)) ** 0.5
    assert 0.95 * bound < float(sae.W_enc.detach().abs().max()) <= bound
    training.constrain()
    assert torch.equal(sae.W_enc, sae.W_dec)
    at_origin_F = (sae.W_enc @ x_TD.mean(dim=0) + sae.b_enc).detach()
    torch.testing.assert_close(at_origin_F, torch.full_like(at_origin_F, -0.1))


@pytest.mark.parametrize("name", ["standard", "gated", "jumprelu"])
def test_resampled_latents_point_where_reconstruction_is_worst(name: str) -> None:
    training, x_TD = make(name, revival="resample"), batch(D_IN, 1)
    sae = training.sae
    training.constrain()
    dead_F = torch.arange(WIDTH) < 4
    with torch.no_grad():
        sae.b_enc[dead_F] = -50.0
        x_TD[7] *= 100  # so that its loss drowns all others
        error_D = x_TD[7] - sae.reconstruct(x_TD)[7]
    revived_F = training.revive(dead_F, x_TD, x_TD, torch.Generator().manual_seed(0))
    assert torch.equal(revived_F, dead_F)
    cosines_4 = torch.cosine_similarity(sae.W_dec.detach()[dead_F], error_D.expand(4, -1))
    assert float(cosines_4.min()) > 0.999
    assert not sae.b_enc[dead_F].any()
    assert (sae.encode(x_TD[7:8])[0, dead_F] > 0).all()


@pytest.mark.parametrize("name", ["standard", "gated", "jumprelu"])
def test_revival_leaves_the_other_latents_alone_and_can_be_turned_off(name: str) -> None:
    training, x_TD = make(name), batch(D_IN, 1)
    sae = training.sae
    dead_F = torch.arange(WIDTH) < 4
    before = {weight: getattr(sae, weight).detach().clone() for weight in training.names_by_latent()}
    training.revive(dead_F, x_TD, x_TD, torch.Generator().manual_seed(0))
    for weight, value in before.items():
        assert torch.equal(getattr(sae, weight)[~dead_F], value[~dead_F]), weight
    if isinstance(sae, JumpReLUAutoencoder):
        mean = before["log_threshold"][~dead_F].mean()
        torch.testing.assert_close(sae.log_threshold[dead_F].detach(), mean.expand(4))
    off = make(name, revival="none")
    assert not off.revive(dead_F, x_TD, x_TD, torch.Generator().manual_seed(0)).any()
    assert torch.equal(off.sae.W_enc, make(name).sae.W_enc)


@pytest.mark.parametrize("name", ["batchtopk", "matryoshka"])
def test_the_threshold_follows_the_smallest_activation_that_was_kept(name: str) -> None:
    training = make(name, threshold_rate=0.5)
    sae = training.sae
    training.after_step({"smallest": torch.tensor(2.0, dtype=torch.float64)}, 0.5)
    assert float(sae.threshold) == 2.0  # the first one counts in full
    training.after_step({"smallest": torch.tensor(1.0, dtype=torch.float64)}, 0.5)
    assert float(sae.threshold) == pytest.approx(1 + 1 / 11)  # the second nearly so, for the first is soon forgotten
    training.threshold_steps.fill_(1e9)
    training.after_step({"smallest": torch.tensor(2 + 1 / 11, dtype=torch.float64)}, 0.5)
    assert float(sae.threshold) == pytest.approx(1.5 + 1 / 11)  # late ones as configured
    assert "threshold" in sae.weight_names()


def test_batch_topk_keeps_k_latents_a_token_on_average_and_not_on_each() -> None:
    training, x_TD = make("batchtopk"), batch(D_IN, 1)
    sae = training.sae
    losses = training.losses(x_TD, x_TD, Stage(0.5))
    assert float(losses.parts["l0"]) == pytest.approx(5.0)
    sae.threshold.copy_(losses.parts["smallest"] - 1e-9)
    counts_T = (sae.encode(x_TD) > 0).sum(dim=1)
    assert int(counts_T.min()) < 5 < int(counts_T.max())


@pytest.mark.parametrize("name", ["standard", "gated", "jumprelu"])
def test_the_penaltys_weight_rises_while_too_many_latents_are_active_and_falls_else(name: str) -> None:
    training = make(name, target_l0=8)
    start = float(training.weight.log_weight)
    training.after_step({"l0": torch.tensor(20.0)}, 0.5)
    risen = float(training.weight.log_weight)
    training.after_step({"l0": torch.tensor(2.0)}, 0.5)
    assert risen > start
    assert float(training.weight.log_weight) < risen
    fixed = make(name)
    fixed.after_step({"l0": torch.tensor(20.0)}, 0.5)
    assert float(fixed.weight.log_weight) == float(make(name).weight.log_weight)


@pytest.mark.parametrize("name", ["standard", "gated", "jumprelu"])
def test_the_penaltys_weight_does_not_rise_for_want_of_its_ramp(name: str) -> None:
    training = make(name, target_l0=8, penalty_warmup_fraction=0.4)
    start = float(training.weight.log_weight)
    training.after_step({"l0": torch.tensor(20.0)}, 0.3)
    assert float(training.weight.log_weight) == start
    training.after_step({"l0": torch.tensor(2.0)}, 0.3)
    assert float(training.weight.log_weight) < start


@pytest.mark.parametrize("name", ["standard", "gated"])
def test_biases_follow_the_target_once_the_penalty_has_its_weight(name: str) -> None:
    training = make(name, target_l0=8, penalty_warmup_fraction=0.4)
    sae = training.sae
    before_F = sae.b_enc.detach().clone()
    training.after_step({"l0": torch.tensor(20.0)}, 0.3)
    assert torch.equal(sae.b_enc, before_F)
    training.after_step({"l0": torch.tensor(20.0)}, 0.4)
    assert bool((sae.b_enc < before_F).all())
    lowest_F = sae.b_enc.detach().clone()
    training.after_step({"l0": torch.tensor(2.0)}, 0.4)
    assert bool((sae.b_enc > lowest_F).all())
    fixed = make(name)
    fixed.after_step({"l0": torch.tensor(20.0)}, 0.5)
    assert torch.equal(fixed.sae.b_enc, make(name).sae.b_enc)


@pytest.mark.parametrize("name", ["standard", "gated", "jumprelu"])
def test_training_towards_a_target_starts_with_a_few_times_as_many_latents(name: str) -> None:
    training, x_TD = make(name, target_l0=2), batch(D_IN, 1)
    training.initialise(x_TD, torch.Generator().manual_seed(0))
    assert float(training.losses(x_TD, x_TD, Stage(0.0)).parts["l0"]) == pytest.approx(8, abs=0.5)


@pytest.mark.parametrize("name", architectures())
def test_decoders_with_unit_norm_keep_it(name: str) -> None:
    training, x_TD = make(name), batch(D_IN, 1)
    sae = training.sae
    training.constrain()
    losses = training.losses(x_TD, x_TD, Stage(0.5))
    losses.total.backward()
    training.before_step()
    along_F = (sae.W_dec.grad * sae.W_dec).sum(dim=1).detach()
    if training.has_unit_norm:
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(WIDTH, dtype=torch.float64))
        assert float(along_F.abs().max()) < 1e-14
    else:
        assert float(along_F.abs().max()) > 1e-6
