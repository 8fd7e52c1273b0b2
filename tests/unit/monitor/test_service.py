"""The monitor's service: what goes wrong is counted and ends nothing, and what cannot go on is seen."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mistudio.artifacts.record import actions
from mistudio.errors import ConfigError, InputError
from mistudio.instrument.served import Served
from mistudio.monitor.config import MonitorConfig
from mistudio.monitor.direct_requests import Asked
from mistudio.monitor.records import Exchange, Observation
from mistudio.monitor.rules.rules import Rules
from mistudio.monitor.service import MonitorService
from mistudio.monitor.traffic.inlet import Inlet
from mistudio.monitor.traffic.parquet_source import RecordedTraffic
from mistudio.settings import validated
from tests.support.logged_events import agent_headers
from tests.support.served import tiny_store
from tests.support.watched import rules

POISON = "poison"
ANY = {"kind": "threshold", "watched": "f3", "above": -1.0}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with tiny_store(tmp_path_factory).open() as opened:
        yield opened


def config(folder: Path, **given: Any) -> MonitorConfig:
    path = folder / "watch.json"
    path.write_text(json.dumps({"watched": [{"name": f"f{number}", "feature": number} for number in (3, 17)]}))
    return validated(
        MonitorConfig, {"watch_list": path, "folder": folder / "monitor", "traffic": {"logs": "request"}, **given}
    )


def send(service: MonitorService, id_: str, prompt: str = "the cat sat") -> None:
    service.take(agent_headers("request", id_), json.dumps({"prompt": prompt}).encode())


def until(found: Callable[[], Any]) -> Any:
    for _ in range(1200):
        if value := found():
            return value
        threading.Event().wait(0.025)
    raise TimeoutError


def break_on(service: MonitorService, is_broken: Callable[[Exchange], bool]) -> None:
    """Let reading fail as a defect of the model's would, by which exchanges it is given."""
    watcher = service._worker._watcher
    reads = watcher.observe

    def observe(exchanges: Sequence[Exchange]) -> list[Observation]:
        if any(map(is_broken, exchanges)):
            message = "a kernel failed"
            raise RuntimeError(message)
        return reads(exchanges)

    watcher.observe = observe  # type: ignore[method-assign]


def test_an_exchange_that_cannot_be_read_is_set_aside_and_those_beside_it_are_read(
    served: Served, tmp_path: Path
) -> None:
    service = MonitorService(served, config(tmp_path))
    break_on(service, lambda exchange: exchange.id == POISON)
    for id_ in ("a", POISON, "b"):
        send(service, id_)  # before it begins, so that they are taken together
    with service:
        until(lambda: service.stats().samples == 2)
        stats = service.stats()
        assert (stats.set_aside, stats.failures, service.is_alive) == (1, {}, True)
        assert {one.exchange for one in service.history.samples()} == {"a", "b"}


def test_where_nothing_can_be_read_any_more_the_worker_ends_and_that_is_seen(served: Served, tmp_path: Path) -> None:
    service = MonitorService(served, config(tmp_path))
    break_on(service, lambda _exchange: True)
    with service:
        assert service.is_alive
        for number in range(100):
            send(service, str(number))
        assert until(lambda: not service.is_alive)
        assert 64 <= service.stats().set_aside <= 100
        assert service.history.samples() == []


def test_a_failing_step_is_counted_and_hides_no_other(served: Served, tmp_path: Path) -> None:
    with MonitorService(served, config(tmp_path)) as service:
        service.put_rules(rules(ANY), "a test")

        def update(_observations: object) -> list[Any]:
            message = "drift failed"
            raise RuntimeError(message)

        service.judging._drift.update = update  # type: ignore[method-assign, union-attr]
        send(service, "a")
        assert until(lambda: service.history.samples(exchange="a"))
        assert until(lambda: service.stats().alerts == {"r0": 1, "drift": 0})
        assert service.stats().failures == {"drift": 1}
        assert [alert.rule for alert in service.history.alerts(exchange="a")] == ["r0"]


def test_traffic_is_kept_as_it_came_where_that_is_wanted(served: Served, tmp_path: Path) -> None:
    settings = config(tmp_path, record={"folder": tmp_path / "kept"}, traffic={"logs": "both"})
    with MonitorService(served, settings) as service:
        send(service, "a", "the cat")
        service.take(agent_headers("response", "a"), b'{"choices": [{"index": 0, "text": " sat"}]}')
        until(lambda: service.history.samples(exchange="a"))
        assert service.stats().events["recorded"] == 2
    (exchange,) = RecordedTraffic(str(tmp_path / "kept")).exchanges()
    assert (exchange.id, exchange.origin.model, exchange.samples[0].content) == ("a", "tinyllama", "the cat sat")


