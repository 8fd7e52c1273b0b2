"""Look-ups as they are served: by routes of their own, by KServe's protocols, by the client; and what is refused."""

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from mistudio.artifacts import open_store
from mistudio.client import AsyncClient, Client
from mistudio.correlate.concepts.embedding import open_embedder
from mistudio.correlate.correlator import Correlator
from mistudio.correlate.queries import ConceptQuery, Query
from mistudio.correlate.replies import Reply
from mistudio.errors import Busy, InputError
from mistudio.instrument.served import Served, open_served
from model_servers.base.keys import ENVIRONMENT, read_keys
from model_servers.base.server import ModelServer
from model_servers.base.settings import ServerSettings
from model_servers.base.shared import Shared
from model_servers.correlate.config import ServingConfig
from model_servers.correlate.predictor import CorrelatePredictor
from model_servers.steer.predictor import SteerPredictor
from tests.support.looked_up import looked_up
from tests.support.served import CHAT_TEMPLATE, FEATURES, TinyStore, tiny_store
from tests.support.serving import serving, url_of
from tests.support.tiny import WIDTH

PATH, PREDICT, INFER = "/v1/correlate", "/v1/models/correlate:predict", "/v2/models/correlate/infer"
SECRET = "correct-horse-battery"
POSITIVE = [f"the {animal} sat {where}" for animal in ("cat", "dog", "hen", "pig") for where in ("there", "here")]
NEGATIVE = [f"{when} upon a {what}" for when in ("once", "twice") for what in ("time", "hill", "day", "lake")]
ASKED: dict[str, dict[str, Any]] = {
    "text": {"text": "once upon a time", "top": 3, "by_token": True},
    "token": {"token": 5, "ways": ["lens"]},
    "feature": {"feature": 3, "relations": ["decoder"], "top": 4},
    "examples": {"positive": POSITIVE, "negative": NEGATIVE, "top": 2},
    "vector": {"vector": [1.0, *[0.0] * (WIDTH - 1)], "top": 5},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    return tiny_store(tmp_path_factory)


@pytest.fixture(scope="module")
def server(tiny: TinyStore) -> Iterator[ModelServer]:
    """Look-ups and steering in one process, of one model."""
    shared = tiny.shared()
    predictors = [CorrelatePredictor(shared, chat_template=CHAT_TEMPLATE), SteerPredictor(shared)]
    with serving(predictors, grpc_port=0) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: ModelServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url_of(server), timeout=120) as made:
        yield made


