"""Rules on traffic whose truth is planted: what is told, when, once, and the same after a replay."""

import json
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from mistudio.errors import ConfigError, InputError
from mistudio.monitor.records import Alert, Observation
from mistudio.monitor.rules.rule_book import RuleBook
from mistudio.monitor.rules.rules import Rules, ThresholdRule, read_rules
from tests.support.watched import observation, rules, watch_list

OVER_A = {"kind": "threshold", "watched": "a"}
OFTEN_A = {"kind": "rate", "watched": "a", "share": 0.1, "last_exchanges": 20, "min_exchanges": 10}


def told(asked: Rules, seen: Iterable[Observation]) -> list[Alert]:
    book = RuleBook(asked, watch_list())
    return [alert for one in seen for alert in book.update(one)]


def exchanges(alerts: Iterable[Alert]) -> list[str]:
    return [f"{'end ' if alert.is_end else ''}{alert.exchange}" for alert in alerts]


def test_each_exchange_over_the_threshold_is_told_with_value_and_place() -> None:
    alerts = told(rules(OVER_A), [observation(1, 0.5), observation(2, 3.0), observation(3, 1.0), observation(4, 2.0)])
    assert exchanges(alerts) == ["x2", "x4"]
    assert alerts[0].values == {"value": 3.0, "over": 1.0, "place": 7}
    assert alerts[0].watched == ("a",)
    assert alerts[0].message == "a is at 3, over 1."
    assert alerts[0].time == 2.0


def test_samples_of_one_exchange_are_one_exchange() -> None:
    seen = [observation(n, 3.0, sample=sample) for n in range(20) for sample in range(3)]
    assert len(told(rules(OVER_A), seen)) == 20
    (alert,) = told(rules(OFTEN_A), seen)
    assert alert.values["exchanges"] == alert.values["hits"] == 10


def test_a_second_sample_over_the_threshold_counts_the_exchange() -> None:
    seen = [observation(n, value, sample=sample) for n in range(12) for sample, value in enumerate((0.0, 3.0))]
    (alert,) = told(rules(OFTEN_A), seen)
    assert alert.exchange == "x9"
    assert (alert.values["exchanges"], alert.values["hits"]) == (10, 9)


def test_hysteresis_tells_the_beginning_and_the_end() -> None:
    rule = {**OVER_A, "off": 0.5, "off_after": 2}
    values = [0.0, 2.0, 3.0, 0.7, 0.4, 0.7, 0.4, 0.3, 0.2, 2.0]
    alerts = told(rules(rule), [observation(n, value) for n, value in enumerate(values)])
    assert exchanges(alerts) == ["x1", "end x7", "x9"]


def test_a_cool_down_keeps_alerts_back_and_says_how_many() -> None:
    alerts = told(rules({**OVER_A, "cool_down_s": 10}), [observation(n, 2.0) for n in range(25)])
    assert exchanges(alerts) == ["x0", "x10", "x20"]
    assert [alert.values.get("kept_back") for alert in alerts] == [None, 9, 9]


def test_what_still_holds_is_told_when_the_cool_down_is_over() -> None:
    rule = {**OVER_A, "off": 0.5, "cool_down_s": 10}
    values = [2.0, 0.0, *[2.0] * 20]
    alerts = told(rules(rule), [observation(n, value) for n, value in enumerate(values)])
    assert exchanges(alerts) == ["x0", "end x1", "x10"]
    assert alerts[-1].values["kept_back"] == 1


def test_a_share_of_the_last_exchanges() -> None:
    hits = {5, 12, 14, 40}
    alerts = told(rules(OFTEN_A), [observation(n, 2.0 if n in hits else 0.0) for n in range(60)])
    assert exchanges(alerts) == ["x12", "end x25"]
    assert alerts[0].values == {"share": pytest.approx(2 / 13), "over": 0.1, "exchanges": 13, "hits": 2}


def test_a_share_of_the_last_seconds_of_traffic() -> None:
    rule = {"kind": "rate", "watched": "a", "share": 0.5, "off_share": 0.1, "last_s": 60, "min_exchanges": 4}
    seen = [observation(n, 2.0, time=1000.0 + n) for n in range(5)]
    seen += [observation(10 + n, 0.0, time=1010.0 + 10 * n) for n in range(8)]
    alerts = told(rules(rule), seen)
    assert exchanges(alerts) == ["x3", "end x16"]
    assert alerts[1].values["hits"] == 0


def test_what_comes_late_counts_where_it_belongs() -> None:
    rule = {"kind": "rate", "watched": "a", "share": 0.5, "last_s": 60, "min_exchanges": 3}
    late = [observation(1, 0.0, time=500.0), *[observation(n, 2.0, time=500.0 - n) for n in (10, 20, 400)]]
    (alert,) = told(rules(rule), late)
    assert alert.values == {"share": pytest.approx(2 / 3), "over": 0.5, "exchanges": 3, "hits": 2}


