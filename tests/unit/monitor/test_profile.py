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

COLUMNS = {"score": "7a"}
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
        Profile.gathered([observation(0, max_W=(1.0,))], {URI: 5}, COLUMNS)


def test_a_shift_of_a_watched_column_is_told_by_the_cut_that_it_passes() -> None:
    draw = np.random.default_rng(0)
    profile = Profile.gathered([_scored(number, draw) for number in range(4000)], {}, COLUMNS)
    assert profile.columns is not None
    assert np.allclose(profile.columns.cut_WL, [[0.0, 1.28, 2.33]], atol=0.15)
    detector = DriftDetector(profile, QUIET)
    assert detector.update([_scored(number, draw) for number in range(1000)]) == []
    alerts = detector.update([_scored(number, draw, shift=1.5) for number in range(1000, 1400)])
    assert {alert.watched[0].partition(">")[0] for alert in alerts} == {"score"}
    assert {alert.values["direction"] for alert in alerts} == {"up"}


def test_columns_are_found_by_their_names_whatever_their_order() -> None:
    draw = np.random.default_rng(1)
    profile = Profile.gathered([_scored(number, draw) for number in range(1000)], {}, COLUMNS)
    detector = DriftDetector(profile, QUIET, identities={"other": "7b", "score": "7a"})
    for number in range(300):
        alerts = detector.update([observation(number, max_W=(9.0, float(draw.normal() - 3)))])
        if alerts:
            break
    assert alerts
    assert alerts[0].watched[0].startswith("score>")
    assert alerts[0].values["direction"] == "down"
    assert DriftDetector(profile, QUIET, identities={"other": "7b"}).num_tests == 0


def test_a_column_of_another_identity_than_that_of_the_profile_is_not_tested() -> None:
    draw = np.random.default_rng(3)
    profile = Profile.gathered([_scored(number, draw) for number in range(400)], {}, COLUMNS)
    detector = DriftDetector(profile, QUIET, identities={"score": "8a"})
    assert (detector.num_tests, detector.other_columns) == (0, ("score",))
    assert detector.update([_scored(number, draw, shift=9.0) for number in range(400)]) == []
    assert DriftDetector(profile, QUIET, identities=COLUMNS).other_columns == ()
    seen = [_scored(number, draw) for number in range(400)]
    assert Profile.gathered(seen, {}, {"score": "8a"}).digest != Profile.gathered(seen, {}, COLUMNS).digest


@pytest.mark.parametrize("is_whole", [True, False])
def test_the_tests_of_a_column_that_became_another_begin_anew_and_those_of_others_go_on(*, is_whole: bool) -> None:
    draw = np.random.default_rng(4)
    columns = {"a": "1", "b": "2", "c": "3"}

    def texts(start: int, shift: float, count: int = 100) -> list[Observation]:
        return [observation(n, max_W=draw.normal(shift, size=3)) for n in range(start, start + count)]

    def restored(identities: dict[str, str]) -> DriftDetector:
        return DriftDetector.restored(profile, QUIET, None, state, deltas, identities)

    def saved(detector: DriftDetector) -> None:
        nonlocal state
        if is_whole:
            state = detector.state()
        else:
            deltas.append(detector.delta())

    profile = Profile.gathered(texts(0, 0.0, 2000), {}, columns)
    state: bytes | None = None
    deltas: list[bytes] = []
    first = restored(columns)
    assert first.update(texts(2000, 3.0))
    saved(first)
    without = restored({**columns, "b": "other"})
    before = {one.watched: one for one in first.ranked(20)}
    left = {one.watched: one for one in without.ranked(20)}
    assert left.keys() == {name for name in before if not name.startswith("b>")}
    for name, one in left.items():
        assert (one.log10_e, one.is_told, one.now) == (before[name].log10_e, before[name].is_told, before[name].now)
    without.update(texts(3000, 3.0, 30))
    saved(without)
    back = restored(columns)
    anew = {one.watched: one for one in back.ranked(20) if one.watched.startswith("b>")}
    assert len(anew) == 3
    assert all((one.num_texts, one.is_told, one.log10_e) == (0, False, -1e3 / np.log(10)) for one in anew.values())
    assert all(one.before == pytest.approx(one.reference) for one in anew.values())
    assert {one.watched for one in back.ranked(20) if one.is_told} == {
        one.watched for one in without.ranked(20) if one.is_told
    }
    alerts = back.update(texts(4000, 3.0))
    assert any(name.startswith("b>") for alert in alerts for name in alert.watched)


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
    profile = Profile.gathered(seen, {URI: 5}, COLUMNS, {"traffic": "made up"})
    opened = open_profile(publish_profile(found.store, profile, inputs_of([found.sae])).artifact)
    assert opened.digest == profile.digest
    assert opened.about == {"traffic": "made up"}
    assert joined([Profile(), opened]).digest == profile.digest
