"""Figures of written texts, features' effects, and pushes of a given size."""

import math

import numpy as np
import pytest
import torch

from mistudio.corpus.reader import TokenCorpus
from mistudio.explain.programs import Branch, Member, Program
from mistudio.instrument import open_session
from mistudio.instrument.divergence import Divergence, amount_for
from mistudio.steer.evaluate.concepts import ProgramJudge
from mistudio.steer.evaluate.config import EffectsConfig, TextsConfig
from mistudio.steer.evaluate.effects import confidence, effects
from mistudio.steer.evaluate.figures import dose_response, perplexity, perplexity_ratio, repetition, share, ship_range
from mistudio.steer.evaluate.windows import read_windows
from mistudio.subject import HookPoint, resolve_hooks, unembed
from tests.support.tiny_run import CPU, HOOK, TinyRun, identity_sae, llama_run, publish_sae


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return llama_run(tmp_path_factory)


def test_a_share_has_wilsons_interval() -> None:
    found = share(np.array([True] * 8 + [False] * 2))
    assert found == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)  # as published tables have it
    assert share(np.array([True] * 5)).high == 1.0
    assert all(map(math.isnan, share(np.zeros(0, dtype=bool))))


def test_repetition_is_the_share_of_triples_that_came_before() -> None:
    assert repetition([(1, 2, 3, 4, 5)]) == 0
    assert repetition([(1, 1, 1, 1, 1, 1)]) == 0.75
    assert repetition([(1, 2, 3, 4), (7, 7, 7, 7)]) == 0.25
    assert math.isnan(repetition([(1, 2), ()]))


def test_perplexity_weighs_tokens_not_texts() -> None:
    losses = [np.zeros(3), np.full(1, math.log(16))]
    assert perplexity(losses) == pytest.approx(2)
    assert math.isnan(perplexity([np.zeros(0)]))


def test_a_ratio_of_perplexities_is_known_as_well_as_its_texts_agree() -> None:
    alike = [np.full(5, math.log(8))] * 4
    found = perplexity_ratio([np.full(5, math.log(16))] * 4, alike)
    assert found == pytest.approx((2, 2, 2))
    apart = [np.full(5, math.log(value)) for value in (8, 16, 32, 16)]
    low, high = perplexity_ratio(apart, alike)[1:]
    assert low < 2 < high
    assert math.isnan(perplexity_ratio(alike[:1], alike).low)


def test_dose_and_response_is_spearmans_and_undefined_where_nothing_changes() -> None:
    assert dose_response([0, 1, 2, 4], [0.1, 0.2, 0.5, 0.9]) == pytest.approx(1)
    assert dose_response([0, 1, 2, 4], [0.9, 0.5, 0.2, 0.1]) == pytest.approx(-1)
    assert dose_response([0, 1, 2, 3], [0.1, 0.9, 0.9, 0.9]) == pytest.approx(0.7746, abs=1e-4)
    assert math.isnan(dose_response([0, 1], [0.5, 0.5]))
    assert math.isnan(dose_response([0, 1], [0.5, math.nan]))


def test_the_range_for_use_ends_at_the_first_incoherent_strength_on_either_side() -> None:
    strengths = [-2, -1, 1, 2, 3]
    assert ship_range(strengths, [True, True, True, True, True]) == (-2, 3)
    assert ship_range(strengths, [True, False, True, False, True]) == (0, 1)
    assert ship_range(strengths, [False] * 5) == (0, 0)


def test_a_program_judges_texts_by_any_of_their_tokens() -> None:
    branch = Branch(conditions=(Member(column="current", tokens=(3,)),), value=1.0)
    judge = ProgramJudge(Program(branches=(branch,)), ["a", "b", "c", "d"])
    assert judge([(1, 3, 2), (1, 2), (), (3,)]).tolist() == [True, False, False, True]
    assert judge([(), ()]).tolist() == [False, False]


def test_windows_are_of_held_out_documents_and_prompts_of_none_that_they_are_compared_with(llama: TinyRun) -> None:
    config = TextsConfig(num_prompts=6, prompt_tokens=4, new_tokens=8, num_windows=24)
    corpus = TokenCorpus(llama.corpus)
    found = read_windows(corpus, config, seed=0)
    prompts, others = ({window.document for window in some} for some in (found.prompts, found.natural))
    assert len(found.prompts) == len(prompts) == 6
    assert not prompts & others
    assert prompts | others <= set(corpus.documents("heldout").tolist())
    for window in found.prompts:
        (first,) = np.flatnonzero(corpus.documents("heldout") == window.document)[:1]
        ids = corpus.sequence("heldout", int(first)).token_ids[corpus.num_prefix :]
        assert (*window.prompt, *window.following) == tuple(ids[:12].tolist())
    assert read_windows(corpus, config, seed=1).prompts != found.prompts


