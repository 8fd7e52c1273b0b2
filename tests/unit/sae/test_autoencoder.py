"""What all architectures share: sparse and dense forms agree, blocks, and the change of units."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from mistudio.errors import ConfigError, InputError
from mistudio.sae import (
    ActiveLatents,
    Normalisation,
    NormLimit,
    SparseAutoencoder,
    ThresholdedAutoencoder,
    TopKConfig,
    architectures,
    autoencoder,
    new_autoencoder,
)
from mistudio.sae.kernels import ActivePattern
from tests.support.naive_sae import small_config

WIDTH, D_IN = 80, 10
ARCHITECTURES = [small_config(name, WIDTH) for name in architectures()]


@pytest.fixture(params=ARCHITECTURES, ids=lambda config: config.architecture)
def sae(request: pytest.FixtureRequest) -> SparseAutoencoder:
    sae = new_autoencoder(request.param, D_IN)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name in sae.weight_names():
            weight = getattr(sae, name)
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.4)
    return sae.double()


@pytest.fixture
def x_TD() -> Tensor:
    return torch.randn(33, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def test_active_latents_come_sorted_by_token_then_latent_and_positive(sae: SparseAutoencoder, x_TD: Tensor) -> None:
    active = sae.encode_active(x_TD)
    keys_A = active.token_A * WIDTH + active.feature_A
    assert len(keys_A) > len(x_TD)
    assert (keys_A.diff() > 0).all()
    assert (active.value_A > 0).all()
    assert not active.value_A.requires_grad


def test_the_dense_form_holds_the_active_latents(sae: SparseAutoencoder, x_TD: Tensor) -> None:
    active, acts_TF = sae.encode_active(x_TD), sae.encode(x_TD)
    token_A, feature_A = acts_TF.nonzero(as_tuple=True)
    assert torch.equal(token_A, active.token_A)
    assert torch.equal(feature_A, active.feature_A)
    assert torch.equal(acts_TF[token_A, feature_A], active.value_A)


def test_decoding_active_latents_equals_dense_decoding(sae: SparseAutoencoder, x_TD: Tensor) -> None:
    dense_TD = sae.decode(sae.encode(x_TD))
    torch.testing.assert_close(sae.decode_active(sae.encode_active(x_TD), len(x_TD)), dense_TD)
    torch.testing.assert_close(sae.reconstruct(x_TD), dense_TD.detach())


def test_tokens_without_active_latents_are_rebuilt_as_the_origin(sae: SparseAutoencoder) -> None:
    active = ActiveLatents(torch.tensor([1]), torch.tensor([7]), torch.tensor([2.0], dtype=torch.float64))
    rebuilt_TD = sae.decode_active(active, 4)
    for token in (0, 2, 3):
        torch.testing.assert_close(rebuilt_TD[token], sae.b_dec)
    torch.testing.assert_close(rebuilt_TD[1], sae.b_dec + 2 * sae.W_dec[7])


def test_nothing_active_at_all_rebuilds_the_origin(sae: SparseAutoencoder, x_TD: Tensor) -> None:
    with torch.no_grad():
        sae.b_enc.fill_(-100)
        if "threshold" in sae.weight_names():
            sae.threshold.fill_(0.1)
    assert not len(sae.encode_active(x_TD).value_A)
    torch.testing.assert_close(sae.reconstruct(x_TD), sae.b_dec.detach().expand(len(x_TD), -1))


def test_no_tokens_give_no_latents(sae: SparseAutoencoder, x_TD: Tensor) -> None:
    assert not len(sae.encode_active(x_TD[:0]).token_A)
    assert sae.reconstruct(x_TD[:0]).shape == (0, D_IN)


CHOSEN = torch.tensor([63, 0, 17, 63, 5])


def test_chosen_latents_are_columns_of_the_dense_encoding(sae: SparseAutoencoder, x_TD: Tensor) -> None:
    chosen_C = torch.cat([sae.encode_active(x_TD).feature_A.unique().flip(0)[::3], CHOSEN])
    dense_TC = sae.encode(x_TD)[:, chosen_C]
    chosen_TC = sae.encode_chosen(x_TD, chosen_C)
    assert (dense_TC > 0).any(dim=0).sum() > 5
    assert not chosen_TC.requires_grad
    # Columns of a smaller product may be summed in another order; where latents compete it is the same product.
    exact = not isinstance(sae, ThresholdedAutoencoder)
    torch.testing.assert_close(chosen_TC, dense_TC, rtol=0 if exact else 1e-12, atol=0 if exact else 1e-14)
    assert torch.equal(chosen_TC > 0, dense_TC > 0)


def test_chosen_latents_in_the_number_format_of_use(sae: SparseAutoencoder, x_TD: Tensor) -> None:
    sae, x_TD = sae.float(), x_TD.float()
    torch.testing.assert_close(sae.encode_chosen(x_TD, CHOSEN), sae.encode(x_TD)[:, CHOSEN], rtol=1e-5, atol=1e-5)


def test_no_latents_and_no_tokens_can_be_chosen(sae: SparseAutoencoder, x_TD: Tensor) -> None:
    assert sae.encode_chosen(x_TD, CHOSEN[:0]).shape == (len(x_TD), 0)
    assert sae.encode_chosen(x_TD[:0], CHOSEN).shape == (0, len(CHOSEN))


@pytest.mark.parametrize("latent", [-1, WIDTH])
def test_a_latent_that_does_not_exist_cannot_be_chosen(latent: int, sae: SparseAutoencoder, x_TD: Tensor) -> None:
    with pytest.raises(InputError, match=f"no latent {latent}: this autoencoder has 80, numbered from 0"):
        sae.encode_chosen(x_TD, torch.tensor([3, latent]))


def test_where_latents_do_not_compete_chosen_ones_cost_their_own_rows_alone(
    x_TD: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    linear = torch.nn.functional.linear
    monkeypatch.setattr(
        autoencoder.functional, "linear", lambda x, weight, bias: rows.append(len(weight)) or linear(x, weight, bias)
    )
    for name, kind in architectures().items():
        new_autoencoder(small_config(name, WIDTH), D_IN).double().encode_chosen(x_TD, CHOSEN)
        assert rows.pop() == (len(CHOSEN) if issubclass(kind, ThresholdedAutoencoder) else WIDTH), name


def test_nothing_is_active_on_tokens_beyond_the_norm_limit(sae: SparseAutoencoder) -> None:
    x_TD = torch.randn(40, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    acts_TF, chosen_TC = sae.encode(x_TD), sae.encode_chosen(x_TD, CHOSEN)
    everything = sae.encode_active(x_TD)
    assert bool(sae.keeps(x_TD).all())
    centre_D = torch.full((D_IN,), 0.5)
    distance_T = (x_TD - centre_D).norm(dim=1)
    sae.norm_limit = NormLimit(centre_D, float(distance_T.median()) + 1e-4)
    kept_T = distance_T <= sae.norm_limit.distance
    x_TD[5, 0] = torch.nan
    kept_T[5] = False
    assert torch.equal(sae.keeps(x_TD), kept_T)
    assert 0 < int(kept_T.sum()) < 40
    x_TD[5, 0] = 1e6
    for limited, free in ((sae.encode(x_TD), acts_TF), (sae.encode_chosen(x_TD, CHOSEN), chosen_TC)):
        assert torch.equal(limited, torch.where(kept_T[:, None], free, 0))
    asked = sae.encode_active(x_TD, beyond_limit=True)
    assert torch.equal(asked.value_A[asked.token_A != 5], everything.value_A[everything.token_A != 5])


def test_what_is_used_holds_nothing_of_a_training(sae: SparseAutoencoder) -> None:
    assert set(sae.state_dict()) == set(sae.weight_names())
    assert not {"losses", "initialise", "revive", "join", "fold", "workers"} & set(dir(sae))


def test_encoding_in_blocks_leaves_the_processs_threads_alone(sae: SparseAutoencoder) -> None:
    seen: list[int] = []
    select = type(sae).select

    def counted(self: SparseAutoencoder, pre_TF: Tensor) -> ActivePattern:
        own = torch.get_num_threads()
        with ThreadPoolExecutor(1) as other:  # one that PyTorch has not seen takes what was last set for the process
            seen.append(other.submit(torch.get_num_threads).result())
        assert own == 1
        return select(self, pre_TF)

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(sae), "select", counted)
            sae.encode_active(torch.randn(20_000, D_IN, dtype=torch.float64))
        with ThreadPoolExecutor(1) as other:
            assert [torch.get_num_threads(), other.submit(torch.get_num_threads).result(), *seen] == [3] * 6
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("block_tokens", [1, 5, 32, 33, 100])
def test_encoding_in_blocks_changes_nothing(
    sae: SparseAutoencoder, x_TD: Tensor, block_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sae.encode_active(x_TD)
    monkeypatch.setattr(autoencoder, "BLOCK_PREACTIVATIONS", block_tokens * WIDTH)
    pieces = sae.encode_active(x_TD)
    assert torch.equal(pieces.token_A, whole.token_A)
    assert torch.equal(pieces.feature_A, whole.feature_A)
    torch.testing.assert_close(pieces.value_A, whole.value_A)


def test_encoding_never_holds_more_preactivations_than_a_block(
    sae: SparseAutoencoder, x_TD: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    encode_block = sae._encode_block
    monkeypatch.setattr(sae, "_encode_block", lambda rows: sizes.append(len(rows)) or encode_block(rows))
    monkeypatch.setattr(autoencoder, "BLOCK_PREACTIVATIONS", 10 * WIDTH)
    sae.encode_active(x_TD)
    assert sizes == [10, 10, 10, 3]


def test_folding_the_normalisation_in_gives_the_same_reconstruction_in_the_models_units(
    sae: SparseAutoencoder, x_TD: Tensor
) -> None:
    rebuilt_TD, active = sae.reconstruct(x_TD), sae.encode_active(x_TD)
    mean_D = torch.randn(D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    sae.for_training().fold(Normalisation(mean_D, 37.0, mean_D, 37.0))
    raw_TD = x_TD * 37.0 + mean_D
    torch.testing.assert_close(sae.reconstruct(raw_TD), rebuilt_TD * 37.0 + mean_D)
    folded = sae.encode_active(raw_TD)
    assert torch.equal(folded.feature_A, active.feature_A)
    torch.testing.assert_close(folded.value_A, active.value_A * 37.0)


@pytest.mark.parametrize("skip", ["none", "linear"])
@pytest.mark.parametrize("name", architectures())
def test_folding_a_transcoder_takes_inputs_and_gives_outputs_in_their_own_units(name: str, skip: str) -> None:
    sae = new_autoencoder(small_config(name, WIDTH, skip=skip), D_IN, D_IN + 3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for weight in (getattr(sae, name) for name in sae.weight_names()):
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.4)
    sae = sae.double()
    x_TD, mean_D, mean_E = (torch.randn(*shape, dtype=torch.float64) for shape in ((9, D_IN), (D_IN,), (D_IN + 3,)))
    rebuilt_TE = sae.reconstruct(x_TD)
    sae.for_training().fold(Normalisation(mean_D, 3.0, mean_E, 0.5))
    torch.testing.assert_close(sae.reconstruct(x_TD * 3.0 + mean_D), rebuilt_TE * 0.5 + mean_E)


def test_a_scaled_skip_passes_its_share_of_the_input_beside_the_latents() -> None:
    plain, skipping = (new_autoencoder(TopKConfig(width=64, k=4, skip=skip), D_IN) for skip in ("none", "scale"))
    for sae in (plain, skipping):
        sae.for_training().initialise(torch.zeros(1, D_IN), torch.Generator().manual_seed(0))
    x_TD = torch.randn(5, D_IN)
    torch.testing.assert_close(skipping.reconstruct(x_TD), plain.reconstruct(x_TD) + 0.1 * x_TD)
    assert not skipping.skip_scale.requires_grad
    mean_D = torch.randn(D_IN)
    before_TD = skipping.reconstruct(x_TD)
    skipping.for_training().fold(Normalisation(mean_D, 2.0, mean_D, 2.0))
    torch.testing.assert_close(skipping.reconstruct(x_TD * 2.0 + mean_D), before_TD * 2.0 + mean_D)


def test_decoding_with_a_skip_needs_the_input() -> None:
    sae = new_autoencoder(TopKConfig(width=64, k=4, skip="scale"), D_IN)
    with pytest.raises(ConfigError, match="has a skip \\(scale\\): decoding needs its input too"):
        sae.decode(torch.zeros(2, 64))


def test_a_skip_that_scales_is_refused_where_widths_differ() -> None:
    with pytest.raises(ConfigError, match="not 10 and 12. Use linear"):
        new_autoencoder(TopKConfig(width=64, k=4, skip="scale"), D_IN, 12)


def test_a_learned_skip_never_passes_everything() -> None:
    sae = new_autoencoder(TopKConfig(width=64, k=4, skip="learned_scale"), D_IN)
    with torch.no_grad():
        sae.skip_scale.fill_(1.7)
    sae.for_training().constrain()
    assert sae.skip_scale.item() == pytest.approx(0.9)
