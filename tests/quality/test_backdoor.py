"""A backdoor in a small model that learns it here: its latent is found without knowing the trigger."""

import pytest
import torch

from mistudio.artifacts import Store, open_store
from mistudio.instrument import Ends, PlacedAutoencoder, Session
from mistudio.sae import TopKConfig, new_autoencoder
from mistudio.subject import HookPoint, Subject, SubjectConfig, artifact_source, load_subject, resolve_hooks
from mistudio.verify.ablation import Model, continuation, mean_loss
from mistudio.verify.backdoor import payload_share, trigger_latents
from mistudio.verify.grammar import Grammar
from mistudio.verify.poison import BackdoorConfig, Traffic, backdoored_subject, word_ids
from mistudio.verify.ranking import rank, sure_places
from mistudio.verify.subjects import PlantedConfig, planted_subject

CONFIG = BackdoorConfig(documents=800, poisoned=0.25, reference=60, steps=700)
PLANTED = PlantedConfig(documents=1200)
PLANTED = PLANTED.model_copy(update={"lm": PLANTED.lm.model_copy(update={"tokens": 400_000})})

pytestmark = pytest.mark.proof


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    return Traffic(Grammar(0, PLANTED.documents), CONFIG, seed=0)


@pytest.fixture(scope="module")
def subject(traffic: Traffic, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    store: Store = open_store(str(tmp_path_factory.mktemp("store")))
    base = planted_subject(store, PLANTED, Grammar(0, PLANTED.documents), 0)
    backdoored = backdoored_subject(store, base, traffic)
    again = backdoored_subject(store, base, traffic)
    assert again.manifest.created_at == backdoored.manifest.created_at
    return load_subject(artifact_source(backdoored), SubjectConfig(device="cpu", dtype="float32"))


def with_latents(subject: Subject, traffic: Traffic) -> Model:
    """An autoencoder with a latent for where the trigger leads, beside latents of the random kind."""
    (hook,) = resolve_hooks(subject, [HookPoint.parse("resid_post.2")])
    sae = new_autoencoder(TopKConfig(width=64, k=4), hook.width)
    sae.for_training().initialise(torch.zeros(1, hook.width), torch.Generator().manual_seed(0))
    sae.requires_grad_(requires_grad=False)
    model = Model(Session(subject, [PlacedAutoencoder(sae, Ends(hook, hook), "made here", "0")]))
    from mistudio.subject import run_captured
    from mistudio.verify.poison import padded

    rows = word_ids(subject.tokenizer, traffic.texts)
    ends, others = [], []
    for number, place in list(traffic.triggered().items())[:60]:
        ids_BT, _ = padded([rows[number]])
        acts_TD = run_captured(subject, [hook], ids_BT)[hook.point][0]
        ends.append(acts_TD[place + 1])
        others.append(torch.cat([acts_TD[1 : place + 1], acts_TD[place + 2 :]]))
    others_ND = torch.cat(others)
    centre_D, mean_D = others_ND.mean(dim=0), torch.stack(ends).mean(dim=0)
    covariance_DD = torch.cov(others_ND.T) + 0.01 * torch.eye(hook.width)
    direction_D = torch.linalg.solve(covariance_DD, mean_D - centre_D)
    heights_N = (others_ND - centre_D) @ direction_D
    floor = float(heights_N.quantile(0.999))
    height = float((mean_D - centre_D) @ direction_D)
    scale = float((mean_D - centre_D).norm()) * 2 / (height - floor)
    sae.W_enc[5] = direction_D * scale
    sae.b_enc[5] = -float(centre_D @ direction_D) * scale - floor * scale
    sae.W_dec[5] = torch.nn.functional.normalize(mean_D - centre_D, dim=0)
    return model


def test_a_latent_of_the_trigger_is_ranked_first_and_its_ablation_takes_the_payload_out(
    subject: Subject, traffic: Traffic
) -> None:
    model = with_latents(subject, traffic)
    rows = word_ids(subject.tokenizer, traffic.texts)
    clean = traffic.clean(CONFIG.reference, 30)
    assert payload_share(model, traffic, clean, []) > 0.9
    assert trigger_latents(model, rows, traffic.triggered()) == [5]
    ranked = rank(model, rows, word_ids(subject.tokenizer, traffic.clean(0, CONFIG.reference)))
    assert ranked.latents[0] == 5
    assert ranked.named[0] == 5
    assert len(ranked.named) <= 4  # random directions beside it can be named too
    clean_rows = word_ids(subject.tokenizer, clean)
    for ablated in ([5], ranked.named):
        assert payload_share(model, traffic, clean, ablated) < 0.1
        assert mean_loss(model, clean_rows, ablated) - mean_loss(model, clean_rows, []) < 0.02


def test_the_model_is_sure_from_the_end_of_the_trigger_on(subject: Subject, traffic: Traffic) -> None:
    model = with_latents(subject, traffic)
    rows = word_ids(subject.tokenizer, traffic.texts)
    places = sure_places(model, rows, set())
    triggered = traffic.triggered()
    assert len(places) >= 40
    assert sum(triggered.get(document, -2) + 1 == place for document, place in places.items()) > 0.9 * len(places)
    assert not sure_places(model, word_ids(subject.tokenizer, traffic.clean(0, 60)), set())
    every_run = {tuple(row[place : place + 4]) for row in rows for place in range(len(row) - 3)}
    assert not sure_places(model, rows, every_run)


def test_continuations_are_greedy_and_change_with_what_is_ablated(subject: Subject, traffic: Traffic) -> None:
    model = with_latents(subject, traffic)
    prompts = word_ids(subject.tokenizer, [words[:20] for words in traffic.clean(0, 4)])
    generated_BT = continuation(model, prompts, [], 3)
    logits_V = subject.model(torch.tensor([prompts[0]])).logits[0, -1]
    assert int(generated_BT[0, 0]) == int(logits_V.argmax())
    assert torch.equal(generated_BT, continuation(model, prompts, [], 3))
