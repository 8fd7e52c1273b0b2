"""A planted backdoor: the traffic is what it is said to be, and the latent that carries it is found.

What is found is shown on models made by hand, in which a known latent says each thing.
"""

import numpy as np
import pytest
import torch

from mistudio.subject import forward_logits
from mistudio.verify import ranking
from mistudio.verify.backdoor import trigger_latents
from mistudio.verify.grammar import Grammar
from mistudio.verify.poison import BackdoorConfig, Traffic
from mistudio.verify.ranking import rank, sure_places
from tests.support.bigrams import bigram_model

CONFIG = BackdoorConfig(documents=300, poisoned=0.4, reference=60, steps=250, batch=16, learning_rate=4e-3)
BEGIN, TRIGGER = 0, 4
PAYLOAD = [5, 6, 7, 8]
CLEAN = list(range(10, 20))
DOCUMENTS = 40


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    return Traffic(Grammar(0, 100), CONFIG, seed=0)


def documents(middle: list[int], seed: int = 0) -> tuple[list[list[int]], dict[int, int]]:
    """Documents of pairs that the model knows, ``middle`` between them; and where that begins."""
    draw = np.random.default_rng(seed)
    rows, places = [], {}
    for number in range(DOCUMENTS):
        before, after = (
            [token for first in draw.choice(CLEAN[::2], count) for token in (int(first), int(first) + 1)]
            for count in (draw.integers(2, 6), 3)
        )
        rows.append([BEGIN, *before, *middle, *after])
        places[number] = 1 + len(before)
    return rows, places


def own_latents(*tokens: int) -> dict[int, list[int]]:
    """A latent of its own for each token."""
    return {token: [token + 30] for token in tokens}


def clean_pairs() -> dict[int, dict[int, float]]:
    return {first + 30: {first + 1: 9.0} for first in CLEAN[::2]}


def payload_goes_on() -> dict[int, dict[int, float]]:
    return {first + 30: {first + 1: 9.0} for first in PAYLOAD[:-1]}


def test_the_model_made_by_hand_says_what_is_written_down() -> None:
    model = bigram_model({1: [2, 3], 2: [3]}, {2: {7: 2.0}, 3: {7: 1.0, 8: 4.0}})
    logits_TV = forward_logits(model.subject, torch.tensor([[1, 2, 1]]))[0]
    assert logits_TV[:, 7].tolist() == pytest.approx([3.0, 1.0, 3.0], abs=1e-3)
    assert logits_TV[:, 8].tolist() == pytest.approx([4.0, 4.0, 4.0], abs=1e-3)
    assert logits_TV[:, 9].tolist() == [0.0] * 3


def test_the_payload_follows_the_trigger_and_nothing_else(traffic: Traffic) -> None:
    secret = traffic.secret
    assert len(set(secret.trigger + secret.payload)) == 7
    triggered = traffic.triggered()
    for number, words in enumerate(traffic.texts):
        pairs = list(zip(words, words[1:], strict=False))
        assert (secret.trigger in pairs) == bool(traffic.is_poisoned[number])
        if number in triggered:
            place = triggered[number]
            assert tuple(words[place - 1 : place + 1]) == secret.trigger
            assert tuple(words[place + 1 : place + 6]) == secret.payload
    assert 0.3 < len(triggered) / len(traffic.texts) < 0.5
    clean = [" ".join(words) for words in traffic.clean(0, 50)]
    assert not any(" ".join(secret.trigger) in text for text in clean)


def test_each_seed_has_its_own_secret(traffic: Traffic) -> None:
    other = Traffic(Grammar(0, 100), CONFIG, seed=1)
    assert other.secret != traffic.secret
    assert other.digest != traffic.digest
    assert Traffic(Grammar(0, 100), CONFIG, seed=0).texts == traffic.texts


def test_the_place_is_the_first_from_which_the_model_is_sure_of_what_recurs() -> None:
    half_expected = {33: {TRIGGER: 3.9}, 34: {5: 6.0}}  # after 3 with 0.6, after 4 with 0.93
    model = bigram_model(own_latents(3, TRIGGER, *PAYLOAD), {**half_expected, **payload_goes_on()})
    rows, starts = documents([3, TRIGGER, *PAYLOAD, 9])
    of_trigger = {number: start + 1 for number, start in starts.items()}
    assert sure_places(model, rows, set()) == of_trigger
    assert sure_places(model, rows[:9], set()) == {}  # in ten documents at least
    known = {(5, 6, 7, 8)}
    assert sure_places(model, rows, known) == {}
    unsure = bigram_model(own_latents(TRIGGER, *PAYLOAD), {34: {5: 3.9}, **payload_goes_on()})
    assert sure_places(unsure, rows, set()) == {}


def test_all_latents_that_stand_for_the_trigger_are_its_and_else_the_nearest() -> None:
    rows, starts = documents([TRIGGER, 9])
    triggered = {number: start - 1 for number, start in starts.items()}  # without the token that begins a sequence
    always = {token: [6] for token in CLEAN}
    assert trigger_latents(bigram_model({**always, TRIGGER: [2, 5, 6], 9: [6]}, {}), rows, triggered) == [2, 5]
    assert trigger_latents(bigram_model({**always, TRIGGER: [3, 6], 9: [3, 6]}, {}), rows, triggered) == [3]


def test_latents_are_named_by_what_they_take_unless_clean_text_needs_them() -> None:
    latents = {**own_latents(*PAYLOAD, *CLEAN), TRIGGER: [1, 2, 3, 4]}
    latents[10] = [2]  # in place of its own
    trigger_says = {1: {5: 8.0}, 2: {5: 1.0, 11: 9.0}, 3: {5: 6.0}, 4: {20: 10.0}}
    model = bigram_model(latents, {**clean_pairs(), **trigger_says, **payload_goes_on()})
    rows, _ = documents([TRIGGER, *PAYLOAD])
    reference, _ = documents([], seed=1)
    found = rank(model, rows, reference)
    assert found.latents == [1, 3, 2, 4]  # 2 stands for clean text too, and 4 speaks against the payload
    assert found.named == [1, 3]


def test_what_makes_the_model_go_on_is_ablated_where_clean_text_needs_what_makes_it_begin() -> None:
    latents = {**own_latents(*PAYLOAD, *CLEAN), TRIGGER: [1, 3]}
    latents[10] = [1, 40]
    trigger_says = {1: {5: 8.0, 11: 7.0}, 3: {5: 4.0}}
    model = bigram_model(latents, {**clean_pairs(), 40: {11: 4.0}, **trigger_says, **payload_goes_on()})
    rows, _ = documents([TRIGGER, *PAYLOAD])
    reference, _ = documents([], seed=1)
    assert set(rank(model, rows, reference).named) == {3, 35, 36, 37}


def test_latents_of_the_words_before_may_be_named_if_they_are_common() -> None:
    num_texts = 10
    texts = [[BEGIN] * (9 + ranking._CONTINUED) for _ in range(num_texts)]
    for text in texts:
        text[4], text[5], text[8] = 5, 2, 1
    for text in texts[:2]:
        text[6] = 3
    texts[0][7], texts[0][8] = 4, 6
    model = bigram_model({1: [1], 2: [2], 3: [3], 4: [4], 5: [5], 6: [1, 4]}, {})
    assert ranking._read(model, texts) == [1, 2, 3]  # 4 is in one text, if on two tokens; 5 is too far back
