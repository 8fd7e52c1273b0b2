"""Steering the planted language, as small as it gets: what is chosen, and that texts are judged by their words."""

import numpy as np
import pytest

from mistudio.artifacts import Store, open_store
from mistudio.steer.evaluate.config import TextsConfig
from mistudio.verify import steering
from mistudio.verify.concepts import CLASSES
from mistudio.verify.steering import STEERED_CONCEPTS, steered, steering_rows
from tests.unit.verify.test_planted import TINY

SHORT = TextsConfig(num_prompts=8, prompt_tokens=4, new_tokens=8, num_windows=120, num_rows=16)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(str(tmp_path_factory.mktemp("store")))


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "_TEXTS", SHORT)
    monkeypatch.setattr(steering, "_SPLITS", (("train", SHORT), ("heldout", SHORT)))
    monkeypatch.setattr(steering, "STEERED_CONCEPTS", ("texture", "bird"))
    monkeypatch.setattr(steering, "_PUSHES", (0.05, 0.2))


def test_concepts_are_those_that_a_word_tells_wherever_it_stands() -> None:
    assert set(STEERED_CONCEPTS) <= set(CLASSES)
    assert {"bird", "motion", "colour"} <= set(STEERED_CONCEPTS)
    assert not {"determiner", "stop", "omen"} & set(STEERED_CONCEPTS)


@pytest.mark.usefixtures("_short")
def test_each_concept_is_steered_by_one_feature_and_by_several_with_controls_at_the_same_push(store: Store) -> None:
    alone, together = steered(store, TINY, seed=0)
    assert [each.concept for each in alone] == [each.concept for each in together] == ["texture", "bird"]
    assert all(len(each.push.features) == 1 for each in alone)
    assert all(len(each.push.features) in (1, 3, 5) for each in together)
    for each in (*alone, *together):
        assert len(each.swept) == 2
        assert each.swept[0].strength < each.swept[1].strength
        assert [one.kl for one in each.swept] == pytest.approx([0.05, 0.2], rel=0.03)
        assert 0 <= each.best.rate <= 1
        assert each.best.rate == each.best.shares_C[STEERED_PLACE[each.concept]]
        assert set(each.control) == {"difference of means", "random direction"}
        assert each.rise >= 0
        assert each.fall >= 0


STEERED_PLACE = {"texture": 0, "bird": 1}


@pytest.mark.usefixtures("_short")
def test_the_rows_say_what_is_to_be_reached_and_on_how_many_concepts_it_is(store: Store) -> None:
    rows = steering_rows(store, 1, TINY)
    asked = [line["to_reach"] for line in rows]
    assert asked == [0.8, 1.25, 0.9, 0.05, None] * 2
    assert all(isinstance(line["value"], float) and np.isfinite(line["value"]) for line in rows)
    assert "random direction" in str(rows[0]["against"])
