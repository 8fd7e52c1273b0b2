import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mistudio.artifacts import Draft, Recipe, Summary, open_store, produce
from mistudio.errors import SubjectError
from mistudio.explain.records import Example, Explanation
from mistudio.sae import StandardConfig, config_json, new_autoencoder, save_weights
from mistudio.sae.files import CONFIG_NAME, WEIGHTS_NAME
from mistudio.score.config import SteeringConfig
from mistudio.score.intervention import InterventionScorer
from mistudio.score.records import Case
from mistudio.score.steering import Steering, open_steering
from mistudio.subject import HookPoint, Subject, SubjectConfig, forward_logits, load_subject, resolve_hooks, spliced
from tests.support.oracle import Direct, Oracle
from tests.support.scripted_server import Answer
from tests.support.tiny import MLP_WIDTH, WIDTH, tiny_bert, tiny_documents, tiny_llama

WORDS = (" tree", " river", " cat", " but", " mat", " behind", " once", " gave", " because", " moon")
OTHERS = (" again", " then", " and", " over", " it", " x", " +", " =", " 1", " s")
NUM_PROMPTS = 40
RESAMPLES = 50


class Reader(Oracle):
    """Names the continuation that holds the word more often; without a difference it guesses."""

    def chat(self, _system: str, prompt: str) -> Answer:
        description, _text, *pair = (json.loads(line.partition(": ")[2]) for line in prompt.split("\n"))
        left, right = (text.count(description) for text in pair)
        guess = sum(map(ord, prompt)) % 2
        return Answer(json.dumps({"continuation": "AB"[guess if left == right else int(right > left)]}))


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    subject = load_subject(tiny_llama(tmp_path_factory.mktemp("llama")), SubjectConfig(device="cpu"))
    # Each token's direction shall favour that token most, and be able to decide what comes next.
    rows_VD = subject.model.lm_head.weight.data
    rows_VD.mul_(3 / rows_VD.norm(dim=1, keepdim=True))
    return subject


@pytest.fixture(scope="module")
def steering(subject: Subject) -> Steering:
    """Features whose directions each make one word likelier, with norms that differ a hundredfold."""
    ids = [subject.tokenizer(word, add_special_tokens=False)["input_ids"] for word in WORDS]
    rows = subject.model.lm_head.weight[[one[0] for one in ids]]
    assert all(len(one) == 1 for one in ids)
    lengths = torch.logspace(-1, 1, len(ids))[:, None]
    (hook,) = resolve_hooks(subject, [HookPoint("resid_post", 2)])
    return Steering(
        subject,
        hook,
        rows * lengths,
        SteeringConfig(num_prompts=NUM_PROMPTS, new_tokens=5, target_kl=4.0, search_steps=8),
    )


def cases(words: tuple[str, ...]) -> list[Case]:
    return [
        Case(Explanation(feature=feature, explainer="x", text=word), examples()) for feature, word in enumerate(words)
    ]


def examples() -> tuple[Example, ...]:
    texts = [one["text"] for one in tiny_documents(3 * NUM_PROMPTS) if len(one["text"]) > 80]
    return tuple(
        Example("random", tuple(re.findall(r"\s*\S+", text)), (0.0,) * 999, 0, document, 0, 0, "")
        for document, text in enumerate(texts)
    )


def test_the_true_explanation_is_found_and_another_is_at_chance(steering: Steering) -> None:
    true = list(InterventionScorer(Direct(Reader()), steering, RESAMPLES).score(cases(WORDS)))
    other = [
        score
        for seed in range(2)
        for score in InterventionScorer(Direct(Reader()), steering, RESAMPLES, seed).score(cases(OTHERS))
    ]
    assert min(score.value for score in true) >= 0.95
    assert np.mean([score.value for score in other]) == pytest.approx(0.5, abs=0.03)
    assert all((score.num_examples, score.num_failures) == (NUM_PROMPTS, 0) for score in true + other)
    assert all(score.low <= score.value <= score.high for score in true + other)


def test_the_true_explanation_is_at_chance_of_directions_with_shuffled_components(
    subject: Subject, steering: Steering
) -> None:
    draw = np.random.default_rng(0)
    values = []
    config = steering.config.model_copy(update={"target_kl": 1.0})  # such directions cannot change more
    whole = Steering(subject, steering.hook, steering.directions_FD, config)
    true = [score.value for score in InterventionScorer(Direct(Reader()), whole, RESAMPLES).score(cases(WORDS))]
    assert np.mean(true) > 0.8
    for seed in range(4):
        order_FD = draw.permuted(np.tile(np.arange(WIDTH), (len(WORDS), 1)), axis=1)
        rows_FD = steering.directions_FD.gather(1, torch.from_numpy(order_FD))
        mixed = Steering(subject, steering.hook, rows_FD, config)
        values += [
            score.value for score in InterventionScorer(Direct(Reader()), mixed, RESAMPLES, seed).score(cases(WORDS))
        ]
    assert not np.isnan(values).any()
    assert np.mean(values) == pytest.approx(0.5, abs=0.03)


