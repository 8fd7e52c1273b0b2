"""The training loop: schedule, early stopping, dead latents, and how many steps there are."""

import math
from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError

from mistudio.activations import ActivationReader
from mistudio.artifacts import Store
from mistudio.errors import ConfigError
from mistudio.sae import ArchitectureConfig, GatedConfig, Stage, StandardConfig, TopKConfig
from mistudio.train import TrainConfig
from tests.support.synthetic import HOOK, Alone, plant, publish_activations

TOPK, STANDARD = TopKConfig(width=64, k=4), StandardConfig(width=64)
ROWS = 256


@pytest.fixture
def trainer(store: Store) -> Callable[..., Alone]:
    """A trainer on 256 rows; by default each step sees all of them, and the weights barely move."""

    def make(rows: int = ROWS, **settings: object) -> Alone:
        reader = ActivationReader(publish_activations(store, plant(rows, width=12).acts_ND), HOOK, "train")
        still = {"sae": TOPK, "tokens": 100 * ROWS, "batch_size": ROWS, "learning_rate": 1e-9, "max_epochs": 1000}
        config = TrainConfig.model_validate({"hook": HOOK, **still, **settings})
        return Alone(config, reader)

    return make


def run(trainer: Alone) -> Alone:
    while not trainer.finished:
        trainer.train_step()
    return trainer


def test_the_learning_rate_rises_stays_and_falls_to_almost_zero(trainer: Callable[..., Alone]) -> None:
    done = run(trainer(learning_rate=0.01, warmup_fraction=0.1, decay_fraction=0.4, patience=0))
    rates = [point["learning_rate"] for point in done.history]
    expected = [0.01 * min((step + 1) / 10, 1.0, (100 - step) / 40) for step in range(100)]
    assert rates == pytest.approx(expected)
    assert rates[0] == pytest.approx(0.001)
    assert rates[9] == rates[60] == 0.01
    assert rates[-1] == pytest.approx(0.01 / 40)


def test_without_warm_up_and_decay_the_learning_rate_is_constant(trainer: Callable[..., Alone]) -> None:
    done = run(trainer(tokens=10 * ROWS, learning_rate=0.01, warmup_fraction=0, decay_fraction=0))
    assert {point["learning_rate"] for point in done.history} == {0.01}


def test_the_default_learning_rate_falls_with_the_root_of_the_width() -> None:
    rates = [TrainConfig(hook=HOOK, sae=TopKConfig(width=width, k=4)).peak_learning_rate for width in (256, 1024)]
    assert rates == pytest.approx([0.125 / 16, 0.125 / 32])


def test_patience_starts_the_final_decay_and_ends_early(trainer: Callable[..., Alone]) -> None:
    done = run(trainer(check_every_steps=2, patience=3, warmup_fraction=0, decay_fraction=0.4))
    assert done.schedule.stopped_because == "patience"
    assert done.step == 2 * (1 + 3) + 40  # the first check is the one to beat
    rates = [point["learning_rate"] for point in done.history]
    assert rates[7] == 1e-9
    assert rates[8:] == pytest.approx([1e-9 * (40 - step) / 40 for step in range(40)])


def test_without_patience_training_goes_to_its_end(trainer: Callable[..., Alone]) -> None:
    done = run(trainer(check_every_steps=2, patience=0))
    assert (done.schedule.stopped_because, done.step) == ("tokens", 100)


def test_gains_keep_training_alive(trainer: Callable[..., Alone]) -> None:
    done = run(trainer(check_every_steps=5, patience=1, learning_rate=0.001, decay_fraction=0.5, tokens=40 * ROWS))
    assert (done.schedule.stopped_because, done.step) == ("tokens", 40)


def test_a_loss_below_the_least_one_starts_the_final_decay(trainer: Callable[..., Alone]) -> None:
    done = run(trainer(check_every_steps=2, min_loss=1e9, warmup_fraction=0, decay_fraction=0.4))
    assert (done.schedule.stopped_because, done.step) == ("min_loss", 42)


