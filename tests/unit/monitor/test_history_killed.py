"""Killed at any moment under load, the history and the tests of drift are what was committed, and go on from there."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mistudio.monitor.drift.detector import DriftConfig, DriftDetector
from mistudio.monitor.history.history import History
from mistudio.monitor.records import Observation
from tests.support.firing import drawn, profile_of

SHARES = [0.0, 0.01, 0.3, 0.9] + [0.2] * 60
CHANGED = [0.05, 0.01, 0.6, 0.9] + [0.2] * 60
CONFIG = DriftConfig(texts_per_false_alarm=1e4)
BATCH, WHOLE_EVERY = 4, 16


def traffic() -> list[Observation]:
    """The same each time; a change begins at text 800."""
    return [*drawn(SHARES, 800, seed=1), *drawn(CHANGED, 4000, seed=2, first=800)]


def restored(history: History) -> DriftDetector:
    """As a monitor starts."""
    whole, deltas = history.state("drift")
    return DriftDetector.restored(profile_of(SHARES, 5000), CONFIG, None, whole, deltas)


def watch(folder: Path) -> None:
    """Go on where the history ends, without end; what was committed is told line by line."""
    texts = traffic()
    with History(folder, clock=lambda: 2000.0) as history:
        detector = restored(history)
        place = history.counts()["samples"]
        while place < len(texts):
            batch = texts[place : place + BATCH]
            alerts = detector.update(batch)
            if history.num_deltas("drift") >= WHOLE_EVERY:
                history.commit(batch, alerts, {"drift": detector.state()})
            else:
                history.commit(batch, alerts, {}, {"drift": detector.delta()})
            place += len(batch)
            print(place, flush=True)  # noqa: T201 -- to the process that kills this one


@pytest.mark.proof
def test_killed_at_random_moments_history_and_drift_are_those_of_what_was_committed(tmp_path: Path) -> None:
    moments, texts = random.Random(3), traffic()
    kept = -1
    for _ in range(6):
        command, environment = (
            [sys.executable, __file__, str(tmp_path)],
            {**os.environ, "PYTHONPATH": ":".join(sys.path)},
        )
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
            assert child.stdout is not None
            told = [int(child.stdout.readline()) for _ in range(moments.randrange(1, 60))]
            for _ in range(moments.randrange(20_000)):
                pass  # a moment between two commits, or within one
            child.send_signal(signal.SIGKILL)
            told += [int(line) for line in child.stdout.read().split("\n")[:-1]]
        before, kept = kept, _check(tmp_path, texts, at_least=told[-1])
        assert kept > before  # it went on where the one before was killed


def _check(folder: Path, texts: list[Observation], at_least: int) -> int:
    """Samples, alerts and state of a folder are those of the first texts; how many there are."""
    with History(folder, clock=lambda: 2000.0) as history:
        kept = int(history.counts()["samples"])
        assert at_least <= kept <= at_least + BATCH
        newest = history.samples(limit=1000)
        assert [one.exchange for one in newest] == [
            f"r{number}" for number in range(kept - 1, kept - 1 - len(newest), -1)
        ]
        replayed = DriftDetector(profile_of(SHARES, 5000), CONFIG)
        alerts = replayed.update(texts[:kept])
        assert restored(history).state() == replayed.state()
        assert [alert.id for alert in reversed(history.alerts())] == [alert.id for alert in alerts]
    return kept


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
