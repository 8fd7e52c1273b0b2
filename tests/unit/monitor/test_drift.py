"""Tests of drift: what is told of a change, of which stream, and that a saved state goes on as if it had not ended."""

import numpy as np
import pytest

from mistudio.errors import DamagedArtifact, InputError
from mistudio.monitor.drift.changes import MOST_LISTED
from mistudio.monitor.drift.detector import DriftConfig, DriftDetector
from mistudio.monitor.records import Origin
from tests.support.firing import URI, drawn, observation, profile_of

SHARES = [0.0, 0.01, 0.3, 0.9]
CANARY = Origin(model="m", endpoint="canary")
CONFIG = DriftConfig(texts_per_false_alarm=1e5)


def _detector(config: DriftConfig = CONFIG, shares: list[float] = SHARES, texts: int = 20_000) -> DriftDetector:
    return DriftDetector(profile_of(shares, texts), config, lambda uri, number: f"label {number}")


def test_a_feature_that_never_fired_and_now_does_in_one_text_of_a_hundred_is_told_once_with_its_figures() -> None:
    detector = _detector()
    assert detector.update(list(drawn(SHARES, 500, seed=1))) == []
    alerts = detector.update(list(drawn([0.02, *SHARES[1:]], 1000, seed=2, first=500)))
    (alert,) = alerts
    assert alert.watched == (f"{URI}#0",)
    assert (alert.kind, alert.rule, alert.origin) == ("drift", "drift", Origin(model="m", endpoint="predictor"))
    values = alert.values
    assert values["direction"] == "up"
    assert values["before"] == 0 == values["reference"]
    assert values["now_low"] < 0.02 < values["now_high"]
    assert values["log10_e"] >= values["log10_needed"] == pytest.approx(np.log10(4e5))
    assert values["texts_per_false_alarm"] == 1e5
    assert "label 0" in alert.message
    assert values["since_text"] >= 500


def test_a_feature_that_falls_silent_is_told_although_nothing_happens_any_more() -> None:
    detector = _detector()
    alerts = detector.update(list(drawn([0.0, 0.01, 0.3, 0.0], 200, seed=3)))
    (alert,) = alerts
    assert alert.watched == (f"{URI}#3",)
    assert alert.values["direction"] == "down"
    assert alert.values["now"] == 0


def test_a_feature_that_fires_less_often_but_still_does_is_told_with_where_that_began() -> None:
    detector = _detector()
    detector.update(list(drawn(SHARES, 400, seed=4)))
    (alert,) = detector.update(list(drawn([0.0, 0.01, 0.3, 0.5], 400, seed=5, first=400)))
    assert alert.values["direction"] == "down"
    assert abs(alert.values["since_text"] - 400) < 40
    assert alert.values["now_low"] < 0.5 < alert.values["now_high"]


def test_a_change_below_the_tolerance_is_not_told_though_it_is_sure() -> None:
    texts = list(drawn([0.0, 0.01, 0.42, 0.9], 2000, seed=6))
    assert _detector(CONFIG.model_copy(update={"tolerance": 2.0})).update(texts) == []
    (alert,) = _detector(CONFIG.model_copy(update={"tolerance": 1.0})).update(texts)
    assert alert.watched == (f"{URI}#2",)


def test_the_list_of_changes_has_the_largest_first_and_says_what_was_told() -> None:
    detector = _detector()
    detector.update(list(drawn([0.05, 0.01, 0.43, 0.9], 300, seed=7)))
    first, second, *_ = detector.ranked(4)
    assert (first.watched, first.is_told, first.label) == (f"{URI}#0", True, "label 0")
    assert second.watched == f"{URI}#2"
    assert first.log10_e > second.log10_e
    assert not second.is_told


