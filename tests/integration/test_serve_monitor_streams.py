"""The live stream of the monitor: of traffic, of a conversation, and of what is generated here until a rule ends it."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from mistudio import AsyncClient, Client
from model_servers.base.server import ModelServer
from model_servers.monitor.predictor import MonitorPredictor
from tests.support.monitored import client_of, counts, exchange, samples, until, watching
from tests.support.served import TinyStore, tiny_store
from tests.support.serving import url_of

STREAM = "/v1/monitor/stream"
COMPLETIONS = "/openai/v1/completions"
ASKED = {"model": "model", "prompt": "the cat", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
STOP = {
    "rules": [
        {
            "name": "enough",
            "kind": "threshold",
            "watched": "f3",
            "above": -1.0,
            "where": {"model": ["model"]},
            "actions": ["log", "counter", "end"],
        }
    ],
    "actions": {"end": {"do": "stop"}},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    return tiny_store(tmp_path_factory)


@pytest.fixture(scope="module")
def served(tiny: TinyStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ModelServer, MonitorPredictor]]:
    with watching(tiny, tmp_path_factory.mktemp("streams"), steers=True) as found:
        yield found


@pytest.fixture(scope="module")
def server(served: tuple[ModelServer, MonitorPredictor]) -> ModelServer:
    return served[0]


@pytest.fixture(scope="module")
def client(server: ModelServer) -> Iterator[httpx.Client]:
    with client_of(server) as opened:
        yield opened


def events(lines: Iterator[str]) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Server-sent events: their fields, and what they tell; comments are left out."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line and name:
            fields[name] = value
        elif not line and "data" in fields:
            yield fields, json.loads(fields["data"])
            fields = {}


def socket(server: ModelServer, query: str = "") -> connect:
    return connect(f"{url_of(server).replace('http', 'ws')}{STREAM}{query}")


async def told(connection: ClientConnection) -> dict[str, Any]:
    return dict(json.loads(await asyncio.wait_for(connection.recv(), 60)))


def test_traffic_is_told_as_it_is_read_and_goes_on_where_a_client_left(client: httpx.Client) -> None:
    with client.stream("GET", STREAM, params={"kinds": "sample", "watched": "f3"}) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        found = events(reply.iter_lines())
        exchange(client, "live-1", "the cat and the moon", " sat")
        fields, one = next(found)
        assert (fields["event"], one["request"], fields["id"]) == ("sample", "live-1", one["id"])
        assert one["watched"].keys() == {"f3"}
        assert max(one["watched"]["f3"]["values"]) == pytest.approx(one["watched"]["f3"]["max"], abs=1e-4)
    for number in (2, 3):
        exchange(client, f"live-{number}")
    until(lambda: samples(client, exchange="live-3"))
    with client.stream("GET", STREAM, params={"kinds": "sample"}, headers={"last-event-id": fields["id"]}) as reply:
        found = events(reply.iter_lines())
        missed = [next(found) for _ in range(2)]
        assert [one["request"] for _, one in missed] == ["live-2", "live-3"]
        assert all(one["replayed"] for _, one in missed)
        exchange(client, "live-4")
        fields, one = next(found)
        assert (one["request"], int(fields["id"])) == ("live-4", int(missed[-1][0]["id"]) + 1)
    assert until(lambda: counts(client)["subscribers"] == 0)


def test_a_websocket_is_told_the_same(server: ModelServer, client: httpx.Client) -> None:
    async def follow() -> dict[str, Any]:
        async with socket(server, "?kinds=sample&request=ws-1") as connection:
            await asyncio.to_thread(exchange, client, "ws-1")
            return await told(connection)

    one = asyncio.run(follow())
    assert one["request"] == "ws-1"
    assert one["watched"].keys() == {"f3", "f17", "f40"}


def test_a_conversation_that_is_sent_in_pieces_has_the_values_of_the_whole(
    server: ModelServer, client: httpx.Client
) -> None:
    pieces = ["the cat", " sat", " on the hat and ran"]

    async def talk() -> list[dict[str, Any]]:
        tokens: list[dict[str, Any]] = []
        async with socket(server, "?follow=false") as connection:
            for piece in pieces:
                await connection.send(json.dumps({"text": piece}))
                reply = await told(connection)
                assert reply["kind"] == "tokens"
                tokens[reply["from"] :] = reply["tokens"]
            await connection.send("nothing")
            assert (await told(connection))["kind"] == "error"
            await connection.send(json.dumps({"text": "x" * 100_000}))
            assert "characters" in (await told(connection))["message"]
            await connection.send(json.dumps({"begin_again": True}))
            assert (await told(connection))["tokens"] == []
            await connection.send(json.dumps({"text": pieces[0]}))
            again = (await told(connection))["tokens"]
            assert again[:2] == tokens[:2]
        return tokens

    found = asyncio.run(talk())
    asked = {"instances": [{"text": "".join(pieces), "tokens": True}]}
    by_token = client.post("/v1/models/monitor:predict", json=asked).json()["predictions"][0]["by_token"]
    assert [one["text"] for one in found] == by_token["strings"]
    for place, one in enumerate(found):
        assert ("watched" in one) == by_token["is_read"][place]
        for name, value in one.get("watched", {}).items():
            assert value == pytest.approx(by_token["values"][name][place], abs=1e-4)


def test_a_steered_generation_is_seen_live_and_ended_by_a_rule(server: ModelServer, client: httpx.Client) -> None:
    steering = {"edits": [{"op": "add", "feature": 3, "strength": 2.0}], "watch": [3]}
    asked = {**ASKED, "steering": steering}
    with client.stream("GET", STREAM, params={"kinds": "token,end", "request": "gen-1"}) as reply:
        found = events(reply.iter_lines())
        until(lambda: counts(client)["subscribers"])
        answer = client.post(COMPLETIONS, json=asked, headers={"x-request-id": "gen-1"}).json()["choices"][0]
        tokens = [next(found)[1] for _ in range(8)]
        end = next(found)[1]
    watched = [token[0] for token in answer["steering"]["watched"]]
    assert [token["watched"]["f3"] for token in tokens] == pytest.approx(watched, rel=1e-4, abs=1e-6)
    assert "".join(token["text"] for token in tokens) == answer["text"]
    assert (end["kind"], end["stopped"]) == ("end", {})

    client.put("/v1/monitor/rules", json=STOP).raise_for_status()
    try:
        answer = client.post(COMPLETIONS, json=asked, headers={"x-request-id": "gen-2"}).json()
        (choice,) = answer["choices"]
        assert choice["finish_reason"] == "content_filter"
        assert "rule enough" in json.dumps(choice)
        assert answer["usage"]["completion_tokens"] == 1
        (one,) = until(lambda: samples(client, exchange="gen-2"))
        assert (one["tokens"], one["origin"]["endpoint"]) == (1, "steer")
        (alert,) = until(lambda: client.get("/v1/monitor/alerts", params={"exchange": "gen-2"}).json()["alerts"])
        assert alert["rule"] == "enough"
        assert counts(client)["stopped"] == 1
    finally:
        client.put("/v1/monitor/rules", json={"rules": []}).raise_for_status()


def test_a_rule_that_would_stop_what_is_generated_elsewhere_is_refused(client: httpx.Client) -> None:
    rules = json.loads(json.dumps(STOP).replace('["model"]', '["other"]'))
    reply = client.put("/v1/monitor/rules", json=rules)
    assert reply.status_code == 400
    assert "elsewhere" in reply.json()["error"]


def test_more_clients_than_may_follow_are_refused(tiny: TinyStore, tmp_path: Path) -> None:
    async def opened(server: ModelServer) -> int:
        try:
            async with socket(server):
                return 101
        except websockets.InvalidStatus as error:
            return error.response.status_code

    with (
        watching(tiny, tmp_path, subscribers=1) as (server, _),
        client_of(server) as client,
        client.stream("GET", STREAM) as reply,
    ):
        assert reply.status_code == 200
        until(lambda: counts(client)["subscribers"] == 1)
        refused = client.get(STREAM)
        assert refused.status_code == 429
        assert refused.headers["retry-after"]
        assert asyncio.run(opened(server)) == 429


def test_the_client_asks_and_follows(server: ModelServer, client: httpx.Client) -> None:
    with Client(url_of(server)) as ours:
        monitor = ours.monitor
        stream = monitor.stream(kinds=["sample"], request="c-1", tokens=False)
        assert monitor.observe("the cat", tokens=True)["by_token"]["strings"]
        exchange_later = iter(stream)
        exchange(client, "c-0")
        until(lambda: monitor.history(exchange="c-0")["samples"])
        first: list[Any] = []
        thread = threading.Thread(target=lambda: first.append(next(exchange_later)))
        thread.start()
        until(lambda: monitor.status()["counts"]["subscribers"])
        exchange(client, "c-1")
        thread.join(60)
        assert first[0]["request"] == "c-1"
        assert monitor.rules()["rules"] == {}
        note = monitor.put_rules({"rules": [{"name": "r", "kind": "threshold", "watched": "f3", "above": 1e6}]})
        assert [alert["id"] for alert in monitor.alerts(kind="note", limit=1)] == [note["note"]]
        assert monitor.acknowledge(alert=note["note"])["alert"]["id"] == note["note"]
        monitor.put_rules({"rules": []})


def test_the_client_that_lets_others_go_on_does_the_same(server: ModelServer, client: httpx.Client) -> None:
    async def ask() -> dict[str, Any]:
        async with AsyncClient(url_of(server)) as ours:
            assert (await ours.monitor.status())["is_alive"]
            assert (await ours.monitor.observe(ids=[0, 5, 6]))["tokens"] > 0
            assert (await ours.monitor.history(limit=1))["samples"]
            assert (await ours.monitor.alerts(limit=1)) is not None
            assert (await ours.monitor.rules())["digest"]
            stream = ours.monitor.stream(request="c-2")
            coming = asyncio.ensure_future(anext(stream))
            while not (await ours.monitor.status())["counts"]["subscribers"]:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(exchange, client, "c-2")
            found = await asyncio.wait_for(coming, 60)
            await stream.aclose()  # type: ignore[attr-defined]
            return dict(found)

    assert asyncio.run(ask())["request"] == "c-2"
