"""What training can be asked for beside the architecture: normalisation, transcoders, means of weights, parts."""

import math
from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from mistudio.activations import ActivationReader
from mistudio.artifacts import Store
from mistudio.errors import InputError
from mistudio.sae import TopKConfig, architectures, load_autoencoder, target_hook_of
from mistudio.train import TrainConfig, train
from mistudio.train.scaling import geometric_median
from tests.support.naive_sae import small_config
from tests.support.synthetic import HOOK, Alone, plant, publish_activations, publish_pair, run

ROWS, BATCH = 2_000, 200
TOPK = TopKConfig(width=64, k=3)


@pytest.fixture
def trainer(store: Store) -> Callable[..., Alone]:
    def make(rows_ND: Tensor | None = None, **settings: object) -> Alone:
        rows_ND = plant(ROWS, width=12).acts_ND if rows_ND is None else rows_ND
        reader = ActivationReader(publish_activations(store, rows_ND), HOOK, "train")
        base = {"hook": HOOK, "sae": TOPK, "tokens": 4 * ROWS, "batch_size": BATCH, "patience": 0}
        return Alone(TrainConfig.model_validate({**base, **settings}), reader)

    return make


@pytest.mark.parametrize("name", architectures())
@pytest.mark.parametrize("normalisation", ["none", "unit_mean_square", "centred"])
def test_every_architecture_learns_under_every_normalisation_and_publishes_raw_units(
    name: str, normalisation: str, trainer: Callable[..., Alone]
) -> None:
    rows_ND = plant(ROWS, width=12).acts_ND * 4
    config = small_config(
        name, 64, **({"k": 3} if "k" in architectures()[name].Config.model_fields else {"target_l0": 6})
    )
    done = run(trainer(rows_ND, sae=config, normalisation=normalisation, tokens=12 * ROWS))
    sae = done.finish().requires_grad_(requires_grad=False)
    rows_ND = rows_ND.half().float()
    left = (rows_ND - sae.reconstruct(rows_ND)).square().sum() / (rows_ND - rows_ND.mean(dim=0)).square().sum()
    assert float(left) < 0.5
    assert done.history[-1]["fvu"] == pytest.approx(float(left), abs=0.15)


@pytest.mark.parametrize("name", ["standard", "gated", "jumprelu"])
def test_a_target_l0_is_reached(name: str, trainer: Callable[..., Alone]) -> None:
    rows_ND = plant(8_000, width=24, active=8).acts_ND
    config = small_config(name, 64, target_l0=5)
    done = run(trainer(rows_ND, sae=config, tokens=120_000, dead_after_tokens=20_000))
    assert done.history[-1]["l0"] == pytest.approx(5, rel=0.15)


def test_jumprelu_reaches_its_target_where_the_learning_rate_is_too_small_to(trainer: Callable[..., Alone]) -> None:
    rows_ND = plant(8_000, width=24, active=8).acts_ND
    config = small_config("jumprelu", 64, target_l0=5)
    done = run(trainer(rows_ND, sae=config, tokens=40_000, learning_rate=1e-3))
    active = done.finish().encode_active(rows_ND)
    assert len(active.value_A) / len(rows_ND) == pytest.approx(5, rel=0.1)


def test_batch_topk_in_use_has_k_latents_a_token_on_average(trainer: Callable[..., Alone]) -> None:
    rows_ND = plant(8_000, width=24, active=8).acts_ND
    done = run(trainer(rows_ND, sae=small_config("batchtopk", 64, k=5), tokens=120_000))
    rows_ND = plant(ROWS, width=24, active=8, seed=1).acts_ND
    active = done.finish().encode_active(rows_ND)
    assert len(active.value_A) / len(rows_ND) == pytest.approx(5, rel=0.1)


def test_parts_of_a_batch_give_the_gradients_of_the_whole(trainer: Callable[..., Alone]) -> None:
    whole, parts = trainer(tokens=10 * BATCH), trainer(tokens=10 * BATCH, micro_batches=3)
    for done in (run(whole), run(parts)):
        assert done.step == 10
    torch.testing.assert_close(parts.sae.W_dec, whole.sae.W_dec, rtol=1e-3, atol=1e-4)
    assert parts.history[-1]["fvu"] == pytest.approx(whole.history[-1]["fvu"], rel=1e-3)


def test_the_mean_of_weights_is_published_in_place_of_the_last(trainer: Callable[..., Alone]) -> None:
    last, mean = run(trainer(decay_fraction=0)), run(trainer(decay_fraction=0, ema_decay=0.9))
    assert torch.equal(last.sae.W_enc, mean.sae.W_enc)
    assert not torch.equal(last.finish().W_enc, mean.finish().W_enc)