def test_a_new_kind_of_traffic_is_told_in_few_alerts_with_the_surest_changes_first() -> None:
    shares = [0.01] * 200
    profile, config = profile_of(shares, 20_000), CONFIG.model_copy(update={"repeat_likeness": None})
    detector = DriftDetector(profile, config)
    texts = list(drawn([0.3] * 120 + shares[120:], 200, seed=30))
    alerts = detector.update(texts)
    assert 1 < len(alerts) <= 4
    told = [change["watched"] for alert in alerts for change in alert.values["changes"]]
    assert set(told) <= {f"{URI}#{number}" for number in range(120)}
    assert len(told) == len(set(told))
    assert sum(alert.values["num_changes"] for alert in alerts) == sum(one.is_told for one in detector.ranked(200))
    largest = max(alerts, key=lambda alert: alert.values["num_changes"])
    evidence = [change["log10_e"] for change in largest.values["changes"]]
    assert largest.values["num_changes"] > len(evidence) == len(largest.watched) == MOST_LISTED
    assert evidence == sorted(evidence, reverse=True)
    assert f"and {largest.values['num_changes'] - 5:,} more" in largest.message
    restored = DriftDetector.restored(profile, config, None, None, [])
    assert [alert.id for text in texts for alert in restored.update([text])] == [alert.id for alert in alerts]


def test_an_alert_comes_again_once_it_was_acknowledged_and_not_before() -> None:
    detector = _detector()
    changed = [0.05, *SHARES[1:]]
    assert len(detector.update(list(drawn(changed, 1000, seed=8)))) == 1
    assert detector.acknowledge([f"{URI}#0"]) == 1
    assert len(detector.update(list(drawn(changed, 2000, seed=9, first=1000)))) == 1


def test_what_was_told_is_usual_after_a_new_baseline_and_the_former_state_is_then_a_change() -> None:
    detector = _detector()
    changed = [0.0, 0.01, 0.8, 0.9]
    assert len(detector.update(list(drawn(changed, 1000, seed=10)))) == 1
    assert detector.rebaseline() == 1
    assert detector.update(list(drawn(changed, 2000, seed=11, first=1000))) == []
    (alert,) = detector.update(list(drawn(SHARES, 1000, seed=12, first=3000)))
    assert (alert.watched, alert.values["direction"]) == ((f"{URI}#2",), "down")


def test_streams_are_apart_and_a_canary_is_compared_with_its_primary_too() -> None:
    detector = _detector()
    drifting, canary = [0.0, 0.01, 0.6, 0.9], [0.0, 0.01, 0.05, 0.9]
    pairs = zip(drawn(drifting, 1000, seed=13), drawn(canary, 1000, seed=14, first=5000, origin=CANARY), strict=True)
    alerts = detector.update([one for pair in pairs for one in pair])
    told = {(alert.values["group"], alert.values["direction"]) for alert in alerts}
    assert told == {("m/predictor", "up"), ("m/canary", "down"), ("m/canary against predictor", "down")}
    assert detector.groups == {"m/predictor": 1000, "m/canary": 1000}


def test_drift_of_all_traffic_is_none_of_a_canary_against_its_primary() -> None:
    detector = _detector()
    drifting = [0.0, 0.01, 0.6, 0.9]
    pairs = zip(drawn(drifting, 800, seed=15), drawn(drifting, 800, seed=16, first=5000, origin=CANARY), strict=True)
    groups = {alert.values["group"] for alert in detector.update([one for pair in pairs for one in pair])}
    assert groups == {"m/predictor", "m/canary"}


def test_streams_beyond_the_bound_are_left_out_and_counted() -> None:
    detector = _detector(CONFIG.model_copy(update={"most_groups": 1}))
    detector.update([observation(0), observation(1, origin=CANARY), observation(2, origin=CANARY)])
    assert (detector.groups, detector.num_left_out) == ({"m/predictor": 1}, 2)


