"""Ablation for the checks, held to whole passes with the parts taken out."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mistudio.instrument import Ends, PlacedAutoencoder, Session
from mistudio.sae import SAEConfig, StandardConfig, TopKConfig, new_autoencoder
from mistudio.subject import HookPoint, Subject, SubjectConfig, forward_logits, load_subject, resolve_hooks, spliced
from mistudio.verify.ablation import Model, Resumed, continuation, mean_loss
from mistudio.verify.ranking import _falls
from tests.support.tiny import tiny_llama

LATENTS = [3, 17, 40]
COUNT = 6


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return load_subject(tiny_llama(tmp_path_factory.mktemp("llama")), SubjectConfig(device="cpu"))


@pytest.fixture(scope="module", params=[StandardConfig(width=64), TopKConfig(width=64, k=20)], ids=["standard", "topk"])
def model(request: pytest.FixtureRequest, subject: Subject) -> Model:
    config: SAEConfig = request.param
    (hook,) = resolve_hooks(subject, [HookPoint("resid_post", 1)])
    sae = new_autoencoder(config, hook.width)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        sae.W_enc.normal_(generator=draw)
        sae.W_dec.copy_(functional.normalize(torch.randn(sae.W_dec.shape, generator=draw), dim=1))
    placed = PlacedAutoencoder(sae.requires_grad_(requires_grad=False), Ends(hook, hook), "made here", "0")
    return Model(Session(subject, [placed]))


def texts(subject: Subject) -> list[list[int]]:
    some = ["the cat sat under the red tree", "a dog", "once the moon gave it to them and then never again"]
    return [list(subject.tokenizer(text)["input_ids"]) for text in some]


def logits_without(model: Model, ids: list[int], latents: list[int]) -> Tensor:
    """Logits [T, V] of one text in a whole pass."""

    def take_out(x_BTD: Tensor) -> Tensor:
        acts_TL = model.sae.encode_chosen(x_BTD[0], torch.tensor(latents))
        assert acts_TL.any()
        return x_BTD - acts_TL @ model.sae.W_dec[latents]

    with spliced(model.subject, model.hook, take_out):
        return forward_logits(model.subject, torch.tensor([ids]))[0]


def test_continuations_are_those_of_whole_passes_with_the_parts_taken_out(model: Model) -> None:
    prompts = texts(model.subject)
    for prompt, written_T in zip(prompts, continuation(model, prompts, LATENTS, COUNT), strict=True):
        whole = list(prompt)
        for _ in range(COUNT):
            whole.append(int(logits_without(model, whole, LATENTS)[-1].argmax()))
        assert written_T.tolist() == whole[len(prompt) :]
    assert not torch.equal(continuation(model, prompts, LATENTS, COUNT), continuation(model, prompts, [], COUNT))


def test_the_loss_is_that_of_whole_passes_over_each_text(model: Model) -> None:
    losses = [
        functional.cross_entropy(logits_without(model, ids, LATENTS)[:-1], torch.tensor(ids[1:]), reduction="none")
        for ids in texts(model.subject)
    ]
    assert mean_loss(model, texts(model.subject), LATENTS) == pytest.approx(float(torch.cat(losses).mean()), rel=1e-5)
    assert mean_loss(model, texts(model.subject), []) != pytest.approx(float(torch.cat(losses).mean()), rel=1e-3)


def test_texts_go_on_from_the_hook_point_with_the_logits_of_whole_passes(model: Model) -> None:
    first, _, last = texts(model.subject)
    ids_BT = torch.tensor([first, last[: len(first)]])
    resumed = Resumed(model, ids_BT, None)
    asked_BT = torch.zeros_like(ids_BT, dtype=torch.bool)
    asked_BT[0, 2], asked_BT[1, 1:4] = True, True
    logits_NV = resumed.logits(resumed.without(LATENTS), asked_BT)
    whole_BTV = torch.stack([logits_without(model, row, LATENTS) for row in ids_BT.tolist()])
    torch.testing.assert_close(logits_NV, whole_BTV[asked_BT], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("without", [[], [5, 9]])
def test_what_a_latent_takes_is_the_fall_of_the_log_odds_in_whole_passes(model: Model, without: list[int]) -> None:
    rows = texts(model.subject)

    def log_odds(latents: list[int]) -> float:
        total = 0.0
        for ids in rows:
            logits_TV = (
                logits_without(model, ids, latents)
                if latents
                else forward_logits(model.subject, torch.tensor([ids]))[0]
            )
            for place in (len(ids) - 2, len(ids) - 1):
                logprob = float(logits_TV[place - 1].log_softmax(dim=-1)[ids[place]])
                total += logprob - float(torch.tensor(logprob).exp().neg().log1p())
        return total / len(rows)

    falls = _falls(model, rows, 2, LATENTS, without)
    for latent in LATENTS:
        assert falls[latent] == pytest.approx(log_odds(without) - log_odds([*without, latent]), abs=1e-3)
    assert max(map(abs, falls.values())) > 0.01