class Slow:
    """A correlator that answers when it is told to: what it stands between is what is tried."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.may_answer, self.asked = inner, threading.Event(), threading.Semaphore(0)

    def ask(self, query: Query) -> Reply:
        self.asked.release()
        self.may_answer.wait(60)
        reply: Reply = self.inner.ask(query)
        return reply


def metric(client: httpx.Client, name: str) -> float:
    found = [line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{name} ")]
    return float(found[0].split()[1]) if found else 0.0


@pytest.mark.parametrize("name", ASKED)
def test_each_look_up_says_the_same_by_its_route_by_v1_by_v2_and_by_the_library(
    client: httpx.Client, tiny: TinyStore, name: str
) -> None:
    asked = ASKED[name]
    answered = client.post(f"{PATH}/{name}", json=asked)
    assert answered.status_code == 200, answered.text
    reply = answered.json()
    assert reply["look_up"] == name
    assert 0 < len(reply["hits"]) <= asked.get("top", 10) * 3
    assert all(0 <= hit["feature"] < FEATURES for hit in reply["hits"])
    named = {"by": name, **asked}
    (by_v1,) = client.post(PREDICT, json={"instances": [named]}).json()["predictions"]
    tensor = {"name": "query", "shape": [1], "datatype": "BYTES", "data": [json.dumps(named)]}
    (output,) = client.post(INFER, json={"inputs": [tensor]}).json()["outputs"]
    assert by_v1 == reply
    assert json.loads(output["data"][0]) == reply


def test_look_ups_of_several_kinds_go_by_grpc_too(server: ModelServer, client: httpx.Client) -> None:
    names = ("text", "vector")
    elements = [json.dumps({"by": name, **ASKED[name]}).encode() for name in names]
    tensor = pb.ModelInferRequest.InferInputTensor(
        name="query", datatype="BYTES", shape=[2], contents=pb.InferTensorContents(bytes_contents=elements)
    )
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(
            pb.ModelInferRequest(model_name="correlate", inputs=[tensor]), timeout=60
        )
    replies = [json.loads(each) for each in answer.outputs[0].contents.bytes_contents]
    assert [reply["look_up"] for reply in replies] == list(names)
    assert replies[1] == client.post(f"{PATH}/vector", json=ASKED["vector"]).json()


def test_the_client_gives_what_the_routes_say(server: ModelServer, client: httpx.Client) -> None:
    async def asynchronous() -> list[Any]:
        async with AsyncClient(url_of(server)) as asking:
            ask = asking.correlate
            return [
                await ask.text("once upon a time", top=3, by_token=True),
                await ask.token(5, ways=["lens"]),
                await ask.feature(3, relations=["decoder"], top=4),
                await ask.examples(POSITIVE, NEGATIVE, top=2),
                await ask.vector(ASKED["vector"]["vector"], top=5),
            ]

    with Client(url_of(server)) as asking:
        ask = asking.correlate
        found = [
            ask.text("once upon a time", top=3, by_token=True),
            ask.token(5, ways=["lens"]),
            ask.feature(3, relations=["decoder"], top=4),
            ask.examples(POSITIVE, NEGATIVE, top=2),
            ask.vector(ASKED["vector"]["vector"], top=5),
        ]
        with pytest.raises(InputError, match="top"):
            ask.text("once", top=0)
    assert [each.look_up for each in found] == list(ASKED)
    assert asyncio.run(asynchronous()) == found
    for each in found:
        hits = client.post(f"{PATH}/{each.look_up}", json=ASKED[each.look_up]).json()["hits"]
        assert [(hit.feature, hit.value) for hit in each.hits] == [(hit["feature"], hit["value"]) for hit in hits]
    assert found[3].separation is not None
    assert found[3].separation.positive == len(POSITIVE)


def test_what_is_served_is_described_for_both_predictors(client: httpx.Client) -> None:
    described = client.get("/describe").json()
    assert described["predictors"] == ["correlate", "steer"]
    (autoencoder,) = described["correlate"]["autoencoders"]
    assert autoencoder["width"] == FEATURES
    assert autoencoder["name"] == described["autoencoders"][0]["name"]
    assert not described["correlate"]["allows_saving"]
    assert client.get("/v1/models").json() == {"models": ["correlate", "model"]}


def test_the_document_says_what_each_look_up_reads(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for name in ("text", "concept", "token", "feature", "examples", "vector"):
        body = document["paths"][f"{PATH}/{name}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert "autoencoder" in schemas[body["$ref"].rpartition("/")[2]]["properties"]
    assert "LookUpInstance" in schemas


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("text", {}, "give one of text, messages or ids"),
        ("text", {"text": "a", "colour": 1}, "colour is unknown"),
        ("text", {"text": "a", "top": "3"}, "top"),
        ("text", {"text": "a", "top": 10**30}, "top"),
        ("text", {"ids": [10**9]}, "ids"),
        ("text", {"text": "a", "autoencoder": "../../etc/passwd"}, "autoencoder"),
        ("text", {"messages": [{"role": "user", "content": "a"}], "roles": ["assistant"]}, "roles"),
        ("concept", {"concept": ""}, "concept"),
        ("concept", {"concept": "animals"}, "concept"),
        ("token", {"token": "no single token is this long"}, "token"),
        ("token", {"token": -1}, "token"),
        ("feature", {"feature": FEATURES}, "feature"),
        ("feature", {"feature": 10**30}, "feature"),
        ("examples", {"positive": [], "negative": []}, "positive"),
        ("examples", {"positive": POSITIVE, "negative": NEGATIVE, "save_as": "x", "author": "me"}, "save_as"),
        ("vector", {"vector": [1.0]}, "vector"),
        ("vector", {"vector": [0.0] * WIDTH}, "vector"),
        ("vector", {"direction": "../../etc/passwd"}, "direction"),
        ("vector", {"direction": ""}, "direction: string should have at least 1 character"),
        ("examples", {"positive": [7], "negative": []}, "positive[0]: an example is a text, or the list of messages"),
        ("text", {"messages": []}, "messages: list should have at least 1 item, not []"),
        ("token", {"token": 3, "ways": ["luck"]}, "ways[0]: input should be 'lens', 'contexts' or 'lift', not 'luck'."),
        ("vector", {"vector": [1e308] * WIDTH, "direction": "x"}, "vector"),
    ],
)
def test_what_cannot_be_looked_up_is_the_clients_fault_and_the_field_is_named(
    client: httpx.Client, name: str, body: dict[str, Any], said: str
) -> None:
    answered = client.post(f"{PATH}/{name}", json=body)
    assert 400 <= answered.status_code < 500, answered.text
    assert said in answered.json()["error"]
    by_v1 = client.post(PREDICT, json={"instances": [{"by": name, **body}]})
    assert by_v1.status_code == answered.status_code


@pytest.mark.parametrize("by", [None, "melt", 3, ["text"]])
def test_an_instance_that_does_not_say_which_look_up_it_is_is_refused(client: httpx.Client, by: Any) -> None:
    answered = client.post(PREDICT, json={"instances": [{"by": by, "text": "once"}]})
    assert answered.status_code == 400
    assert answered.json()["error"].startswith("instances[0].by is")


def test_one_bad_instance_among_good_ones_is_named_and_none_is_answered(client: httpx.Client) -> None:
    instances = [{"by": "text", "text": "once"}, {"by": "text", "text": "once", "top": 0}]
    answered = client.post(PREDICT, json={"instances": instances})
    assert answered.status_code == 400
    assert "instances[1].top" in answered.json()["error"]
    answered = client.post(PREDICT, json={"instances": [instances[0], {"by": "vector", "vector": [1.0]}]})
    assert answered.json()["error"].startswith("instances[1]: vector: it has 1 components")
    assert client.post(PREDICT, json={"instances": []}).status_code == 400
    assert client.post(PREDICT, json={"instances": [instances[0]] * 129}).status_code == 400


def test_look_ups_are_counted_by_which_and_how_they_ended(client: httpx.Client) -> None:
    answered = 'mistudio_correlate_look_ups_total{look_up="vector",outcome="answered"}'
    refused = 'mistudio_correlate_look_ups_total{look_up="vector",outcome="refused"}'
    before = metric(client, answered), metric(client, refused)
    client.post(f"{PATH}/vector", json=ASKED["vector"])
    client.post(f"{PATH}/vector", json={"vector": [1.0]})
    assert (metric(client, answered), metric(client, refused)) == (before[0] + 1, before[1] + 1)
    assert metric(client, 'mistudio_correlate_running{kind="reads"}') == 0


def test_where_too_many_wait_further_ones_are_told_to_come_back_and_other_kinds_go_on(tiny: TinyStore) -> None:
    predictor = CorrelatePredictor(tiny.shared(), ServingConfig(passes=1, reads=1, queue=1))
    with serving([predictor]) as server, httpx.Client(base_url=url_of(server), timeout=60) as client:
        slow = Slow(predictor._correlator)
        predictor._correlator = slow  # type: ignore[assignment]
        answers: list[int] = []
        waiting = [
            threading.Thread(target=lambda: answers.append(client.post(f"{PATH}/text", json={"text": "a"}).status_code))
            for _ in range(2)
        ]
        for each in waiting:
            each.start()
        assert slow.asked.acquire(timeout=60)
        until(lambda: metric(client, 'mistudio_correlate_waiting{kind="passes"}') == 1)
        refused = client.post(f"{PATH}/text", json={"text": "a"})
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        with Client(url_of(server), retries=0) as asking, pytest.raises(Busy):
            asking.correlate.text("a")
        predictor._correlator = slow.inner
        assert client.post(f"{PATH}/feature", json={"feature": 1, "relations": ["decoder"]}).status_code == 200
        slow.may_answer.set()
        for each in waiting:
            each.join(60)
        assert answers == [200, 200]


def test_who_leaves_or_waits_too_long_frees_the_place_of_what_has_not_begun(tiny: TinyStore) -> None:
    predictor = CorrelatePredictor(tiny.shared(), ServingConfig(passes=1, queue=5))
    with (
        serving([predictor], request_timeout_s=0.5) as server,
        httpx.Client(base_url=url_of(server), timeout=60) as client,
    ):
        slow = Slow(predictor._correlator)
        predictor._correlator = slow  # type: ignore[assignment]
        assert client.post(f"{PATH}/text", json={"text": "a"}).status_code == 504
        with pytest.raises(httpx.ReadTimeout):
            client.post(f"{PATH}/text", json={"text": "a"}, timeout=0.1)
        until(lambda: metric(client, 'mistudio_correlate_waiting{kind="passes"}') == 0)
        assert metric(client, 'mistudio_correlate_running{kind="passes"}') == 1  # which cannot be stopped
        slow.may_answer.set()
        until(lambda: metric(client, 'mistudio_correlate_running{kind="passes"}') == 0)
        assert slow.asked.acquire(blocking=False)
        assert not slow.asked.acquire(blocking=False)  # the second never began
        predictor._correlator = slow.inner
        assert client.post(f"{PATH}/vector", json=ASKED["vector"]).status_code == 200


def test_a_direction_is_kept_where_that_is_allowed_and_says_by_which_key(
    tiny: TinyStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("writable") / "store"
    shutil.copytree(str(tiny.store.url).removeprefix("file:"), folder)

    def opened() -> Served:
        return open_served(open_store(str(folder)), [tiny.sae.uri], tiny.source)

    keys = read_keys(ServerSettings(), {ENVIRONMENT: f"alice:{SECRET}"})
    asked = {**ASKED["examples"], "save_as": "cats"}
    predictor = CorrelatePredictor(Shared(opened), ServingConfig(allow_saving=True))
    with serving([predictor], keys) as server, Client(url_of(server), SECRET) as client:
        saved = client.correlate.examples(**asked).separation
        assert saved is not None
        assert saved.saved is not None
        assert client.correlate.vector(direction="cats").hits
    with_name = [path.read_text() for path in (folder / "refs" / "direction").rglob("*") if path.is_file()]
    assert any("key alice" in text for text in with_name)


def test_concepts_are_embedded_as_the_server_was_told_and_what_is_searched_is_made_before_it_is_ready(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, scratch = looked_up(tmp_path_factory), tmp_path_factory.mktemp("scratch")
    monkeypatch.setenv("MISTUDIO_SCRATCH", str(scratch))
    predictor = CorrelatePredictor(Shared(line.open), ServingConfig(embed_with="subject:1"))
    with serving([predictor]) as server, Client(url_of(server)) as client:
        made = {path.name for path in scratch.rglob("*") if "concepts" in path.parts}
        assert made >= {"texts.sqlite", "vectors.f16"}
        (first, *_) = client.correlate.concept("cat", how="embedding", top=3).hits
        with line.open() as opened, open_embedder("subject:1", opened) as embedder:
            expected = Correlator(opened, embedder=embedder).concept(
                ConceptQuery(concept="cat", how="embedding", top=3)
            )
        assert (first.feature, first.value) == (expected.hits[0].feature, pytest.approx(expected.hits[0].value, 1e-4))
        assert "subject:1" not in httpx.get(f"{url_of(server)}/describe").text


def test_while_it_loads_look_ups_are_told_to_wait(tiny: TinyStore) -> None:
    may_load = threading.Event()

    def opened() -> Served:
        may_load.wait(60)
        return tiny.open()

    with (
        serving([CorrelatePredictor(Shared(opened))], loaded=False) as server,
        httpx.Client(base_url=url_of(server), timeout=60) as client,
    ):
        try:
            answered = client.post(f"{PATH}/text", json={"text": "a"})
            assert (answered.status_code, answered.headers["retry-after"]) == (503, "5")
        finally:
            may_load.set()


def until(holds: Any) -> None:
    for _ in range(1200):
        if holds():
            return
        threading.Event().wait(0.05)
    raise TimeoutError