def test_the_mean_is_of_all_steps_with_the_shares_of_a_decay_that_grows_to_the_one_asked_for(
    trainer: Callable[..., Alone],
) -> None:
    done = trainer(normalisation="none", tokens=14 * BATCH, ema_decay=0.5)

    def weights() -> dict[str, Tensor]:
        return {name: value.detach().double() for name, value in done.sae.named_parameters()}

    steps = [weights()]
    while not done.finished:
        done.train_step()
        steps.append(weights())
    # 1/10, 2/11, ... up to 8/17, and from then on 1/2; a step's share is what all later ones leave of it.
    decays = [0.0, *((1 + step) / (10 + step) for step in range(8)), *6 * [0.5]]
    shares = [(1 - decay) * math.prod(decays[step + 1 :]) for step, decay in enumerate(decays)]
    assert len(shares) == len(steps) == 15
    assert sum(shares) == pytest.approx(1)
    mean = {name: sum(share * step[name] for share, step in zip(shares, steps, strict=True)) for name in steps[0]}
    sae = done.finish()
    for name in ("W_enc", "b_enc", "b_dec"):
        torch.testing.assert_close(getattr(sae, name).detach().double(), mean[name], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sae.W_dec.detach().double(), torch.nn.functional.normalize(mean["W_dec"], dim=1))


def test_a_cosine_falls_slower_at_first_and_ends_as_low(trainer: Callable[..., Alone]) -> None:
    linear, cosine = (run(trainer(decay=decay, decay_fraction=1, warmup_fraction=0)) for decay in ("linear", "cosine"))
    rates = [[point["learning_rate"] for point in done.history] for done in (linear, cosine)]
    assert rates[1][10] > rates[0][10]
    assert rates[1][20] == pytest.approx(rates[0][20])
    assert rates[1][-1] < rates[0][-1]


def test_tokens_of_too_large_a_norm_are_left_out_and_counted(trainer: Callable[..., Alone]) -> None:
    rows_ND = plant(ROWS, width=12).acts_ND
    rows_ND[::100] *= 100
    done = run(trainer(rows_ND, tokens=ROWS, max_norm_ratio=10))
    assert done.filtered_tokens == ROWS // 100
    assert done.tokens == ROWS - ROWS // 100


@pytest.mark.parametrize("share", [8, 3])  # one in so many is out of place
def test_what_is_left_out_moves_neither_the_limit_nor_the_scale_of_training(
    share: int, trainer: Callable[..., Alone]
) -> None:
    clean_ND = plant(ROWS, width=12).acts_ND
    rows_ND = clean_ND.clone()
    rows_ND[::share] = 1000.0
    done, others = trainer(rows_ND, max_norm_ratio=10), torch.arange(ROWS) % share > 0
    assert torch.equal(done.norm_limit.keeps(rows_ND), others)
    expected = clean_ND[others].half().float()
    torch.testing.assert_close(done.scaling.normalisation.mean_D, expected.mean(dim=0), rtol=1e-3, atol=1e-3)
    assert done.scaling.activation_std == pytest.approx(float(expected.var(dim=0).mean()) ** 0.5, rel=1e-2)


def test_the_geometric_median_stays_with_the_many() -> None:
    points_ND = torch.cat([torch.randn(90, 5, generator=torch.Generator().manual_seed(0)), torch.full((10, 5), 1e4)])
    assert float(geometric_median(points_ND).norm()) < 1
    assert float(points_ND.mean(dim=0).norm()) > 1000


def test_a_bfloat16_encoder_learns_as_well(trainer: Callable[..., Alone]) -> None:
    full, narrow = (run(trainer(encoder_dtype=dtype, tokens=12 * ROWS)) for dtype in ("float32", "bfloat16"))
    assert narrow.history[-1]["fvu"] == pytest.approx(full.history[-1]["fvu"], rel=0.1)


@pytest.mark.parametrize("skip", ["none", "linear"])
def test_a_transcoder_predicts_the_other_hook_point(skip: str, store: Store) -> None:
    planted = plant(8_000, width=16)
    target_NE = torch.relu(planted.acts_ND @ torch.randn(16, 10, generator=torch.Generator().manual_seed(2))) * 5
    artifact = publish_pair(store, planted.acts_ND, target_NE)
    config = TrainConfig(
        hook="mlp_in.1",
        target_hook="mlp_out.1",
        sae=TopKConfig(width=128, k=8, skip=skip),
        tokens=120_000,
        batch_size=256,
    )
    produced = train(store, artifact, config)
    sae = load_autoencoder(produced.artifact)
    assert (sae.d_in, sae.d_out) == (16, 10)
    assert target_hook_of(produced.artifact) == "mlp_out.1"
    rebuilt_NE = sae.reconstruct(planted.acts_ND)
    left = (target_NE - rebuilt_NE).square().sum() / (target_NE - target_NE.mean(dim=0)).square().sum()
    assert float(left) < 0.15


def test_rows_of_other_tokens_are_no_pair(store: Store) -> None:
    rows_ND = plant(64, width=16).acts_ND
    artifact = publish_pair(store, rows_ND, rows_ND, shift=1)
    config = TrainConfig(hook="mlp_in.1", target_hook="mlp_out.1", sae=TOPK)
    with pytest.raises(InputError, match="do not correspond: row 0.*Capture both hook points in one run"):
        train(store, artifact, config)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"sae": {**TOPK.model_dump(), "skip": "linear"}}, "skip linear would let an autoencoder copy its input"),
        ({"target_hook": HOOK}, "is the hook itself"),
        ({"micro_batches": 2048}, "micro_batches 2048 is more than batch_size 512"),
        ({"max_norm_ratio": 0.5}, "max_norm_ratio"),
        ({"ema_decay": 1.0}, "ema_decay"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        TrainConfig.model_validate({"hook": HOOK, "sae": TOPK, **settings})