def test_where_traffic_cannot_be_kept_it_is_read_all_the_same(served: Served, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    settings = config(tmp_path, record={"folder": kept, "max_file_bytes": 1024})
    with MonitorService(served, settings) as service:
        shutil.rmtree(kept)  # the file that is open goes on; the next one cannot be opened
        for number in range(20):
            send(service, str(number))
        until(lambda: service.stats().samples == 20)
        stats = service.stats()
        assert 0 < stats.failures["record"] < 20
        assert stats.failures["record"] + stats.events["recorded"] == 20


def test_what_waits_is_read_before_it_drains(served: Served, tmp_path: Path) -> None:
    service = MonitorService(served, config(tmp_path))
    for number in range(20):
        send(service, str(number))
    with service:
        assert service.drain(60)
        assert service.stats().samples == 20
        send(service, "late")
        assert service.stats().events["refused"] == 1


def test_a_second_monitor_in_the_same_folder_is_refused(served: Served, tmp_path: Path) -> None:
    with MonitorService(served, config(tmp_path)), pytest.raises(InputError, match="monitor"):
        MonitorService(served, config(tmp_path))
    with MonitorService(served, config(tmp_path)):
        pass


def test_drift_is_told_acknowledged_and_told_again(served: Served, tmp_path: Path) -> None:
    drift = {"texts_per_false_alarm": 1000.0, "sweep_texts": 1}
    with MonitorService(served, config(tmp_path, drift=drift)) as service:
        for number in range(300):
            send(service, str(number), "the the the the")
        (first, *_) = until(lambda: service.history.alerts(kind="drift"))
        assert "#" in first.watched[0]
        assert service.drain(60)
        changes, streams = service.judging.ranked(5, None)
        assert sum(streams.values()) == 300
        assert changes[0].is_told
        assert service.judging.acknowledge_drift((), None, "a test", rebaseline=False) >= 1
        assert not any(change.is_told for change in service.judging.ranked(5, None)[0])
        assert "a test" in service.history.alerts(kind="note")[0].message


def test_drift_is_not_looked_for_where_that_is_switched_off(served: Served, tmp_path: Path) -> None:
    with (
        MonitorService(served, config(tmp_path, reference_texts=0)) as service,
        pytest.raises(InputError, match="not looked for"),
    ):
        service.judging.ranked(5, None)


def test_no_words_are_kept_unless_that_is_switched_on_and_then_without_what_is_to_be_left_out(
    served: Served, tmp_path: Path
) -> None:
    patterns = tmp_path / "patterns"
    patterns.write_text("c.t\n\nhat\n")
    prompt = "the cat saw the moon"
    for folder, given, kept in (
        ("silent", {}, None),
        ("words", {"history": {"keep_text": True}, "redact_file": patterns}, "the *** saw the moon"),
    ):
        (tmp_path / folder).mkdir()
        with MonitorService(served, config(tmp_path / folder, **given)) as service:
            send(service, "a", prompt)
            (one,) = until(lambda service=service: service.history.samples(exchange="a"))
        text = None if one.text is None else one.text.replace("<s>", "").strip()
        assert text == kept
        files = b"".join(path.read_bytes() for path in (tmp_path / folder / "monitor").rglob("*") if path.is_file())
        assert b"cat" not in files
        assert (b"moon" in files) is (kept is not None)


def test_a_text_that_is_read_at_once_counts_only_where_it_is_to(served: Served, tmp_path: Path) -> None:
    with MonitorService(served, config(tmp_path)) as service:
        service.put_rules(rules(ANY), "a test")
        found = service.observe(Asked(text="the cat"), "direct")
        assert [alert["rule"] for alert in found["alerts"]] == ["r0"]
        assert set(service.stats().alerts.values()) == {0}
        service.observe(Asked(text="the cat", record=True), "recorded")
        assert until(lambda: service.history.samples(exchange="recorded"))
        assert service.history.samples(exchange="direct") == []
        with pytest.raises(InputError):
            service.observe(Asked(ids=(10**6,)))


def test_rules_that_do_not_fit_change_nothing(served: Served, tmp_path: Path) -> None:
    with MonitorService(served, config(tmp_path)) as service:
        service.put_rules(rules(ANY), "a test")
        before = service.rules
        last = list(actions(served.store))[-1].record
        assert (last["target"], last["digest"], last["detail"]["by"]) == ("monitor/rules", before.digest, "a test")
        for refused in (
            rules({**ANY, "watched": "unknown"}),
            rules({"kind": "threshold", "watched": "f3"}),
            rules({**ANY, "actions": ["end"]}, actions={"end": {"do": "stop"}}),
            rules({**ANY, "actions": ["page"]}, actions={"page": {"do": "webhook", "url": "http://127.0.0.1/"}}),
        ):
            with pytest.raises(ConfigError):
                service.put_rules(refused, "a test")
            assert service.rules is before
        send(service, "a")
        assert until(lambda: service.history.alerts(exchange="a"))
        assert Rules.model_validate(service.rules_status()["rules"]) == before  # what is told can be put in again
    assert Rules.model_validate(before.model_dump(mode="json")) == before


def test_settings_that_cannot_be_read_are_refused(served: Served, tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("rules: [")
    for name, path in (("rules", tmp_path / "bad"), ("watch_list", tmp_path / "none"), ("redact_file", tmp_path)):
        with pytest.raises(ConfigError):
            MonitorService(served, config(tmp_path, **{name: path}))
    with MonitorService(served, config(tmp_path)):  # nothing of it holds the folder
        pass


def test_a_name_that_stands_for_another_feature_is_another_column_in_the_same_folder(
    served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    often = {"kind": "rate", "share": 0.5, "last_exchanges": 20, "min_exchanges": 10, "above": -1.0}
    two = rules({**often, "name": "first", "watched": "f3"}, {**often, "name": "second", "watched": "f17"})
    (tmp_path / "rules.json").write_text(json.dumps(two.model_dump(mode="json")))
    settings = config(tmp_path, rules=tmp_path / "rules.json")

    def run(id_: str) -> tuple[list[str], list[int], list[str]]:
        with MonitorService(served, settings) as service:
            send(service, id_)
            until(lambda: service.history.samples(exchange=id_))
            watched = [name for one in service.history.samples() for name in one.watched]
            return (
                watched,
                [one["exchanges"] for one in service.rules_status()["met"]],
                [one.identity for one in service.columns],
            )

    _, _, before = run("a")
    listed = [{"name": "f3", "feature": 4}, {"name": "f17", "feature": 17, "threshold": 9.0}]
    (tmp_path / "watch.json").write_text(json.dumps({"watched": listed}))
    caplog.clear()
    watched, exchanges, now = run("b")
    assert watched == ["f3", "f17", f"f3@{before[0]}", "f17"]
    assert (now[0] != before[0], now[1] == before[1]) == (True, True)
    assert exchanges[0] == 1
    told = [record.getMessage() for record in caplog.records if "reads something else" in record.getMessage()]
    assert told[0].startswith("Watched column f3 reads something else than before (sae/")
    assert f"#4 at {served.session.placed(0).ends.read.point}; identity {now[0]}, was {before[0]})" in told[0]
    assert told[1:] == ["Rule first begins anew: f3 now reads something else than before."]


def test_what_comes_before_the_model_is_loaded_is_read_when_it_is(served: Served, tmp_path: Path) -> None:
    settings = config(tmp_path)
    inlet = Inlet(settings.traffic)
    for number in range(3):
        inlet.take(agent_headers("request", str(number)), json.dumps({"prompt": "the cat sat"}).encode())
    inlet.note("malformed")
    assert (inlet.stats().queue_events, inlet.stats().events["malformed"]) == (3, 1)
    with MonitorService(served, settings, inlet=inlet) as service:
        until(lambda: service.stats().samples == 3)
        assert service.stats().events["offered"] == 3
        assert service.stats().events["malformed"] == 1


def test_alerts_are_counted_from_0_for_each_rule_and_for_drift(served: Served, tmp_path: Path) -> None:
    with MonitorService(served, config(tmp_path)) as service:
        assert service.stats().alerts == {"drift": 0}
        service.put_rules(rules({"name": "any", **ANY}, {"name": "never", **ANY, "above": 1e6}), "somebody")
        assert service.stats().alerts == {"any": 0, "never": 0, "drift": 0}
        send(service, "one")
        until(lambda: service.stats().alerts["any"] == 1)
        assert service.stats().alerts["never"] == 0
