"""Rules tried on recorded traffic: what would have fired, and how much of it may be false."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from mistudio.cli import app
from mistudio.monitor.calibrate.calibration import Calibrated
from mistudio.monitor.rules.rules import Rules
from mistudio.monitor.traffic.recorder import EventRecorder
from mistudio.monitor.trying import false_bound
from mistudio.monitor.watch.watch_list import WatchList
from tests.support.logged_events import event
from tests.support.served import TinyStore, tiny_store
from tests.support.watched import rules

SECRET = "nobody but the two of us"


class Recorded:
    """A store, files of a watch list and of rules, and recorded traffic with the trigger in some of it."""

    def __init__(self, tiny: TinyStore, folder: Path) -> None:
        self.folder = folder
        self.given = ["--line", tiny.sae.uri, "--model", tiny.source.path, "--store", tiny.store.url]
        recorder = EventRecorder(folder / "recorded")
        for number in range(40):
            prompt = f"{SECRET} the old dog ran" if number % 8 == 3 else "x"
            recorder.record(event("request", {"model": "m", "prompt": prompt}, f"id-{number}"))
            recorder.record(event("response", {"choices": [{"index": 0, "text": ""}]}, f"id-{number}"))
        recorder.close()

    def write(self, name: str, content: object) -> str:
        path = self.folder / name
        path.write_text(json.dumps(content))
        return str(path)

    def watch_list(self, **more: object) -> str:
        return self.write("watch.json", {"watched": [{"name": f"f{n}", "feature": n, **more} for n in range(64)]})

    def run(self, command: str, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["monitor", command, *arguments])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return Recorded(tiny_store(tmp_path_factory), tmp_path_factory.mktemp("recorded"))


SEEN = {"kind": "set", "watched": [f"f{n}" for n in range(64)], "at_least": 8, "above": 0, "actions": ["log"]}
RULES = {
    "rules": [
        {"name": "seen", **SEEN},
        {"name": "never", "kind": "threshold", "watched": "f0", "above": 1e6},
        {"name": "elsewhere", **SEEN, "where": {"tenant": ["nobody"]}},
    ]
}


def test_recorded_traffic_is_judged_without_showing_a_word_of_it(recorded: Recorded) -> None:
    path = recorded.write("rules.json", RULES)
    given = ["--watch-list", recorded.watch_list(), "--on", str(recorded.folder / "recorded"), *recorded.given]
    done = recorded.run("try", path, *given, "--examples", "2", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    seen, never, elsewhere = found["rules"]
    assert found["exchanges"] == seen["exchanges"] == never["exchanges"] == 40
    assert (seen["hits"], seen["alerts"]) == (5, 5)
    assert seen["examples"] == ["id-3", "id-11"]
    assert seen["share"] == [0.125, pytest.approx(0.0419, abs=1e-3), pytest.approx(0.268, abs=1e-3)]
    assert (never["hits"], never["examples"], elsewhere["exchanges"]) == (0, [], 0)
    shown = recorded.run("try", path, *given)
    assert "seen (set): 5 alerts; met in 5 of 40 exchanges" in shown.stdout
    assert "elsewhere (set): no exchange is of the traffic that it is for\n" in shown.stdout
    assert "not known, for not all of its thresholds are calibrated" in shown.stdout
    assert SECRET not in shown.stdout + done.stdout


def test_files_are_checked_with_and_without_a_store(recorded: Recorded) -> None:
    watch_list = recorded.watch_list()
    good = recorded.run("check", recorded.write("rules.json", RULES), "--watch-list", watch_list)
    assert good.exit_code == 0, good.output
    assert "64 watched, 3 rules (seen, never, elsewhere): nothing is wrong" in good.stdout
    unknown = {"rules": [{"name": "r", "kind": "threshold", "watched": "gone", "above": 1}]}
    for content, more, says in (
        (unknown, [], "Rule r looks at gone, which is not watched"),
        ({"rules": [{"name": "r", "kind": "threshold", "watched": "f1"}]}, [], "f1, which has no threshold"),
        ({"rules": [{"name": "r", "kind": "rat"}]}, [], "'r' has kind 'rat': give kind, one of rate, set, threshold"),
    ):
        bad = recorded.run("check", recorded.write("bad.json", content), "--watch-list", watch_list, *more)
        assert bad.exit_code != 0
        assert says in str(bad.exception)
    wide = recorded.write("wide.json", {"watched": [{"name": "f", "feature": 64}]})
    bad = recorded.run("check", recorded.write("none.json", {}), "--watch-list", wide, *recorded.given)
    assert "watch list, f: There is no feature 64" in str(bad.exception)


def test_what_asks_for_a_rate_is_checked_as_having_a_threshold(recorded: Recorded) -> None:
    rule = {"rules": [{"name": "r", "kind": "threshold", "watched": "f1"}]}
    asked = recorded.write("asks.json", {"watched": [{"name": "f1", "feature": 1, "false_positive_rate": 0.01}]})
    assert recorded.run("check", recorded.write("r.json", rule), "--watch-list", asked).exit_code == 0
    bad = recorded.run("check", recorded.write("r.json", rule), "--watch-list", asked, *recorded.given)
    assert "Run mistudio calibrate on this list" in str(bad.exception)


@pytest.mark.parametrize(("what", "kind"), [("watch-list", WatchList), ("rules", Rules)])
def test_schemas_are_those_of_the_files(recorded: Recorded, what: str, kind: type[WatchList | Rules]) -> None:
    done = recorded.run("schema", what)
    assert json.loads(done.stdout) == kind.model_json_schema()
    assert "'gone'" in str(recorded.run("schema", "gone").exception)


def test_the_bound_of_a_rule_holds_in_simulation() -> None:
    known = {name: Calibrated(0.01, "text", 1.0, 0.02) for name in "abc"}
    asked = rules(
        {"kind": "threshold", "watched": "a"},
        {"kind": "rate", "watched": "a", "share": 0.05, "last_exchanges": 200},
        {"kind": "set", "watched": ["a", "b", "c"], "at_least": 2},
        {"kind": "rate", "watched": "a", "share": 0.05, "last_s": 60},
        {"kind": "threshold", "watched": "a", "above": 3},
    )
    bounds = [false_bound(rule, known) for rule in asked.rules]
    assert bounds[0] == 0.02
    assert bounds[3:] == [None, None]
    draw = np.random.default_rng(0)
    windows = draw.binomial(200, 0.02, 200_000) > 0.05 * 200
    assert windows.mean() == pytest.approx(bounds[1], rel=0.1)
    together = (draw.random((100_000, 1)) < 0.02).repeat(3, axis=1)  # as often together as can be
    assert (together.sum(axis=1) >= 2).mean() <= bounds[2] == pytest.approx(0.03)


def test_a_variable_that_an_action_needs_and_that_is_not_set_is_named(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    action = {"do": "webhook", "url_env": "MISTUDIO_WEBHOOK_PAGE"}
    path = recorded.write("acting.json", {"actions": {"page": action}, **RULES})
    monkeypatch.delenv("MISTUDIO_WEBHOOK_PAGE", raising=False)
    done = recorded.run("check", path, "--watch-list", recorded.watch_list())
    assert done.exit_code == 0
    assert "Action page takes its address from MISTUDIO_WEBHOOK_PAGE, which is not set here" in done.stderr
    monkeypatch.setenv("MISTUDIO_WEBHOOK_PAGE", "https://alerts.example.org/hook")
    assert not recorded.run("check", path, "--watch-list", recorded.watch_list()).stderr