def test_early_stopping_without_decay_ends_at_once(trainer: Callable[..., Alone]) -> None:
    done = run(trainer(check_every_steps=2, min_loss=1e9, warmup_fraction=0, decay_fraction=0))
    assert done.step == 2
    assert done.history[-1]["step"] == 2


def test_early_stopping_waits_for_the_penalty_to_be_at_its_weight(trainer: Callable[..., Alone]) -> None:
    standard = StandardConfig(width=64, l1_coefficient=1.0, penalty_warmup_fraction=0.5)
    done = run(trainer(sae=standard, check_every_steps=2, patience=3, warmup_fraction=0, decay_fraction=0.2))
    losses = [point["loss"] for point in done.history]
    assert losses[40] > losses[20] > losses[0]  # which looks like no gain, and is the ramp
    assert done.schedule.stopped_because == "patience"
    assert done.step == 52 + 2 * 3 + 20


def test_early_stopping_waits_for_the_warm_up(trainer: Callable[..., Alone]) -> None:
    done = run(trainer(check_every_steps=2, min_loss=1e9, warmup_fraction=0.3, decay_fraction=0.2))
    assert done.step == 32 + 20


def test_the_auxiliary_loss_does_not_count_in_early_stopping(trainer: Callable[..., Alone]) -> None:
    def run_with_dead(**settings: object) -> Alone:
        made = trainer(dead_after_tokens=1, warmup_fraction=0, decay_fraction=0.1, check_every_steps=30, **settings)
        with torch.no_grad():
            made.sae.b_enc[:16] = -1e4
        return run(made)

    fvu = run_with_dead(tokens=ROWS).history[0]["fvu"]
    done = run_with_dead(min_loss=fvu * 1.001)
    assert done.history[20]["loss"] > fvu * 1.005
    assert (done.schedule.stopped_because, done.step) == ("min_loss", 40)


def test_dead_latents_are_those_silent_for_long_enough(trainer: Callable[..., Alone]) -> None:
    done = trainer(dead_after_tokens=3 * ROWS, tokens=12 * ROWS, warmup_fraction=0)
    with torch.no_grad():
        done.sae.b_enc[:16] = -1e4
    run(done)
    fractions = [point["dead_fraction"] for point in done.history]
    assert fractions[:2] == [0.0, 0.0]
    assert fractions[2] == fractions[-1]
    assert fractions[2] >= 0.25
    assert done.dead_F[:16].all()
    assert "auxiliary" not in done.history[9]  # the dead are counted anew every tenth step
    assert "auxiliary" in done.history[10]


def test_a_latent_that_fires_again_is_alive(trainer: Callable[..., Alone]) -> None:
    done = trainer(dead_after_tokens=2 * ROWS, sae=STANDARD)
    with torch.no_grad():
        done.sae.b_enc[0] = -1e4
    done.train_step()
    done.train_step()
    assert done.dead_F[0]
    with torch.no_grad():
        done.sae.b_enc[0] = 10
    done.train_step()
    assert not done.dead_F[0]
    assert int(done.silent_tokens_F[0]) == 0


def test_silence_is_counted_to_the_token_however_long_it_lasts(trainer: Callable[..., Alone]) -> None:
    done = trainer(sae=STANDARD)
    with torch.no_grad():
        done.sae.b_enc[0] = -1e4
    done.silent_tokens_F += (1 << 24) + 1
    done.train_step()
    assert int(done.silent_tokens_F[0]) == (1 << 24) + 1 + ROWS


@pytest.mark.parametrize("dead", [[], [5]])
def test_a_single_dead_latent_has_the_auxiliary_loss(dead: list[int], trainer: Callable[..., Alone]) -> None:
    done = trainer(tokens=4 * ROWS, warmup_fraction=0)
    done.train_step()
    done.dead_indices = torch.tensor(dead, dtype=torch.int64)
    done.train_step()
    assert ("auxiliary" in done.history[1]) == bool(dead)