@pytest.mark.parametrize(("at_least", "hit"), [("all", ["x3"]), ("any", ["x1", "x2", "x3"]), (2, ["x2", "x3"])])
def test_sets_of_columns(at_least: object, hit: list[str]) -> None:
    rule = {"kind": "set", "watched": ["a", "b", "c"], "at_least": at_least}
    seen = [observation(0), observation(1, 2.0), observation(2, 2.0, 0, 2.0), observation(3, 2.0, 2.0, 2.0)]
    alerts = told(rules(rule), seen)
    assert exchanges(alerts) == hit
    assert alerts[-1].watched == ("a", "b", "c")


def test_reply_and_prompt_and_largest_values_are_looked_at_as_asked() -> None:
    asked = rules(
        {**OVER_A, "part": "reply", "above": 1},
        {**OVER_A, "part": "prompt", "above": 1},
        {**OVER_A, "watched": "top"},
    )
    seen = [
        observation(0, 3.0, reply=(0.0,), top=(0.5,)),
        observation(1, 0.0, reply=(3.0,), top=(0.5,)),
        observation(2, 0.0, 0.0, 0.0, 3.0, top=(0.0, 0.0, 0.0, 2.0)),
        observation(3, 3.0, top=(0.5,)),
    ]
    alerts = told(asked, seen)
    assert [(alert.rule, alert.exchange) for alert in alerts] == [
        ("r1", "x0"),
        ("r0", "x1"),
        ("r2", "x2"),
        ("r1", "x3"),
    ]


def test_only_traffic_from_where_the_rule_says_counts() -> None:
    rule = {**OVER_A, "where": {"endpoint": ["canary"], "tenant": ["x", "y"]}}
    seen = [
        observation(0, 2.0, endpoint="predictor", tenant="x"),
        observation(1, 2.0, endpoint="canary", tenant="x"),
        observation(2, 2.0, endpoint="canary", tenant="z"),
    ]
    assert exchanges(told(rules(rule), seen)) == ["x1"]


def test_a_rule_is_not_named_as_alerts_of_drift_are() -> None:
    with pytest.raises(ValueError, match="drift is what alerts of drift are named: give the rule another name"):
        Rules(rules=(ThresholdRule(kind="threshold", name="drift", watched="a", above=1.0),))


def test_each_tenant_has_a_window_of_its_own_and_the_alert_names_it() -> None:
    seen = [observation(n, 2.0 if n % 2 else 0.0, tenant="odd" if n % 2 else "even", model="m") for n in range(40)]
    (alert,) = told(rules({**OFTEN_A, "each": ["tenant"]}), seen)
    assert alert.origin.tenant == "odd"
    assert alert.origin.model == ""
    assert alert.values["share"] == 1.0


def test_more_values_than_a_rule_tells_apart_share_a_state_and_are_counted() -> None:
    book = RuleBook(rules({**OFTEN_A, "each": ["tenant"], "max_groups": 2}), watch_list())
    alerts = [alert for n in range(60) for alert in book.update(observation(n, 2.0, tenant=f"t{n % 6}"))]
    (status,) = book.status()
    assert status["groups"] == 2
    assert status["overflow"] == 40
    assert sorted(alert.origin.tenant for alert in alerts) == ["", "t0", "t1"]
    day = 86_400.0
    book.update(observation(100, 0.0, time=2 * day, tenant="new"))
    assert book.status()[0]["overflow"] == 41  # t0 and t1 are on: they do not make room


def test_a_value_that_was_not_met_for_long_makes_room() -> None:
    book = RuleBook(rules({**OFTEN_A, "each": ["tenant"], "max_groups": 2}), watch_list())
    for n, tenant in enumerate(("a", "b")):
        book.update(observation(n, 0.0, tenant=tenant))
    book.update(observation(9, 0.0, time=200_000.0, tenant="c"))
    assert book.status()[0]["overflow"] == 0
    assert book.status()[0]["groups"] == 2


EVERY_KIND = rules(
    {**OVER_A, "cool_down_s": 5},
    {**OVER_A, "off": 0.4, "off_after": 2, "each": ["tenant"]},
    {**OFTEN_A, "share": 0.3},
    {"kind": "rate", "watched": "b", "share": 0.3, "last_s": 30, "min_exchanges": 5, "each": ["tenant", "model"]},
    {"kind": "set", "watched": ["a", "b"], "at_least": 2},
)


def traffic(count: int = 300) -> list[Observation]:
    draw = random.Random(4)
    return [
        observation(n, draw.random() * 1.6, draw.random() * 1.6, time=n * 0.7, tenant=draw.choice("xyz"))
        for n in range(count)
    ]


def test_a_replay_gives_the_same_alerts_and_no_two_have_one_id() -> None:
    first, again = (told(EVERY_KIND, traffic()) for _ in range(2))
    assert first == again
    assert len({alert.id for alert in first}) == len(first) > 50
    assert {alert.kind for alert in first} == {"threshold", "rate", "set"}


