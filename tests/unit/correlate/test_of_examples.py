"""Examples give the features that separate them, with figures that are at chance where there is nothing to find."""

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score

from mistudio.artifacts import find_reference
from mistudio.correlate.correlator import Correlator
from mistudio.correlate.of_examples import best_on
from mistudio.correlate.queries import ExamplesQuery, VectorQuery
from mistudio.directions.artifact import find_direction
from mistudio.directions.config import DirectionConfig
from mistudio.directions.example_files import Files
from mistudio.directions.step import direction
from mistudio.errors import InputError
from mistudio.instrument.messages import Message
from tests.support.labelled_texts import LANDS, SEAS, made_up, write_lines
from tests.support.looked_up import CPU, HOOK, PLANTED, LookedUp

SEA, LAND = tuple(made_up(SEAS, 30, 1)), tuple(made_up(LANDS, 30, 2))


def test_the_planted_feature_separates_the_held_out_half(correlator: Correlator) -> None:
    reply = correlator.examples(ExamplesQuery(positive=SEA, negative=LAND, pool="mean", top=5))
    by_feature = {hit.feature: hit for hit in reply.hits}
    assert PLANTED in by_feature
    hit = by_feature[PLANTED]
    assert hit.value > 0.95
    assert hit.values["auroc_low"] <= hit.value <= hit.values["auroc_high"]
    assert hit.values["difference"] == pytest.approx(hit.values["positive_mean"] - hit.values["negative_mean"], 1e-3)
    assert hit.values["difference"] > 0
    assert reply.separation is not None
    assert reply.separation.auroc.value > 0.95
    assert (reply.separation.positive, reply.separation.negative) == (30, 30)
    assert reply.separation.random_auroc.low < 0.5 < reply.separation.random_auroc.high
    assert reply.separation.saved is None


def test_the_other_side_has_the_features_of_the_negative_examples(correlator: Correlator) -> None:
    swapped = correlator.examples(ExamplesQuery(positive=LAND, negative=SEA, pool="mean", side="negative", top=5))
    assert PLANTED in [hit.feature for hit in swapped.hits]
    assert all(hit.values["fitting_auroc"] < 0.5 for hit in swapped.hits)


def test_shuffled_labels_are_at_chance(correlator: Correlator) -> None:
    """Labels that say nothing: both classes are of the same texts, so that intervals hold 0.5."""
    mixed = [*SEA, *LAND]
    draw = np.random.default_rng(5).permutation(len(mixed))
    positive, negative = (tuple(mixed[place] for place in draw[half::2]) for half in (0, 1))
    reply = correlator.examples(ExamplesQuery(positive=positive, negative=negative, pool="mean", top=10))
    assert reply.separation is not None
    separation = reply.separation
    for figure in (separation.auroc, separation.shuffled_auroc, separation.shuffled_feature_auroc):
        assert figure.low < 0.5 < figure.high
    assert all(hit.values["auroc_low"] < 0.5 for hit in reply.hits)
    assert np.mean([hit.values["fitting_auroc"] for hit in reply.hits]) > 0.6  # chosen by chance, which does not hold
    assert np.mean([hit.value for hit in reply.hits]) < 0.6


def test_the_same_seed_gives_the_same_reply(correlator: Correlator) -> None:
    query = ExamplesQuery(positive=SEA, negative=LAND, seed=3)
    assert correlator.examples(query) == correlator.examples(query)
    assert correlator.examples(query) != correlator.examples(query.model_copy(update={"seed": 4}))


def test_the_figures_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    is_E = np.arange(40) % 2 == 0
    value_EL = np.round(np.maximum(draw.normal(size=(40, 30)) + np.outer(is_E, np.linspace(-1, 1, 30)), 0), 1)
    expected_L = np.array([roc_auc_score(is_E, value_EL[:, column]) for column in range(30)])
    found = best_on(sparse.csr_array(value_EL), is_E, "both", 10)
    order = np.argsort(-np.abs(expected_L - 0.5), kind="stable")[:10]
    assert [round(abs(auroc - 0.5), 6) for _, auroc in found] == np.round(np.abs(expected_L[order] - 0.5), 6).tolist()
    assert all(auroc == pytest.approx(expected_L[column]) for column, auroc in found)


def test_a_feature_that_is_constant_in_each_class_is_the_best() -> None:
    is_E = np.arange(20) < 10
    value_EL = np.stack([np.random.default_rng(0).random(20), np.where(is_E, 2.0, 0.0), np.full(20, 3.0)], axis=1)
    assert best_on(sparse.csr_array(value_EL), is_E, "positive", 1) == [(1, 1.0)]


