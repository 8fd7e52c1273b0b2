"""The monitor's settings as options of the server, and threads that have so many places."""

import asyncio
import threading

import pytest

from mistudio.errors import Busy
from mistudio.monitor.config import MonitorConfig
from mistudio.settings import leaves, validated
from model_servers.command_line import _PREDICTORS, _parser
from model_servers.monitor.working import Places


def test_each_setting_is_an_option_named_by_where_it_is() -> None:
    given = ["--monitor-folder", "here", "--monitor-traffic-max-queue", "7", "--monitor-history-keep-text"]
    given += ["--no-monitor-full", "--monitor-drift-group-by", "model,tenant", "--monitor-watch-overlap", "9"]
    options = vars(_parser().parse_args(given))
    config = validated(MonitorConfig, _PREDICTORS["monitor"].offered.content(options))
    assert (str(config.folder), config.traffic.max_queue, config.history.keep_text) == ("here", 7, True)
    assert (config.full, config.drift.group_by, config.watch.overlap) == (False, ("model", "tenant"), 9)
    assert config.traffic.max_waiting == MonitorConfig().traffic.max_waiting


def test_no_option_stands_for_two_settings() -> None:
    named = [name for entry in _PREDICTORS.values() for name, _ in entry.offered.leaves()]
    assert len(set(named)) == len(named)
    assert len(list(_PREDICTORS["monitor"].offered.leaves())) == len(list(leaves(MonitorConfig)))


def test_what_has_begun_keeps_its_place_when_nobody_waits_any_more() -> None:
    go, places = threading.Event(), Places("test", 1, 2)

    async def ask() -> None:
        first = asyncio.ensure_future(places.run(go.wait))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(places.run(lambda: "second"))
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="2 requests"):
            await places.run(lambda: "third")
        first.cancel()
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await places.run(lambda: "third")
        go.set()
        assert await second == "second"
        while places._num_taken:
            await asyncio.sleep(0.001)
        assert await places.run(lambda: "third") == "third"

    asyncio.run(ask())
    places.close()
