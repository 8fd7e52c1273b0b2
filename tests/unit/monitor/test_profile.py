"""Reference profiles: what is counted, from traffic and from captured activations, and that artifacts keep it."""

import numpy as np
import pytest

from mistudio.artifacts import Catalog
from mistudio.errors import InputError
from mistudio.monitor.drift.detector import DriftConfig, DriftDetector
from mistudio.monitor.drift.profile import Profile
from mistudio.monitor.drift.profile_artifact import (
    ProfileConfig,
    inputs_of,
    joined,
    line_profile,
    open_profile,
    publish_profile,
    usual_of,
)
from mistudio.monitor.drift.stored_firing import stored_firing
from mistudio.monitor.records import Observation
from tests.support.firing import URI, observation
from tests.support.served import tiny_store

NAMES = ("score",)
QUIET = DriftConfig(texts_per_false_alarm=1e5)


def _scored(number: int, draw: np.random.Generator, shift: float = 0.0) -> Observation:
    return observation(number, max_W=(float(draw.normal() + shift),))


def test_samples_of_an_exchange_are_one_text_and_tokens_are_summed() -> None:
    seen = [observation(0, [1, 2], exchange="a"), observation(0, [2, 3], sample=1, exchange="a"), observation(1, [2])]
    fired = Profile.gathered(seen, {URI: 5}).fired[URI]
    assert (fired.num_texts, fired.num_tokens) == (2, 30)
    assert fired.texts_F.tolist() == [0, 1, 2, 1, 0]
    assert fired.tokens_F.tolist() == [0, 1, 3, 1, 0]


def test_a_feature_of_another_autoencoder_and_an_empty_reference_are_refused() -> None:
    with pytest.raises(InputError, match="Feature 7 fired"):
        Profile.gathered([observation(0, [7])], {URI: 5})
    with pytest.raises(InputError, match="No text was read"):
        Profile.gathered([], {URI: 5})
    with pytest.raises(InputError, match="too few"):
        Profile.gathered([observation(0, max_W=(1.0,))], {URI: 5}, NAMES)


def test_a_shift_of_a_watched_column_is_told_by_the_cut_that_it_passes() -> None:
    draw = np.random.default_rng(0)
    profile = Profile.gathered([_scored(number, draw) for number in range(4000)], {}, NAMES)
    assert profile.columns is not None
    assert np.allclose(profile.columns.cut_WL, [[0.0, 1.28, 2.33]], atol=0.15)
    detector = DriftDetector(profile, QUIET)
    assert detector.update([_scored(number, draw) for number in range(1000)]) == []
    alerts = detector.update([_scored(number, draw, shift=1.5) for number in range(1000, 1400)])
    assert {alert.watched[0].partition(">")[0] for alert in alerts} == {"score"}
    assert {alert.values["direction"] for alert in alerts} == {"up"}


def test_columns_are_found_by_their_names_whatever_their_order() -> None:
    draw = np.random.default_rng(1)
    profile = Profile.gathered([_scored(number, draw) for number in range(1000)], {}, NAMES)
    detector = DriftDetector(profile, QUIET, names=("other", "score"))
    for number in range(300):
        alerts = detector.update([observation(number, max_W=(9.0, float(draw.normal() - 3)))])
        if alerts:
            break
    assert alerts
    assert alerts[0].watched[0].startswith("score>")
    assert alerts[0].values["direction"] == "down"
    assert DriftDetector(profile, QUIET, names=("other",)).num_tests == 0


def test_what_is_usual_in_captured_activations_is_what_their_autoencoder_gives(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    found = tiny_store(tmp_path_factory)
    with Catalog(found.store) as catalog:
        line = catalog.newest_line()
    made = line_profile(line, ProfileConfig(split="train", unit="sequence"))
    assert line_profile(line, ProfileConfig(split="train", unit="sequence")).found
    own = open_profile(made.artifact).fired[line.sae.uri]
    each = [(set(fired.feature_A.tolist()), tokens) for fired, tokens in stored_firing(line, "train", "sequence")]
    assert own.num_texts == len(each)
    assert own.num_tokens == sum(tokens for _, tokens in each)
    assert own.texts_F.tolist() == [sum(number in fired for fired, _ in each) for number in range(64)]
    assert own.tokens_F.sum() == 6 * own.num_tokens  # TopK with k 6: each token has as many
    documents = usual_of(line, ProfileConfig(split="train", unit="document")).fired[line.sae.uri]
    assert documents.num_tokens == own.num_tokens
    assert documents.num_texts < own.num_texts


def test_an_artifact_keeps_a_profile_of_traffic_with_its_columns(tmp_path_factory: pytest.TempPathFactory) -> None:
    found = tiny_store(tmp_path_factory)
    draw = np.random.default_rng(2)
    seen = [observation(number, [number % 3], max_W=(float(draw.normal()),)) for number in range(300)]
    profile = Profile.gathered(seen, {URI: 5}, NAMES, {"traffic": "made up"})
    opened = open_profile(publish_profile(found.store, profile, inputs_of([found.sae])).artifact)
    assert opened.digest == profile.digest
    assert opened.about == {"traffic": "made up"}
    assert joined([Profile(), opened]).digest == profile.digest