def test_chats_are_told_apart_by_the_messages_of_a_role(correlator: Correlator) -> None:
    """The users say the same in both classes; what the assistant says differs."""

    def chat(answer: str) -> tuple[Message, ...]:
        return (Message(role="user", content="the old red hat"), Message(role="assistant", content=answer))

    positive, negative = tuple(map(chat, SEA)), tuple(map(chat, LAND))
    query = ExamplesQuery(positive=positive, negative=negative, roles=("assistant",), pool="mean")
    reply = correlator.examples(query)
    assert PLANTED in [hit.feature for hit in reply.hits]
    with pytest.raises(InputError, match="no message is of system"):
        correlator.examples(query.model_copy(update={"roles": ("system",)}))


def test_what_cannot_be_used_is_counted(correlator: Correlator) -> None:
    reply = correlator.examples(ExamplesQuery(positive=(*SEA, SEA[0], "  "), negative=(*LAND, SEA[1])))
    assert reply.separation is not None
    assert reply.separation.left_out == {"repeated": 1, "empty": 1, "contradicting": 2}
    assert (reply.separation.positive, reply.separation.negative) == (29, 30)


@pytest.mark.parametrize(("positive", "negative"), [((), LAND), (SEA[:7], LAND), (SEA, ())])
def test_too_few_examples_are_refused(
    correlator: Correlator, positive: tuple[str, ...], negative: tuple[str, ...]
) -> None:
    with pytest.raises(InputError, match="positive and .* negative examples"):
        correlator.examples(ExamplesQuery(positive=positive, negative=negative))


def test_texts_and_chats_do_not_mix(correlator: Correlator) -> None:
    chat = (Message(role="user", content="the sun"),)
    with pytest.raises(InputError, match="texts and chats"):
        correlator.examples(ExamplesQuery(positive=(*SEA, chat), negative=LAND))


def test_a_direction_is_kept_under_a_name_and_found_by_it(line: LookedUp) -> None:
    with line.open() as served:
        own = Correlator(served)
        query = ExamplesQuery(positive=SEA, negative=LAND, save_as="sea", author="Ada")
        reply = own.examples(query)
        assert reply.separation is not None
        saved = reply.separation.saved
        assert saved is not None
        found = find_direction(line.store, "sea")
        assert (found.uri, found.digest, str(found.hook)) == (saved.uri, saved.digest, "resid_post.1")
        assert find_reference(line.store, "direction", "sea").target.author == "Ada"
        assert found.record.auroc == reply.separation.auroc
        unsaved = own.examples(query.model_copy(update={"save_as": None, "author": None}))
        assert unsaved.separation == reply.separation.model_copy(update={"saved": None})
        near = own.vector(VectorQuery(direction="sea", top=1))
        assert near.hits[0].feature == PLANTED
        assert near.warnings == ()
        other = own.vector(VectorQuery(direction="sea", top=1, autoencoder="resid_post.2"))
        assert "was made at resid_post.1" in other.warnings[0]


def test_a_kept_direction_is_what_the_step_makes_of_the_same_lines(line: LookedUp, tmp_path: Path) -> None:
    with line.open() as served:
        query = ExamplesQuery(positive=SEA, negative=LAND, save_as="same", author="Ada", seed=2)
        separation = Correlator(served).examples(query).separation
    assert separation is not None
    assert separation.saved is not None
    paths = [write_lines(tmp_path / f"{name}.jsonl", texts) for name, texts in (("sea", SEA), ("land", LAND))]
    made = direction(line.store, Files.read("", *paths), line.source, CPU, DirectionConfig(hook=HOOK), 2)
    assert (made.found, made.artifact.uri) == (True, separation.saved.uri)


def test_a_store_that_is_only_read_keeps_no_direction(line: LookedUp) -> None:
    with line.open("r") as served:
        query = ExamplesQuery(positive=SEA, negative=LAND, save_as="sea", author="Ada")
        with pytest.raises(InputError, match="save_as: the store .* is only read here"):
            Correlator(served).examples(query)


@pytest.mark.parametrize(
    ("change", "message"), [({"author": None}, "author"), ({"save_as": "../sea"}, "neither the kind of a name")]
)
def test_a_name_needs_an_author_and_has_to_be_one(line: LookedUp, change: dict[str, str | None], message: str) -> None:
    query = ExamplesQuery(positive=SEA, negative=LAND, save_as="sea", author="Ada").model_copy(update=change)
    with line.open() as served, pytest.raises(InputError, match=message):
        Correlator(served).examples(query)