TEXTS = ["the cat sat under the tree and then", "a dog ran over the moon but never"]


def test_pushes_change_predictions_equally_whatever_the_length_of_a_direction(steering: Steering) -> None:
    ids_BT = steering.prompts(TEXTS)
    assert ids_BT is not None
    subject = steering.subject
    clean = torch.log_softmax(forward_logits(subject, ids_BT), dim=-1)
    for edits in steering._pushes(range(len(WORDS)), ids_BT).values():
        (term,) = edits.terms
        with spliced(subject, steering.hook, lambda x, term=term: x + term.amount * term.vector_D):
            steered = torch.log_softmax(forward_logits(subject, ids_BT), dim=-1)
        kl = float((clean.exp() * (clean - steered)).sum(dim=-1).mean())
        assert kl == pytest.approx(steering.config.target_kl, rel=0.06)


def test_features_together_are_written_as_each_alone_in_whole_passes(steering: Steering) -> None:
    ids_BT = steering.prompts(TEXTS)
    assert ids_BT is not None
    pushes = steering._pushes([0, 7], ids_BT)
    for place, written in enumerate(steering.continuations([0, 7], ids_BT)):
        (term,) = pushes[place].terms
        whole_BT = ids_BT
        with spliced(steering.subject, steering.hook, lambda x, term=term: x + term.amount * term.vector_D):
            for _ in range(steering.config.new_tokens):
                next_B1 = forward_logits(steering.subject, whole_BT)[:, -1].argmax(dim=-1, keepdim=True)
                whole_BT = torch.cat([whole_BT, next_B1], dim=1)
        assert written == steering.subject.tokenizer.batch_decode(whole_BT[:, ids_BT.shape[1] :])


def test_a_direction_that_changes_nothing_has_no_score(subject: Subject, steering: Steering) -> None:
    (hook,) = resolve_hooks(subject, [HookPoint("resid_post", 2)])
    still = Steering(subject, hook, torch.zeros(3, hook.width), steering.config)
    (score,) = InterventionScorer(Direct(Reader()), still, RESAMPLES).score(cases(WORDS[:1]))
    assert np.isnan(score.value)
    assert score.num_examples == 0


@pytest.mark.parametrize("answer", ["neither", '{"continuation": "C"}', "A or B"])
def test_an_answer_that_names_no_continuation_is_a_failure_and_wrong(answer: str, steering: Steering) -> None:
    class Vague(Reader):
        def chat(self, system: str, prompt: str) -> Answer:
            return Answer(answer) if sum(map(ord, prompt)) % 2 else super().chat(system, prompt)

    (score,) = InterventionScorer(Direct(Vague()), steering, RESAMPLES).score(cases(WORDS[:1]))
    assert 0 < score.num_failures < NUM_PROMPTS
    assert score.value == pytest.approx(1 - score.num_failures / NUM_PROMPTS)


def test_an_encoder_and_directions_of_another_width_are_refused(subject: Subject, tmp_path: Path) -> None:
    (hook,) = resolve_hooks(subject, [HookPoint("resid_post", 2)])
    with pytest.raises(SubjectError, match="5 components"):
        Steering(subject, hook, torch.zeros(3, 5), SteeringConfig())
    encoder = load_subject(tiny_bert(tmp_path), SubjectConfig(device="cpu"))
    with pytest.raises(SubjectError, match="encoder"):
        Steering(encoder, hook, torch.zeros(3, hook.width), SteeringConfig())


def test_the_decoder_of_a_published_autoencoder_steers_where_it_writes(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "llama")
    sae = new_autoencoder(StandardConfig(width=64), MLP_WIDTH, WIDTH)

    def build(draft: Draft) -> Summary:
        with draft.stage(WEIGHTS_NAME) as path:
            save_weights(sae, path)
        draft.write(CONFIG_NAME, config_json(sae, "mlp_act.1", 1.0, "mlp_out.1"))
        return {}

    artifact = produce(
        open_store(str(tmp_path / "store")), Recipe(kind="sae", config={}, inputs={}), "train", build
    ).artifact
    steering = open_steering(artifact, source, SubjectConfig(device="cpu"), SteeringConfig())
    assert str(steering.hook.point) == "mlp_out.1"
    assert torch.equal(steering.directions_FD, sae.W_dec)
