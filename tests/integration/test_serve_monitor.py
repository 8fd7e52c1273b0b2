"""The monitor, served: traffic comes in, is read, judged, kept and told."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mistudio.instrument.served import Served
from mistudio.monitor.config import MonitorConfig
from mistudio.settings import validated
from model_servers.base.keys import read_keys
from model_servers.base.server import ModelServer
from model_servers.base.settings import ServerSettings
from model_servers.base.shared import Shared
from model_servers.monitor.predictor import MonitorPredictor
from tests.support.monitored import (
    EVENTS,
    client_of,
    counts,
    exchange,
    post,
    rules_file,
    samples,
    until,
    watch_file,
    watching,
)
from tests.support.served import TinyStore, tiny_store
from tests.support.serving import serving, wait_for
from tests.support.sinks import EventSink

ANY = {"name": "any", "kind": "threshold", "watched": "f3", "above": 0.0}
NONE = {"name": "none", "kind": "threshold", "watched": "f3", "above": 1e6}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    return tiny_store(tmp_path_factory)


@pytest.fixture(scope="module")
def served(tiny: TinyStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ModelServer, MonitorPredictor]]:
    with watching(tiny, tmp_path_factory.mktemp("monitored")) as found:
        yield found


@pytest.fixture(scope="module")
def client(served: tuple[ModelServer, MonitorPredictor]) -> Iterator[httpx.Client]:
    with client_of(served[0]) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _begin_with_one_rule(client: httpx.Client) -> None:
    client.put("/v1/monitor/rules", json={"rules": [ANY]}).raise_for_status()


def kept(client: httpx.Client, id_: str) -> list[dict[str, Any]]:
    return until(lambda: samples(client, exchange=id_), id_)


def test_an_exchange_is_read_kept_and_judged(client: httpx.Client) -> None:
    exchange(client, "e1", "the cat and the dog", " sat on the mat")
    (one,) = kept(client, "e1")
    assert one["origin"] == {"model": "tinyllama", "endpoint": "predictor", "namespace": "default"}
    assert one["watched"].keys() == {"f3", "f17", "f40"}
    assert "text" not in one
    (uri,) = one["features"]
    strongest = one["features"][uri][0]
    assert samples(client, feature=f"{uri}#{strongest['feature']}", exchange="e1")[0]["request"] == "e1"
    alerts = client.get("/v1/monitor/alerts", params={"exchange": "e1"}).json()["alerts"]
    fires = one["watched"]["f3"]["value"] > 0
    assert [alert["rule"] for alert in alerts] == (["any"] if fires else [])


def test_what_is_read_at_once_is_what_traffic_with_the_same_text_gives(client: httpx.Client) -> None:
    text = "a red cat saw the moon"
    (seen,) = client.post("/v1/models/monitor:predict", json={"instances": [{"text": text}]}).json()["predictions"]
    assert post(client, "request", {"prompt": text}, "same").status_code == 202
    post(client, "response", {"choices": [{"index": 0, "text": ""}]}, "same")
    (one,) = kept(client, "same")
    assert one["tokens"] == seen["tokens"]
    for name, value in one["watched"].items():
        assert value["value"] == pytest.approx(seen["watched"][name]["max"], abs=1e-4)
    assert [alert["rule"] for alert in seen["alerts"]] == (["any"] if seen["watched"]["f3"]["max"] > 0 else [])
    assert samples(client, exchange=seen.get("request", "nothing")) == []


def test_a_text_a_chat_and_ids_are_read_by_v1_and_v2(client: httpx.Client) -> None:
    chat = {"messages": [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]}
    plain = {"text": "the cat sat", "reply_from": 7}
    instances = [
        {"text": "the cat", "tokens": True},
        {"ids": [0, 5, 6, 7]},
        plain,
        {**chat, "reply_from": 1, "tokens": True},
    ]
    found = client.post("/v1/models/monitor:predict", json={"instances": instances}).json()["predictions"]
    by_token = found[0]["by_token"]
    values = [value for value, read in zip(by_token["values"]["f3"], by_token["is_read"], strict=True) if read]
    assert max(values) == pytest.approx(found[0]["watched"]["f3"]["max"], abs=1e-5)
    assert len(by_token["strings"]) == len(by_token["ids"])
    assert all(one["reply_from"] is not None for one in found[2:])
    roles = found[3]["by_token"]["roles"]
    assert {"user", "assistant", None} == set(roles)  # None: of the server's template
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["the cat"]}]}
    (output,) = client.post("/v2/models/monitor/infer", json=body).json()["outputs"]
    assert json.loads(output["data"][0])["watched"] == found[0]["watched"]
    meta = client.get("/v2/models/monitor").json()
    assert {tensor["name"] for tensor in meta["inputs"]} == {"text", "request"}


def test_what_is_to_count_as_traffic_does(client: httpx.Client) -> None:
    instance = {"text": "the dog ran", "record": True, "model": "mine", "tenant": "t"}
    reply = client.post(
        "/v1/models/monitor:predict", json={"instances": [instance]}, headers={"x-request-id": "direct-1"}
    )
    assert reply.json()["predictions"][0]["recorded"] is True
    (one,) = kept(client, "direct-1")
    assert one["origin"] == {"model": "mine", "tenant": "t"}


@pytest.mark.parametrize(
    ("instance", "said"),
    [
        ({}, "text, ids or messages"),
        ({"text": "a", "ids": [1]}, "text, ids or messages"),
        ({"text": "a", "reply_from": 2}, "reply_from"),
        ({"ids": [10**9]}, "1000000000"),
        ({"ids": ["a"]}, "instances[0].ids[0]"),
        ({"text": "a", "other": 1}, "instances[0].other"),
        ({"messages": [{"role": "user"}]}, "instances[0].messages[0].content"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_field(
    client: httpx.Client, instance: dict[str, Any], said: str
) -> None:
    reply = client.post("/v1/models/monitor:predict", json={"instances": [instance]})
    assert reply.status_code == 400
    assert said in reply.json()["error"]


def structured(id_: str, kind: str = "request", data: Any = None) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": id_,
        "source": "s",
        "type": f"org.kubeflow.serving.inference.{kind}",
        "data": {"prompt": "the sun"} if data is None else data,
    }


def test_structured_events_and_batches_are_taken(client: httpx.Client) -> None:
    reply = client.post(EVENTS, json=structured("s1"), headers={"content-type": "application/cloudevents+json"})
    assert (reply.status_code, reply.json()["taken"]) == (202, 1)
    answer = structured("s1", "response", {"choices": [{"index": 0, "text": " rose"}]})
    batch = [answer, structured("s2"), {**structured("s2", "response"), "type": "other"}, {"id": 3}]
    reply = client.post(EVENTS, json=batch, headers={"content-type": "application/cloudevents-batch+json"})
    assert reply.status_code == 202
    assert {name: reply.json()[name] for name in ("taken", "ignored")} == {"taken": 2, "ignored": 1}
    assert len(reply.json()["refused"]) == 1
    assert kept(client, "s1")[0]["tokens"] > 0


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": "text/plain"}, b"hello", 415),
        ({"content-type": "application/json"}, b"{}", 415),
        ({"content-type": "application/cloudevents+json"}, b"{", 400),
        ({"content-type": "application/cloudevents+json"}, b'{"id": "1"}', 400),
        ({"content-type": "application/json", "ce-id": "1"}, b"{}", 400),
        ({"content-type": "application/cloudevents+json"}, b" " * (9 << 20), 413),
    ],
)
def test_what_is_no_event_is_refused_and_said_why(
    client: httpx.Client, headers: dict[str, str], body: bytes, status: int
) -> None:
    reply = client.post(EVENTS, content=body, headers=headers)
    assert reply.status_code == status, reply.text
    assert reply.json()["error"]


def test_rules_are_replaced_as_a_whole_or_not_at_all(client: httpx.Client) -> None:
    before = client.get("/v1/monitor/rules").json()
    assert [rule["name"] for rule in before["rules"]["rules"]] == ["any"]
    for rules, said in (
        ([NONE, {"name": "bad", "kind": "threshold", "watched": "f3", "above": "high"}], "rules[1].above"),
        ([NONE, {"name": "bad", "kind": "threshold", "watched": "unknown"}], "unknown"),
        ([NONE, NONE], "none"),
        ([{**NONE, "actions": ["page"]}], "page"),
    ):
        refused = client.put("/v1/monitor/rules", json={"rules": rules})
        assert refused.status_code == 400, refused.text
        assert said in refused.json()["error"]
        assert client.get("/v1/monitor/rules").json()["digest"] == before["digest"]
    yaml = "rules:\n- {name: other, kind: threshold, watched: f17, above: 2}\n"
    reply = client.put("/v1/monitor/rules", content=yaml, headers={"content-type": "application/yaml"})
    assert reply.status_code == 200, reply.text
    after = client.get("/v1/monitor/rules").json()
    assert [rule["name"] for rule in after["rules"]["rules"]] == ["other"]
    note = client.get("/v1/monitor/alerts", params={"kind": "note"}).json()["alerts"][0]
    assert note["id"] == reply.json()["note"]
    assert "without a key" in note["message"]
    assert client.put("/v1/monitor/rules", content="x", headers={"content-type": "text/plain"}).status_code == 415


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("history?limit=0", "limit"),
        ("history?limit=1001", "limit"),
        ("history?nothing=1", "nothing"),
        ("history?since=1&since=2", "since"),
        ("history?since=nan", "since"),
        ("history?feature=nothing", "feature"),
        ("history?min_value=1", "min_value"),
        ("alerts?is_open=perhaps", "is_open"),
        ("drift?count=x", "count"),
        ("stream?kinds=other", "kinds"),
        ("stream?last_event_id=x", "Last-Event-ID"),
    ],
)
def test_questions_that_make_no_sense_are_refused_with_the_parameter(
    client: httpx.Client, path: str, said: str
) -> None:
    reply = client.get(f"/v1/monitor/{path}")
    assert reply.status_code == 400, reply.text
    assert said in reply.json()["error"]


def test_history_comes_in_pages(client: httpx.Client) -> None:
    for number in range(5):
        exchange(client, f"page-{number}", tenant="x")
    until(lambda: len(samples(client, limit=1000)) >= 5 and samples(client, exchange="page-4"))
    whole = [one["number"] for one in samples(client, limit=1000)]
    paged: list[int] = []
    before: int | None = None
    while True:
        page = client.get("/v1/monitor/history", params={"limit": 2, **({} if before is None else {"before": before})})
        paged += [one["number"] for one in page.json()["samples"]]
        before = page.json()["next"]
        if before is None:
            break
    assert paged == whole == sorted(whole, reverse=True)


def test_what_it_is_at_is_told_to_people_and_to_prometheus(client: httpx.Client) -> None:
    exchange(client, "metrics")
    kept(client, "metrics")
    status = client.get("/v1/monitor/status").json()
    assert status["is_alive"] is True
    assert [one["name"] for one in status["watched"]] == ["f3", "f17", "f40"]
    assert status["counts"]["samples"] > 0
    text = client.get("/metrics").text
    for line in ("mistudio_monitor_samples_total ", 'mistudio_monitor_events_total{outcome="offered"} '):
        assert float(next(each for each in text.splitlines() if each.startswith(line)).split()[-1]) > 0
    assert "monitor" in client.get("/describe").json()


def test_a_sink_whose_reader_stalls_still_answers_and_counts_what_it_drops(tiny: TinyStore, tmp_path: Path) -> None:
    queue = {"max_queue": 4, "max_waiting": 4}
    with watching(tiny, tmp_path, traffic=queue) as (server, predictor), client_of(server) as client:
        judging = predictor.monitor().judging
        with judging._lock:  # the worker stands still as long as it is held
            for number in range(25):
                exchange(client, f"stalled-{number}")
            assert post(client, "request", {"prompt": "x"}, "last").status_code == 202
            assert client.get("/v2/health/live").status_code == 200
            told = re.search(r'exchanges_total{outcome="dropped"} (\d+)', client.get("/metrics").text)
            assert told is not None
            assert int(told[1]) > 0
        found = until(lambda: (now := counts(client))["queue_events"] == 0 and now)
        taken, dropped = found["exchanges"]["taken"], found["exchanges"]["dropped"]
        assert found["events"]["offered"] == 51
        assert dropped >= 25 - 4 - taken
        assert taken + dropped == 25
        assert until(lambda: counts(client)["samples"] == taken)


def test_events_go_on_to_another_sink_without_our_key(tiny: TinyStore, tmp_path: Path) -> None:
    keys = read_keys(ServerSettings(), {"MISTUDIO_API_KEYS": "logger:0123456789abcdef0,alice:0123456789abcdef1"})
    with (
        EventSink() as sink,
        watching(tiny, tmp_path, keys=keys, forward_url=sink.url, settings={"sink_keys": ("logger",)}) as (server, _),
        client_of(server) as client,
    ):
        assert post(client, "request", {"prompt": "a"}, "1").status_code == 401
        client.auth = httpx.BasicAuth("logger", "0123456789abcdef0")
        exchange(client, "2")
        received = sink.wait_for(2)
        assert {one.headers["ce-type"].rpartition(".")[2] for one in received} == {"request", "response"}
        assert all("authorization" not in one.headers for one in received)
        assert client.get("/v1/monitor/status").status_code == 403  # such a key sends events, and nothing else
        client.auth = None
        client.headers["authorization"] = "Bearer 0123456789abcdef1"
        until(lambda: counts(client)["forwarded"].get("sent") == 2)
        client.put("/v1/monitor/rules", json={"rules": [NONE]}).raise_for_status()
        assert "key alice" in client.get("/v1/monitor/alerts", params={"kind": "note"}).json()["alerts"][0]["message"]


def test_rules_that_were_put_in_hold_after_a_start_and_a_changed_file_takes_their_place(
    tiny: TinyStore, tmp_path: Path
) -> None:
    path = rules_file(tmp_path, ANY)

    def names(**more: Any) -> list[str]:
        with watching(tiny, tmp_path, rules=path, **more) as (server, _), client_of(server) as client:
            found = [rule["name"] for rule in client.get("/v1/monitor/rules").json()["rules"]["rules"]]
            if found == ["any"]:
                client.put("/v1/monitor/rules", json={"rules": [NONE]}).raise_for_status()
            return found

    assert names() == ["any"]
    assert names() == ["none"]
    rules_file(tmp_path, {**ANY, "name": "new"})
    assert names() == ["new"]


def test_the_sink_takes_events_while_the_model_is_loaded_and_they_are_read_then(
    tiny: TinyStore, tmp_path: Path
) -> None:
    may_load = threading.Event()

    def opened() -> Served:
        may_load.wait(60)
        return tiny.open()

    content = {"folder": tmp_path / "monitor", "watch_list": watch_file(tmp_path)}
    monitor = MonitorPredictor(Shared(opened), validated(MonitorConfig, content))
    with serving([monitor], loaded=False) as server, client_of(server) as early:
        try:
            exchange(early, "early", "the cat", " sat")
            assert early.get("/v1/monitor/status").status_code == 503
            assert 'mistudio_monitor_events_total{outcome="offered"} 2.0' in early.get("/metrics").text
        finally:
            may_load.set()
        wait_for(early, "/v2/health/ready")
        assert kept(early, "early")