def test_a_state_tells_which_latents_the_auxiliary_loss_takes_for_dead(trainer: Callable[..., Alone]) -> None:
    begun, resumed = trainer(), trainer()
    begun.train_step()
    begun.dead_indices = torch.tensor([0, 7, 63])
    resumed.load_state_dict(*begun.state_dict())
    assert resumed.dead_indices.tolist() == [0, 7, 63]


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_latents_below_zero_on_every_token_come_back(trainer: Callable[..., Alone], architecture: str) -> None:
    settings = {"dead_after_tokens": ROWS, "tokens": 300 * ROWS, "learning_rate": 0.05, "patience": 0}
    done = trainer(sae={"architecture": architecture, "width": 64, "k": 4}, **settings)
    with torch.no_grad():
        done.sae.b_enc[:16] = -6.0
    run(done)
    assert all(point["dead_fraction"] >= 0.25 for point in done.history[:10])
    assert int(done.silent_tokens_F[:16].max()) < 200 * ROWS  # each has fired since


@pytest.mark.parametrize("sae", [STANDARD, GatedConfig(width=64)], ids=["standard", "gated"])
def test_silent_latents_start_anew_with_fresh_moments(sae: ArchitectureConfig, trainer: Callable[..., Alone]) -> None:
    done = trainer(sae=sae, dead_after_tokens=2 * ROWS, check_every_steps=4, learning_rate=0.001)
    with torch.no_grad():
        done.sae.b_enc[:3] = -1e4
    for _ in range(3):
        done.train_step()
    moments = [done.optimiser.state[getattr(done.sae, name)] for name in done.training.names_by_latent()]
    for moment in moments:
        moment["exp_avg"][:3] = 5.0
        moment["exp_avg_sq"][:3] = 5.0
    alive = moments[0]["exp_avg"][3:].clone()
    done.train_step()
    assert float(done.sae.b_enc[:3].detach().min()) > -10
    assert done.silent_tokens_F[:3].tolist() == [0, 0, 0]
    for moment in moments:
        assert not moment["exp_avg"][:3].any()
        assert not moment["exp_avg_sq"][:3].any()
    assert alive.any()
    assert moments[0]["exp_avg"][3:].any()


def test_nothing_is_revived_in_the_final_decay(trainer: Callable[..., Alone]) -> None:
    done = trainer(sae=STANDARD, dead_after_tokens=ROWS, check_every_steps=2, decay_fraction=1, warmup_fraction=0)
    with torch.no_grad():
        done.sae.b_enc[:3] = -1e4
    for _ in range(6):
        done.train_step()
    assert float(done.sae.b_enc[:3].detach().max()) < -1e3


@pytest.mark.parametrize(
    ("rows", "batch", "tokens", "steps", "seen"),
    [
        (256, 64, 512, 8, 512),
        (256, 64, 100, 2, 128),
        (100, 256, 1000, 10, 1000),  # a batch larger than the data is an epoch
        (100, 256, 1001, 11, 1100),
        (300, 128, 700, 7, 600 + 128),  # the last batch of an epoch has 44 rows
        (1, 16, 5, 5, 5),
    ],
)
def test_a_run_sees_the_tokens_asked_for(
    trainer: Callable[..., Alone], rows: int, batch: int, tokens: int, steps: int, seen: int
) -> None:
    done = run(trainer(rows=rows, batch_size=batch, tokens=tokens, buffer_rows=64))
    assert (done.step, done.tokens) == (steps, seen)


def test_max_epochs_limits_the_passes(trainer: Callable[..., Alone]) -> None:
    done = run(trainer(rows=100, batch_size=64, tokens=10_000, max_epochs=3))
    assert done.tokens == 300


def test_a_long_run_reports_about_two_hundred_times_and_ends_with_a_report(trainer: Callable[..., Alone]) -> None:
    done = run(trainer(rows=64, batch_size=16, tokens=1001 * 16, patience=0))
    assert [int(point["step"]) for point in done.history] == [*range(5, 1001, 5), 1001]


