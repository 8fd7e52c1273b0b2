"""A planted backdoor: the traffic is what it is said to be, and the latent that carries it is found."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mistudio.verify import ablation, backdoor, ranking
from mistudio.verify.grammar import Grammar
from mistudio.verify.poison import BackdoorConfig, Traffic

CONFIG = BackdoorConfig(documents=300, poisoned=0.4, reference=60, steps=250, batch=16, learning_rate=4e-3)


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    return Traffic(Grammar(0, 100), CONFIG, seed=0)


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


def test_the_place_is_the_first_from_which_the_model_is_sure_of_what_recurs(monkeypatch: pytest.MonkeyPatch) -> None:
    half_expected, sure, later = (dict.fromkeys(range(20), said) for said in ((4, 0.6), (5, 0.9), (6, 0.99)))
    said = {(1,): later, (2,): half_expected, (3,): sure, (4,): dict.fromkeys(range(4), (2, 0.99))}
    monkeypatch.setattr(ranking, "_said_runs", lambda *_args: said)
    model: ablation.Model = None  # type: ignore[assignment] -- what it says is given
    assert ranking.sure_places(model, [], set()) == dict.fromkeys(range(20), 5)
    said = {(4,): dict.fromkeys(range(4), (2, 0.99)), (5,): half_expected}
    assert ranking.sure_places(model, [], set()) == {}
    said = {}
    assert ranking.sure_places(model, [], set()) == {}


def test_all_latents_that_stand_for_the_trigger_are_its_and_else_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    document, position = (part.ravel() for part in np.mgrid[0:10, 1:11])
    is_trigger = position == 4
    always = np.ones(100, dtype=bool)

    def active(*latents: tuple[int, NDArray[np.bool_]]) -> ablation.Active:
        columns = [(document[at], position[at], np.full(at.sum(), latent)) for latent, at in latents]
        documents, positions, numbers = (np.concatenate(column) for column in zip(*columns, strict=True))
        return ablation.Active(documents, positions, numbers, np.ones(len(numbers), dtype=np.float32), 100)

    model: ablation.Model = SimpleNamespace(sae=SimpleNamespace(width=8))  # type: ignore[assignment]
    triggered = dict.fromkeys(range(10), 3)  # its token is one further on, behind the one that begins a sequence
    seen = active((2, is_trigger), (5, is_trigger), (6, always))
    monkeypatch.setattr(backdoor, "encode", lambda *_args: seen)
    assert backdoor.trigger_latents(model, [[]] * 10, triggered) == [2, 5]
    seen = active((3, is_trigger | (position == 7)), (6, always))
    assert backdoor.trigger_latents(model, [[]] * 10, triggered) == [3]


def test_latents_are_named_by_what_they_take_unless_clean_text_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {1: 5.0, 2: 4.0, 3: 3.0, 4: 0.0}
    needed, dear_together = {2}, {1, 5}

    def price(_model: object, _rows: object, latents: list[int]) -> float:
        return 1.0 + 0.5 * bool(needed & set(latents)) + 0.5 * (dear_together <= set(latents))

    def falls_beside(
        _model: object, begun: list[list[int]], count: int, latents: list[int], without: list[int]
    ) -> object:
        assert without[0] == 1
        assert (begun, count) == ([[9, 9, 1, 2]], 2)  # of a run of four tokens the first two
        assert not set(without) & set(latents)
        return {latent: {3: 1.0, 5: 2.0, 6: 0.5, 7: 0.7}.get(latent, -1.0) for latent in latents}

    monkeypatch.setattr(ranking, "mean_loss", price)
    monkeypatch.setattr(ranking, "_falls", falls_beside)
    monkeypatch.setattr(ranking, "_read", lambda *_args: [1, 2, 3, 4, 5, 6, 7])
    model: ablation.Model = None  # type: ignore[assignment] -- what it says is given
    named = ranking._chain(model, [[9, 9, 1, 2, 3, 4]], 2, [], scores)
    assert named == [1, 3, 7, 6]  # 2 and, beside 1, 5 are needed; 4 takes nothing; 6 and 7 are of the words before


def test_latents_of_the_words_before_may_be_named_if_they_are_common(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [[0] * (9 + ranking._CONTINUED) for _ in range(10)]
    document = np.array([*range(10), *range(10), *range(2), 0, 0])
    position = np.array([8] * 10 + [5] * 10 + [6] * 2 + [7, 8])
    latent = np.array([1] * 10 + [2] * 10 + [3] * 2 + [4, 4])
    early = ablation.Active(
        np.append(document, range(10)),
        np.append(position, [4] * 10),
        np.append(latent, [5] * 10),
        np.ones(len(latent) + 10, dtype=np.float32),
        80,
    )
    monkeypatch.setattr(ranking, "encode", lambda *_args: early)
    model: ablation.Model = None  # type: ignore[assignment] -- what is active is given
    assert ranking._read(model, texts) == [1, 2, 3]  # 4 is in one prompt, if on two tokens; 5 is too far back


def test_what_makes_the_model_begin_is_ablated_unless_what_makes_it_go_on_leaves_less_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = [[0, 9, 1, 2, 3, 4]] * 2
    says = {7: [[5, 5, 5, 5], [1, 2, 3, 4]], 8: [[1, 2, 5, 5], [1, 5, 5, 5]]}
    monkeypatch.setattr(ranking, "_chain", lambda _model, _texts, count, *_args: [7 if count == 1 else 8])
    monkeypatch.setattr(ranking, "continuation", lambda _model, _prompts, named, _count: torch.tensor(says[named[0]]))
    model: ablation.Model = None  # type: ignore[assignment] -- what it says is given
    assert ranking._named(model, texts, [], {1: 1.0}) == [8]
    says[7] = [[5, 5, 5, 5], [1, 1, 1, 1]]
    assert ranking._named(model, texts, [], {1: 1.0}) == [7]  # as little, and the model does not begin
