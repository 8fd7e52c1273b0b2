"""Ablation and attribution in a tiny model, against the same done by hand."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from mistudio.activations import ActivationReader
from mistudio.corpus.reader import TokenCorpus
from mistudio.find.ablation import Ablation, ablate, can_ablate
from mistudio.find.attribution import Attribution, attribute
from mistudio.find.causal import Window, lay_out
from mistudio.find.contexts import ChunkRows, TopContexts
from mistudio.find.reading import HookedSubject, Readings, places_of, readings
from mistudio.instrument import Ends
from mistudio.sae import SparseAutoencoder, TopKConfig, new_autoencoder
from mistudio.subject import HookPoint, forward_logits, resolve_hooks, run_captured
from tests.support.tiny import WIDTH
from tests.support.tiny_run import HOOK, TinyRun, bert_run

FEATURES, BEFORE, AFTER = 64, 9, 3


def make_sae(llama: TinyRun) -> SparseAutoencoder:
    sae = new_autoencoder(TopKConfig(width=FEATURES, k=5), WIDTH)
    reader = ActivationReader(llama.activations, HOOK, "train")
    sae.for_training().initialise(reader.acts(0, 500).float(), torch.Generator().manual_seed(0))
    return sae


@pytest.fixture(scope="module")
def hooked(llama: TinyRun) -> HookedSubject:
    (hook,) = resolve_hooks(llama.subject, [HookPoint.parse(HOOK)])
    return HookedSubject(llama.subject, Ends(hook, hook), make_sae(llama), TokenCorpus(llama.corpus))


@pytest.fixture(scope="module")
def top(llama: TinyRun, hooked: HookedSubject) -> TopContexts:
    reader, top = ActivationReader(llama.activations, HOOK, "train"), TopContexts(FEATURES, 3, 5, AFTER)
    meta = reader.meta(0, len(reader))
    active = hooked.sae.encode_active(reader.acts(0, len(reader)).float())
    top.update(active, ChunkRows(meta["document"], meta["sequence"], meta["position"]))
    return top


@pytest.fixture(scope="module")
def read(hooked: HookedSubject, top: TopContexts) -> Readings:
    return readings(hooked.corpus, places_of(top, np.arange(FEATURES), 2), BEFORE, AFTER)


@pytest.fixture(scope="module")
def ablation(hooked: HookedSubject, read: Readings) -> Ablation:
    return ablate(hooked, read, seed=0)


def test_the_model_reads_the_special_token_and_the_text_around_the_peak(
    hooked: HookedSubject, top: TopContexts, read: Readings
) -> None:
    for feature, rank, peak, ids in zip(*read, strict=True):
        sequence = hooked.corpus.sequence("train", int(top.ints_FC["sequence"][feature, rank]))
        at = int(top.ints_FC["position"][feature, rank]) - sequence.start + 1
        first = max(at - BEFORE, 1)
        assert ids.tolist() == [0, *sequence.token_ids[first : at + AFTER + 1].tolist()]
        assert ids[peak] == sequence.token_ids[at]


def by_hand(hooked: HookedSubject, ids: np.ndarray, feature: int) -> tuple[float, float]:
    """Change in loss where the feature fires, and behind, with its part of the residual stream taken away."""
    model, sae, ids_BT = hooked.subject.model, hooked.sae, torch.tensor([ids.tolist()])
    x_TD = run_captured(hooked.subject, [hooked.ends.read], ids_BT)[hooked.ends.read.point][0]
    acts_T = sae.encode(x_TD)[:, feature]
    acts_T[0] = 0  # <s>

    def take_away(_module: object, _args: object, output: torch.Tensor) -> torch.Tensor:
        return output - acts_T[:, None] * sae.W_dec[feature]

    def losses() -> torch.Tensor:
        return functional.cross_entropy(forward_logits(hooked.subject, ids_BT)[0, :-1], ids_BT[0, 1:], reduction="none")

    clean_T = losses()
    handle = model.model.layers[1].register_forward_hook(take_away)
    with torch.no_grad():
        change_T = (losses() - clean_T).numpy()
    handle.remove()
    fires_T = (acts_T > 0).numpy()[:-1]
    behind_T = (fires_T.cumsum() > 0) & ~fires_T
    return tuple(change_T[where].mean() if where.any() else np.nan for where in (fires_T, behind_T))


def test_ablation_is_the_change_in_loss_without_the_features_part(
    hooked: HookedSubject, read: Readings, ablation: Ablation
) -> None:
    expected = [by_hand(hooked, ids, int(feature)) for ids, feature in zip(read.token_ids, read.feature, strict=True)]
    np.testing.assert_allclose(np.stack(ablation[:2], axis=1), expected, atol=2e-4)
    assert np.nanmax(np.abs(ablation.firing)) > 0.05


def test_the_control_takes_away_another_direction(ablation: Ablation) -> None:
    assert np.array_equal(np.isnan(ablation.control), np.isnan(ablation.firing))
    there = ~np.isnan(ablation.firing)
    assert (np.abs(ablation.control[there] - ablation.firing[there]) > 1e-4).mean() > 0.8


def test_how_contexts_share_passes_changes_effects_by_rounding_only(
    hooked: HookedSubject, read: Readings, ablation: Ablation
) -> None:
    chosen = np.arange(0, len(read.feature), 5)
    some = Readings(read.feature[chosen], read.rank[chosen], read.peak[chosen], [read.token_ids[i] for i in chosen])
    for one, other in zip(ablate(hooked, some, seed=0), ablation, strict=True):
        np.testing.assert_allclose(one, other[chosen], atol=1e-4)


def test_a_feature_that_writes_nothing_costs_nothing(hooked: HookedSubject, read: Readings) -> None:
    idle = new_autoencoder(TopKConfig(width=FEATURES, k=5), WIDTH)
    idle.load_state_dict(hooked.sae.state_dict())
    with torch.no_grad():
        idle.W_dec.zero_()
    changes = ablate(hooked._replace(sae=idle), read, seed=0)
    for change in changes:
        assert np.nanmax(np.abs(change)) == 0


def test_a_transcoder_is_ablated_where_it_writes(llama: TinyRun, hooked: HookedSubject, read: Readings) -> None:
    reads, writes = resolve_hooks(llama.subject, [HookPoint.parse("resid_mid.1"), HookPoint.parse("mlp_out.1")])
    between = hooked._replace(ends=Ends(reads, writes))
    ids = torch.tensor([read.token_ids[0].tolist()])
    x_TD = run_captured(llama.subject, [reads], ids)[reads.point][0]
    feature = int(hooked.sae.encode(x_TD)[1:].sum(dim=0).argmax())
    one = Readings(np.array([feature]), np.array([0]), read.peak[:1], read.token_ids[:1])
    (firing,), _, _ = ablate(between, one, seed=0)
    acts_T = hooked.sae.encode(x_TD)[:, feature]
    acts_T[0] = 0

    def take_away(_module: object, _args: object, output: torch.Tensor) -> torch.Tensor:
        return output - acts_T[:, None] * hooked.sae.W_dec[feature]

    def losses() -> torch.Tensor:
        return functional.cross_entropy(forward_logits(llama.subject, ids)[0, :-1], ids[0, 1:], reduction="none")

    clean_T = losses()
    handle = llama.subject.model.model.layers[1].mlp.register_forward_hook(take_away)
    change_T = (losses() - clean_T).detach().numpy()
    handle.remove()
    assert firing == pytest.approx(change_T[(acts_T > 0).numpy()[:-1]].mean(), abs=2e-4)


def traced_by_hand(hooked: HookedSubject, read: Readings, place: int) -> tuple[float, float]:
    """Pre-activations at the peak: of the text, and of mean embeddings in its place."""
    model, ids = hooked.subject.model, torch.tensor([read.token_ids[place].tolist()])
    embed = model.get_input_embeddings()
    with torch.no_grad():
        own = embed(ids)
        blank = embed.weight.mean(dim=0).expand_as(own).clone()
        blank[:, 0] = own[:, 0]
        found = []
        for embedded in (own, blank):
            handle = embed.register_forward_hook(lambda _module, _args, _output, value=embedded: value)
            x_TD = run_captured(hooked.subject, [hooked.ends.read], ids)[hooked.ends.read.point][0]
            handle.remove()
            found.append(float(x_TD[read.peak[place]] @ hooked.sae.W_enc[read.feature[place]]))
    return found[0], found[1]


@pytest.fixture(scope="module")
def few(read: Readings) -> Readings:
    return Readings(read.feature[:12], read.rank[:12], read.peak[:12], read.token_ids[:12])


def test_integrated_gradients_add_up_to_the_difference_that_the_text_makes(
    hooked: HookedSubject, few: Readings
) -> None:
    attribution = attribute(hooked, few, steps=129)
    for place in range(len(few.feature)):
        own, blank = traced_by_hand(hooked, few, place)
        assert attribution.integrated[place].sum() == pytest.approx(own - blank, rel=0.02, abs=0.02)
        assert len(attribution.integrated[place]) == len(few.token_ids[place])
        assert attribution.integrated[place][0] == attribution.gradient[place][0] == 0  # <s>


def test_gradient_times_input_is_the_effect_of_making_an_embedding_a_little_larger(
    hooked: HookedSubject, few: Readings
) -> None:
    attribution = attribute(hooked, few, steps=2)
    embed, scale = hooked.subject.model.get_input_embeddings(), 1e-2
    for place in range(4):
        ids = torch.tensor([few.token_ids[place].tolist()])
        for token in range(1, ids.shape[1]):
            found = []
            for factor in (1 + scale, 1 - scale):
                with torch.no_grad():
                    larger = embed(ids)
                    larger[0, token] *= factor
                handle = embed.register_forward_hook(lambda _module, _args, _output, value=larger: value)
                x_TD = run_captured(hooked.subject, [hooked.ends.read], ids)[hooked.ends.read.point][0]
                handle.remove()
                found.append(float(x_TD[few.peak[place]] @ hooked.sae.W_enc[few.feature[place]].detach()))
            slope = (found[0] - found[1]) / (2 * scale)
            assert attribution.gradient[place][token] == pytest.approx(slope, rel=0.05, abs=0.02)


def test_no_token_behind_the_peak_has_a_part_in_a_causal_models_feature(hooked: HookedSubject, few: Readings) -> None:
    attribution: Attribution = attribute(hooked, few, steps=3)
    for values, peak in zip(attribution.integrated, few.peak, strict=True):
        assert not values[peak + 1 :].any()
        assert values[: peak + 1].any()


def test_attributions_lie_beside_the_tokens_of_the_window(hooked: HookedSubject, top: TopContexts) -> None:
    for before in (9, 2):
        read = readings(hooked.corpus, places_of(top, np.arange(FEATURES), 1), before, 0)
        numbered = [
            np.arange(len(ids)).astype(np.float32) - peak for ids, peak in zip(read.token_ids, read.peak, strict=True)
        ]
        windows = lay_out(numbered, read.peak, Window(top.before, top.after))
        for window, peak in zip(windows, read.peak, strict=True):
            first = max(5 - int(peak), 0)
            assert np.isnan(window[:first]).all()
            assert window[first:6].tolist() == list(range(first - 5, 1))
            assert not window[6:].any()


def test_an_encoder_predicts_no_next_token_and_can_be_traced(tmp_path_factory: pytest.TempPathFactory) -> None:
    run = bert_run(tmp_path_factory)
    (hook,) = resolve_hooks(run.subject, [HookPoint.parse(HOOK)])
    hooked = HookedSubject(run.subject, Ends(hook, hook), make_sae(run), TokenCorpus(run.corpus))
    assert not can_ablate(hooked)
    ids = hooked.corpus.sequence("train", 0).token_ids[:12]
    attribution = attribute(hooked, Readings(np.array([3]), np.array([0]), np.array([4]), [ids]), steps=3)
    assert attribution.integrated[0][6:].any()  # what follows counts too