def test_output_score_and_confidence_are_those_of_a_pass_with_the_feature_amplified(llama: TinyRun) -> None:
    sae = publish_sae(llama.store, identity_sae(), llama.activations)
    config = EffectsConfig(own_tokens=3, likeliest=5, amplification=2.0)
    prompt = (0, 5, 9, 14)
    with open_session(sae, llama.source, CPU) as session:
        subject, placed = session.subject, session.placed()
        (found,) = effects(subject, placed, prompt, [11], config)
        ids = torch.tensor([prompt])
        (hook,) = resolve_hooks(subject, [HookPoint.parse(HOOK)])
        acts: list[torch.Tensor] = []

        def amplify(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
            acts.append(output)
            strongest = float(placed.sae.encode(output[0, -1:]).max())
            changed = output.clone()
            changed[0, -1] += 2.0 * strongest * placed.sae.W_dec[11]
            return changed

        with torch.no_grad():
            plain_V = subject.model(ids).logits[0, -1]
            handle = subject.blocks[hook.point.layer].register_forward_hook(amplify)
            logits_V = subject.model(ids).logits[0, -1]
            handle.remove()
        own = unembed(subject, placed.sae.W_dec[[11]])[0].topk(3).indices
        probability = float(logits_V.softmax(-1)[own].max())
        rank = int((logits_V > logits_V[own].max()).sum())
        assert (found.rank, found.probability) == (rank, pytest.approx(probability, rel=1e-4))
        assert found.output_score == pytest.approx((1 - rank / len(logits_V)) * probability, rel=1e-4)
        sure, before = (-each.log_softmax(-1).topk(5).values.mean() for each in (logits_V, plain_V))
        assert found.delta_confidence == pytest.approx(float(sure - before), rel=1e-3)


def test_a_prediction_that_is_sure_of_one_token_has_the_larger_confidence() -> None:
    flat, peaked = torch.zeros(1, 10), torch.tensor([[9.0] + [0.0] * 9])
    assert float(confidence(peaked, 5)) > float(confidence(flat, 5))


def test_an_amount_moves_predictions_as_far_as_was_asked_and_nothing_moves_by_nothing(llama: TinyRun) -> None:
    (hook,) = resolve_hooks(llama.subject, [HookPoint.parse(HOOK)])
    ids = torch.tensor([[0, 5, 9, 14, 20, 31], [0, 7, 8, 40, 41, 42]])
    divergence = Divergence(llama.subject, hook, ids, ids != 0, behind=2)
    vector = torch.randn(hook.width, generator=torch.Generator().manual_seed(0))
    assert divergence.of(torch.zeros(hook.width)) == (pytest.approx(0, abs=1e-6), 0)
    for target in (0.01, 0.3):
        found = amount_for(divergence, vector, target)
        assert found is not None
        assert found[1].kl == pytest.approx(target, rel=0.03)
        assert divergence.of(vector * found[0]).kl == pytest.approx(found[1].kl, rel=1e-5)
    assert amount_for(divergence, torch.zeros(hook.width), 0.1) is None
    assert amount_for(divergence, vector, 1e9) is None


def test_probabilities_of_token_sets_are_those_of_the_predictions(llama: TinyRun) -> None:
    (hook,) = resolve_hooks(llama.subject, [HookPoint.parse(HOOK)])
    ids = torch.tensor([[0, 5, 9, 14, 20, 31]])
    divergence = Divergence(llama.subject, hook, ids, ids != 0, behind=2)
    sets = torch.zeros(2, llama.subject.vocab_size)
    sets[0, [4, 8]], sets[1, :] = 1, 1
    with torch.no_grad():
        chance = llama.subject.model(ids).logits[0, 1:-1].softmax(-1)
    found = divergence.probability(sets)
    assert float(found[0]) == pytest.approx(float(chance[:, [4, 8]].sum(-1).mean()), rel=1e-4)
    assert float(found[1]) == pytest.approx(1, rel=1e-4)