@pytest.mark.parametrize("cut", [1, 77, 150, 299])
def test_a_book_goes_on_from_its_state_as_if_it_had_never_been_put_down(cut: int) -> None:
    whole = told(EVERY_KIND, traffic())
    book = RuleBook(EVERY_KIND, watch_list())
    alerts = [alert for one in traffic()[:cut] for alert in book.update(one)]
    state = book.state()
    assert state == RuleBook.restored(EVERY_KIND, watch_list(), state).state()
    book = RuleBook.restored(EVERY_KIND, watch_list(), state)
    assert alerts + [alert for one in traffic()[cut:] for alert in book.update(one)] == whole


def test_rules_that_stay_the_same_keep_their_state_and_others_begin_anew() -> None:
    book = RuleBook(rules({**OFTEN_A, "name": "kept"}, {**OFTEN_A, "name": "changed"}), watch_list())
    for n in range(8):
        book.update(observation(n, 2.0))
    other = rules({**OFTEN_A, "name": "changed", "share": 0.2}, {**OFTEN_A, "name": "kept"})
    state = book.state()
    changed = book.replaced(other)
    alerts = [alert for n in range(8, 12) for alert in changed.update(observation(n, 2.0))]
    assert [(alert.rule, alert.exchange) for alert in alerts] == [("kept", "x9")]
    restored = RuleBook.restored(other, watch_list(), state)
    assert [one["exchanges"] for one in restored.status()] == [0, 8]


def test_a_threshold_that_was_calibrated_anew_begins_anew() -> None:
    book = RuleBook(rules(OFTEN_A), watch_list())
    book.update(observation(0, 2.0))
    again = RuleBook.restored(rules(OFTEN_A), watch_list({"a": 1.5}), book.state())
    assert again.status()[0]["exchanges"] == 0


def test_a_rule_whose_column_reads_something_else_begins_anew_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    asked = rules({**OFTEN_A, "name": "of-a"}, {**OFTEN_A, "name": "of-b", "watched": "b"})
    book = RuleBook(asked, watch_list(), identities={"a": "1", "b": "2"})
    book.update(observation(0, 2.0, 2.0))
    state = book.state()
    again = RuleBook.restored(asked, watch_list(), state, identities={"a": "1", "b": "other"})
    assert [one["exchanges"] for one in again.status()] == [1, 0]
    assert [record.getMessage() for record in caplog.records] == [
        "Rule of-b begins anew: b now reads something else than before."
    ]


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"name": "loud", "watched": "a"}, "'loud' has no kind: give kind, one of rate, set, threshold"),
        ({"name": "loud", "kind": "often"}, "'loud' has kind 'often': give kind, one of rate, set, threshold"),
        ({"watched": "a"}, "rules.0: has no kind: give kind, one of"),
    ],
)
def test_a_rule_without_a_kind_is_refused_with_its_name_and_the_kinds_there_are(
    rule: dict[str, str], says: str, tmp_path: Path
) -> None:
    (tmp_path / "rules.json").write_text(json.dumps({"rules": [rule]}))
    with pytest.raises(ConfigError) as refused:
        read_rules(tmp_path / "rules.json")
    assert says in str(refused.value)
    (tmp_path / "rules.json").write_text(json.dumps({"actions": {"page": {"url": "https://a.example"}}}))
    with pytest.raises(ConfigError, match="actions.page: has no do: give do, one of cloud_event, stop, webhook"):
        read_rules(tmp_path / "rules.json")


def test_rules_that_cannot_be_are_refused_as_a_whole_and_the_book_stays() -> None:
    book = RuleBook(rules(OVER_A), watch_list({"a": 1.0}))
    with pytest.raises(ConfigError, match="Rule r1 looks at nobody, which is not watched; the list has a, b, c, top"):
        book.replaced(rules(OVER_A, {**OVER_A, "watched": "nobody"}))
    with pytest.raises(ConfigError, match="looks at b, which has no threshold: give the rule above"):
        book.replaced(rules({**OVER_A, "watched": "b"}))
    with pytest.raises(ConfigError, match="largest values of a, of which only the largest is read"):
        book.replaced(rules({**OVER_A, "pool": "top", "above": 1}))
    assert exchanges(book.update(observation(1, 2.0))) == ["x1"]


@pytest.mark.parametrize("state", [b"", b"{}", b'{"version":1,"rules":{}}', b'{"version":2,"rules":{"r0":{}}}', b"[1]"])
def test_a_state_that_is_none_is_refused(state: bytes) -> None:
    with pytest.raises(InputError, match="begin a new one"):
        RuleBook.restored(rules(OVER_A), watch_list(), state)


def test_the_state_is_json_and_does_not_grow_with_traffic() -> None:
    book = RuleBook(EVERY_KIND, watch_list())
    sizes = []
    for _ in range(3):
        for one in traffic():
            book.update(one)
        sizes.append(len(book.state()))
    assert json.loads(book.state())["version"] == 2
    assert sizes[2] < 1.1 * sizes[1]