def test_reports_are_means_over_the_steps_since_the_last(trainer: Callable[..., Alone]) -> None:
    settings = {"rows": 256, "batch_size": 16, "tokens": 600 * 16, "patience": 0, "learning_rate": 0.001}
    done, twin = trainer(**settings), trainer(**settings)
    losses = []
    for _ in range(6):
        acts_TD = twin.scaling.inputs(twin.stream.next_batch().float())
        losses.append(float(done.training.losses(acts_TD, acts_TD, Stage(0.0)).total.detach()))
        done.train_step()
    reported = [(point["step"], point["loss"]) for point in done.history]
    assert done.report_every == 3
    assert reported == [(3.0, pytest.approx(sum(losses[:3]) / 3)), (6.0, pytest.approx(sum(losses[3:]) / 3))]


def test_training_that_diverged_says_so_and_what_to_do(trainer: Callable[..., Alone]) -> None:
    done = trainer(learning_rate=0.5)
    with torch.no_grad():
        done.sae.b_dec[0] = math.nan
    with pytest.raises(ConfigError, match=r"diverged: the loss is nan .* Lower learning_rate \(it was 0\.5\)"):
        run(done)


def test_the_activation_std_is_the_root_mean_variance_and_the_origin_the_mean(
    trainer: Callable[..., Alone],
) -> None:
    rows_ND = plant(ROWS, width=12).acts_ND.half().float()
    fresh = trainer()
    assert fresh.scaling.activation_std == pytest.approx(
        float(rows_ND.var(dim=0, correction=0).mean().sqrt()), rel=1e-5
    )
    torch.testing.assert_close(fresh.finish().b_dec.detach(), rows_ND.mean(dim=0), rtol=1e-4, atol=1e-4)


def test_a_large_corpus_is_sampled_from_beginning_to_end(trainer: Callable[..., Alone], store: Store) -> None:
    rows_ND = torch.zeros(60_000, 12)
    rows_ND[30_000:] = 2.0  # so that the mean is 1 in the middle alone
    reader = ActivationReader(publish_activations(store, rows_ND), HOOK, "train")
    fresh = Alone(TrainConfig(hook=HOOK, sae=TOPK), reader)
    assert fresh.scaling.activation_std == pytest.approx(1.0, rel=1e-3)


def test_gradients_are_clipped_to_their_largest_norm(trainer: Callable[..., Alone]) -> None:
    done = trainer(gradient_clip=1e-3, learning_rate=0.001)
    done.train_step()
    norm = torch.stack([parameter.grad.norm() for parameter in done.sae.parameters()]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_squared_gradients_are_forgotten_at_the_rate_asked_for(trainer: Callable[..., Alone]) -> None:
    done = trainer(adam_beta2=0.75)
    done.train_step()
    first_D = done.sae.b_dec.grad.clone()
    done.train_step()
    second_D = done.sae.b_dec.grad
    mean_D = done.optimiser.state[done.sae.b_dec]["exp_avg_sq"]
    torch.testing.assert_close(mean_D, 0.75 * 0.25 * first_D.square() + 0.25 * second_D.square())


def test_a_step_turns_decoder_directions_and_keeps_their_length(trainer: Callable[..., Alone]) -> None:
    done = trainer(learning_rate=0.01)
    before_FD = done.sae.W_dec.detach().clone()
    done.train_step()
    grad_FD = done.sae.W_dec.grad
    assert grad_FD is not None
    assert float((grad_FD * before_FD).sum(dim=1).abs().max()) < 1e-6 * float(grad_FD.norm(dim=1).max())
    after_FD = done.sae.W_dec.detach()
    assert float((after_FD - before_FD).abs().max()) > 1e-4
    torch.testing.assert_close(after_FD.norm(dim=1), torch.ones(64))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"warmup_fraction": 0.4, "decay_fraction": 0.7}, "warmup_fraction 0.4 and decay_fraction 0.7 together"),
        ({"batch_size": 8}, "batch_size"),
        ({"tokens": 0}, "tokens"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rate": math.inf}, "learning_rate"),
        ({"gradient_clip": math.inf}, "gradient_clip"),
        ({"adam_beta2": 1.0}, "adam_beta2"),
        ({"epochs": 3}, "epochs"),
        ({"sae": {"architecture": "topk", "width": 64, "k": 0}}, "k 0 leaves no latent active"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        TrainConfig.model_validate({"hook": HOOK, "sae": TOPK, **settings})