def test_samples_of_one_exchange_are_one_text() -> None:
    detector = _detector()
    detector.update([observation(0, [2], sample=number, exchange="one") for number in range(5)])
    assert detector.groups == {"m/predictor": 1}
    change = next(one for one in detector.ranked(4) if one.watched == f"{URI}#2")
    assert change.num_fired <= 1


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_a_restored_detector_goes_on_to_the_same_alerts_and_the_same_bytes(batch: int) -> None:
    texts = [*drawn(SHARES, 300, seed=17), *drawn([0.03, 0.01, 0.6, 0.9], 700, seed=18, first=300)]
    texts += list(drawn(SHARES, 50, seed=19, first=5000, origin=CANARY))
    whole = _detector()
    expected = whole.update(texts)
    state, deltas, told = None, [], []
    for start in range(0, len(texts), batch * 10 if batch == 1 else batch):
        detector = DriftDetector.restored(profile_of(SHARES, 20_000), CONFIG, whole._label, state, deltas)
        told += detector.update(texts[start : start + (batch * 10 if batch == 1 else batch)])
        deltas.append(detector.delta())
        if len(deltas) == 5:
            state, deltas = DriftDetector.restored(profile_of(SHARES, 20_000), CONFIG, None, state, deltas).state(), []
    assert told == expected
    assert len(told) == 2
    restored = DriftDetector.restored(profile_of(SHARES, 20_000), CONFIG, None, state, deltas)
    assert restored.state() == whole.state()


def test_what_is_added_to_a_state_is_as_small_as_what_fired() -> None:
    shares = [0.0] * 20_000
    detector = DriftDetector(profile_of(shares, 1000), CONFIG)
    detector.update([observation(0, [5, 700])])
    detector.state()
    detector.update([observation(1, [5, 19_999])])
    assert len(detector.delta()) < 2000


def test_a_state_of_another_profile_is_refused_and_a_broken_one_is_damaged() -> None:
    state = _detector().state()
    with pytest.raises(InputError, match="another reference profile"):
        DriftDetector.restored(profile_of(SHARES, 30_000, seed=1), CONFIG, None, state)
    for broken in (b"", b"x" * 50, state[:-20], state[:40] + bytes(20) + state[60:]):
        with pytest.raises(DamagedArtifact, match="cannot be read"):
            DriftDetector.restored(profile_of(SHARES, 20_000), CONFIG, None, broken)


def test_a_conversation_that_is_sent_anew_with_each_turn_is_one_text_and_tells_of_no_drift() -> None:
    shares, draw = np.full(400, 0.15), np.random.default_rng(20)
    texts = [np.flatnonzero(draw.random(400) < shares) for _ in range(80)]
    turns = [text[draw.random(len(text)) < 0.97] for text in texts for _ in range(6)]
    seen = [observation(number, turn.tolist()) for number, turn in enumerate(turns)]
    profile = profile_of(shares.tolist(), 5000)
    all_counted = DriftDetector(profile, CONFIG.model_copy(update={"repeat_likeness": None}))
    assert len(all_counted.update(seen)) > 5
    detector = DriftDetector(profile, CONFIG)
    assert detector.update(seen[:200]) == []
    detector = DriftDetector.restored(profile, CONFIG, None, None, [detector.delta()])
    assert detector.update(seen[200:]) == []
    assert 380 <= detector.num_repeats <= 400
    assert sum(detector.groups.values()) + detector.num_repeats == len(seen)


def test_texts_in_which_all_that_is_common_fires_are_no_repeats() -> None:
    detector = DriftDetector(profile_of([0.9] * 100, 1000), CONFIG)
    detector.update([observation(number, range(100)) for number in range(5)])
    assert (detector.groups, detector.num_repeats) == ({"m/predictor": 5}, 0)


def test_texts_of_a_primary_and_a_canary_are_no_repeats_of_each_other() -> None:
    detector = DriftDetector(profile_of([0.1] * 100, 1000), CONFIG)
    features = list(range(50))
    detector.update([observation(0, features), observation(1, features, CANARY), observation(2, features)])
    assert (detector.groups, detector.num_repeats) == ({"m/predictor": 1, "m/canary": 1}, 1)
