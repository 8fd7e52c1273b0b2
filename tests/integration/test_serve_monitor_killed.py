"""A server that is killed while traffic comes in goes on with its history, and what rules and drift had counted."""

import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.integration.test_serve_process import Process, started
from tests.support.monitored import exchange, rules_file, until, watch_file
from tests.support.served import tiny_store

RATE = {"name": "often", "kind": "rate", "watched": "f3", "above": -1.0, "share": 0.5, "last_exchanges": 1000}
EVERY = {"name": "every", "kind": "threshold", "watched": "f3", "above": -1.0, "cool_down_s": 1e6}


def told(client: httpx.Client) -> dict[str, int]:
    """What has been counted in all, whoever counted it."""
    rules = {rule["name"]: rule for rule in client.get("/v1/monitor/rules").json()["met"]}
    streams = client.get("/v1/monitor/drift").json()["streams"]
    return {
        "kept": kept(client),
        "often": rules["often"]["exchanges"],
        "every": rules["every"]["exchanges"],
        "drift": sum(streams.values()),
        "alerts": sum(len(client.get("/v1/monitor/alerts", params={"rule": name}).json()["alerts"]) for name in rules),
    }


def kept(client: httpx.Client) -> int:
    number, before = 0, None
    while True:
        asked = {"limit": 1000, **({} if before is None else {"before": before})}
        page = client.get("/v1/monitor/history", params=asked).json()
        number, before = number + len(page["samples"]), page["next"]
        if before is None:
            return number


@pytest.mark.proof
def test_after_kill_9_under_load_nothing_is_counted_twice_and_nothing_that_was_kept_is_lost(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    tiny = tiny_store(tmp_path_factory)
    arguments = ["--models", "monitor", "--monitor-folder", str(tmp_path / "monitor")]
    arguments += ["--monitor-watch-list", str(watch_file(tmp_path))]
    arguments += ["--monitor-rules", str(rules_file(tmp_path, RATE, EVERY)), "--monitor-at-once-tokens", "64"]
    before = 0
    for life in range(3):
        with started(tiny, *arguments) as (process, client):
            found = told(client)
            assert found["kept"] == found["often"] == found["every"] == found["drift"] >= before, found
            assert found["alerts"] == (0 if life == 0 else 2)  # each rule told it once, and remembers that it did
            if life < 2:
                before = _killed_under_load(process, client, found["kept"] + 25, str(life))
    assert before >= 50


def _killed_under_load(process: Process, client: httpx.Client, least: int, name: str) -> int:
    """Kill a server while exchanges come in; how many it had kept for sure."""
    with ThreadPoolExecutor(2) as pool:
        sending = [pool.submit(_send, client, f"{name}-{number}") for number in range(400)]
        until(lambda: kept(client) >= least)
        number = kept(client)
        process.tell(signal.SIGKILL)
        for each in sending:
            each.cancel()
    assert process.ended() == -signal.SIGKILL
    return number


def _send(client: httpx.Client, id_: str) -> None:
    with suppress(httpx.TransportError):  # it was killed
        exchange(client, id_)
