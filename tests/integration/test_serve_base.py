"""What all servers have: keys, limits, ids, logs, metrics, health, drain, and clients that leave."""

import gc
import io
import json
import logging
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from mistudio.errors import NotFound
from mistudio.steer.config import ServiceConfig
from model_servers import command_line
from model_servers.base.http_protocol import HeadTimedProtocol
from model_servers.base.keys import ENVIRONMENT, Keys, read_keys
from model_servers.base.logs import JSONFormatter
from model_servers.base.server import ModelServer
from model_servers.base.settings import ServerSettings
from model_servers.base.shared import Shared
from model_servers.steer.predictor import SteerPredictor
from tests.support.served import TinyStore, tiny_store
from tests.support.serving import serving, url_of

NAME = "model"
SECRET = "correct-horse-battery"
OTHER = "staple-of-sixteen-and-more"
LONG = {"model": NAME, "prompt": "once", "max_tokens": 2000, "ignore_eos": True, "stream": True}
SHORT = {"model": NAME, "prompt": "once", "max_tokens": 2}
PATH = "/openai/v1/completions"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    return tiny_store(tmp_path_factory)


@pytest.fixture(scope="module")
def server(tiny: TinyStore) -> Iterator[ModelServer]:
    """One without keys, for few and small requests."""
    with serving([SteerPredictor(tiny.shared())], max_body_bytes=2000) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: ModelServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url_of(server), timeout=60) as made:
        yield made


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What the servers log meanwhile."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JSONFormatter())
    logger = logging.getLogger("model_servers")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def two_keys() -> Keys:
    return read_keys(ServerSettings(), {ENVIRONMENT: f"alice:{SECRET},bob:{OTHER}"})


def metric(client: httpx.Client, name: str) -> float:
    (line,) = (line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


def until(holds: Callable[[], bool]) -> None:
    for _ in range(1200):
        if holds():
            return
        threading.Event().wait(0.05)
    raise TimeoutError


def test_with_keys_only_they_may_ask_and_probes_need_none(tiny: TinyStore, logged: io.StringIO) -> None:
    prompt = f"a diary {uuid.uuid4()}"
    with serving([SteerPredictor(tiny.shared())], two_keys()) as server:
        with httpx.Client(base_url=url_of(server)) as client:
            for path in ("/v2/health/live", "/v2/health/ready", f"/v2/models/{NAME}/ready", "/metrics"):
                assert client.get(path).status_code == 200
            for path in ("/", "/describe", "/openapi.json", "/v1/models", "/openai/v1/models", "/nothing"):
                refused = client.get(path, headers={"authorization": f"Bearer {SECRET}x"})
                assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert client.post(PATH, json={**SHORT, "prompt": prompt}).json()["error"]["code"] == "invalid_api_key"
        with openai.OpenAI(base_url=f"{url_of(server)}/openai/v1", api_key=OTHER) as right:
            right.completions.create(model=NAME, prompt=prompt, max_tokens=2)
        with (
            openai.OpenAI(base_url=f"{url_of(server)}/openai/v1", api_key=OTHER[:-1]) as wrong,
            pytest.raises(openai.AuthenticationError),
        ):
            wrong.completions.create(model=NAME, prompt=prompt)
    lines = list(map(json.loads, logged.getvalue().splitlines()))
    answered = [line for line in lines if line.get("route") == PATH and line["status"] == 200]
    assert [line["key"] for line in answered] == ["bob"]
    for text in (prompt, SECRET, OTHER):
        assert text not in logged.getvalue()


def test_a_key_that_asks_too_often_is_told_when_to_come_back_and_another_is_not(tiny: TinyStore) -> None:
    settings = {"requests_per_minute": 1, "burst": 2}
    with (
        serving([SteerPredictor(tiny.shared())], two_keys(), **settings) as server,
        httpx.Client(base_url=url_of(server)) as client,
    ):
        answers = [client.get("/v1/models", headers={"authorization": f"Bearer {SECRET}"}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert 1 <= int(answers[2].headers["retry-after"]) <= 60
        assert client.get("/v1/models", headers={"authorization": f"Bearer {OTHER}"}).status_code == 200
        assert client.get("/v2/health/ready").status_code == 200


def test_a_body_that_is_too_large_is_refused_whether_or_not_it_says_so(client: httpx.Client) -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"model": "model", "prompt": "'
        yield b"x" * 3000
        yield b'"}'

    for content in (b"".join(pieces()), pieces()):
        refused = client.post(PATH, content=content, headers={"content-type": "application/json"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "request_too_large")
    assert client.post(PATH, json=SHORT).status_code == 200


@pytest.mark.parametrize(("given", "kept"), [("abc-1:2", True), ("a b", False), ("x" * 129, False), ("", False)])
def test_a_sane_request_id_comes_back_and_others_are_replaced(client: httpx.Client, given: str, kept: bool) -> None:
    for path in ("/describe", "/nothing", "/v2/health/live"):
        answered = client.get(path, headers={"x-request-id": given}).headers["x-request-id"]
        assert (answered == given) is kept
        assert answered


def test_a_page_of_another_site_gets_nothing(client: httpx.Client) -> None:
    """Neither by asking first, nor by a request that needs no asking, nor by a name that leads here."""
    origin = {"origin": "http://elsewhere.example"}
    asked = client.options(PATH, headers={**origin, "access-control-request-method": "POST"})
    assert asked.status_code == 405
    assert not [name for name in asked.headers if name.startswith("access-control")]
    assert (
        client.post(PATH, content=json.dumps(SHORT), headers={**origin, "content-type": "text/plain"}).status_code
        == 415
    )
    assert client.post(PATH, json=SHORT, headers={"host": "elsewhere.example"}).status_code == 403
    for host in ("localhost:8080", "127.0.0.1", "[::1]:80"):
        assert client.post(PATH, json=SHORT, headers={"host": host}).status_code == 200


def test_labels_of_metrics_do_not_grow_with_what_clients_write(client: httpx.Client) -> None:
    def series() -> set[str]:
        return {line.rpartition(" ")[0] for line in client.get("/metrics").text.splitlines()}

    def ask(name: str) -> None:
        client.get(f"/{name}")
        client.get(f"/v2/models/{name}")
        client.post(PATH, json={**SHORT, "model": name})
        client.request("FROBNICATE" + name[:3].upper(), "/describe")

    ask("first")
    series()  # which is counted too
    before = series()
    for _ in range(20):
        ask(uuid.uuid4().hex)
    assert series() == before
    assert metric(client, 'mistudio_requests_total{method="GET",route="none",status="404"}') >= 21


def test_before_it_is_loaded_a_server_lives_but_is_not_ready(tiny: TinyStore) -> None:
    may_load = threading.Event()

    def opened() -> Any:
        may_load.wait(60)
        return tiny.open()

    with (
        serving([SteerPredictor(Shared(opened))], loaded=False) as server,
        httpx.Client(base_url=url_of(server)) as client,
    ):
        try:
            assert client.get("/v2/health/live").json() == {"live": True}
            asked = [client.get(path) for path in ("/v2/health/ready", f"/v2/models/{NAME}/ready", "/describe")]
            asked += [client.post(PATH, json=SHORT), client.post(f"/v1/models/{NAME}:predict", json={})]
            assert [answer.status_code for answer in asked] == [503] * 5
            assert all(answer.headers["retry-after"] for answer in asked)
            assert client.get("/v1/models").json() == {"models": []}
        finally:
            may_load.set()
        until(lambda: client.get("/v2/health/ready").status_code == 200)
        assert client.get("/v1/models").json() == {"models": [NAME]}
        assert client.get(f"/v2/models/{NAME}/ready").json() == {"name": NAME, "ready": True}
        assert client.get("/v2/models/other/ready").status_code == 404
        assert client.post(PATH, json=SHORT).status_code == 200


def test_a_server_that_cannot_load_ends_with_what_is_wrong() -> None:
    def opened() -> Any:
        message = "There is nothing to serve."
        raise NotFound(message)

    server = ModelServer([SteerPredictor(Shared(opened))], ServerSettings(port=0), Keys())
    with pytest.raises(NotFound, match="nothing to serve"):
        server.run()


def test_when_all_rows_and_places_are_taken_further_requests_are_told_to_come_back(tiny: TinyStore) -> None:
    with (
        serving([SteerPredictor(tiny.shared(), ServiceConfig(rows=1, queue=0))]) as server,
        httpx.Client(base_url=url_of(server), timeout=60) as client,
    ):
        with client.stream("POST", PATH, json=LONG) as first:
            parts = first.iter_bytes()
            next(parts)
            refused = client.post(PATH, json=SHORT)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_busy")
            assert int(refused.headers["retry-after"]) >= 1
        until(lambda: metric(client, "mistudio_steer_rows_in_use") == 0)
        assert client.post(PATH, json=SHORT).status_code == 200


def test_no_more_requests_are_read_at_once_than_the_server_may_hold(tiny: TinyStore) -> None:
    with (
        serving([SteerPredictor(tiny.shared())], max_requests=1) as server,
        httpx.Client(base_url=url_of(server), timeout=60) as client,
        client.stream("POST", PATH, json=LONG) as first,
    ):
        parts = first.iter_bytes()
        next(parts)
        assert client.get("/describe").status_code == 429
        assert client.get("/v2/health/ready").status_code == 200


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_leaves_frees_its_rows(client: httpx.Client, streams: bool) -> None:
    left, failed = (metric(client, f"mistudio_steer_{name}_total") for name in ("cancelled", "failed"))
    content = json.dumps({**LONG, "n": 4, "stream": streams}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(content)}\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port)) as leaving:
        leaving.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + content)
        if streams:
            assert leaving.recv(100).startswith(b"HTTP/1.1 200")
        until(lambda: metric(client, "mistudio_steer_rows_in_use") == 4)
    until(lambda: metric(client, "mistudio_steer_rows_in_use") == 0)
    assert metric(client, "mistudio_steer_cancelled_total") == left + 1
    assert metric(client, "mistudio_steer_failed_total") == failed
    until(lambda: metric(client, "mistudio_requests_active") == 0)


def test_a_request_that_takes_too_long_ends_with_an_error_that_says_so(tiny: TinyStore) -> None:
    with (
        serving([SteerPredictor(tiny.shared())], request_timeout_s=0.5) as server,
        httpx.Client(base_url=url_of(server), timeout=60) as client,
    ):
        whole = client.post(PATH, json={**LONG, "stream": False})
        assert (whole.status_code, whole.json()["error"]["code"]) == (504, "request_timeout")
        events = client.post(PATH, json=LONG).text.split("\n\n")
        last = json.loads(events[-2].removeprefix("data: "))
        assert last["error"]["code"] == "request_timeout"
        until(lambda: metric(client, "mistudio_steer_rows_in_use") == 0)


def test_who_does_not_finish_the_head_of_a_request_is_let_go(tiny: TinyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeadTimedProtocol, "head_timeout_s", 0.3)
    head = b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with serving([SteerPredictor(tiny.shared())]) as server:
        for whole, begun in ((b"", b""), (b"", head[:20]), (head, head[:20])):
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
                connection.sendall(whole)
                answer = b""
                while whole and not answer.endswith(b"}"):
                    answer += connection.recv(1000)
                connection.sendall(begun)
                assert connection.recv(1000) == b""


def test_a_server_whose_engine_has_ended_is_neither_alive_nor_ready(tiny: TinyStore) -> None:
    predictor = SteerPredictor(tiny.shared())
    with serving([predictor]) as server, httpx.Client(base_url=url_of(server), timeout=60) as client:
        assert client.get("/v2/health/live").status_code == 200
        assert predictor._service is not None
        predictor._service.close()
        for path in ("/v2/health/live", "/v2/health/ready", f"/v2/models/{NAME}/ready"):
            assert client.get(path).status_code == 503
        assert client.post(PATH, json=SHORT).status_code == 503


def test_what_goes_wrong_in_the_server_is_told_nobody_but_logged_without_the_prompt(
    tiny: TinyStore, logged: io.StringIO
) -> None:
    served = tiny.open()
    prompt = f"a diary {uuid.uuid4()}"

    def broken(text: str) -> Any:
        raise KeyError(text)

    predictor = SteerPredictor(Shared(lambda: served))
    with (
        serving([predictor]) as server,
        httpx.Client(base_url=url_of(server), timeout=60) as client,
    ):
        assert predictor._service is not None
        predictor._service.reader.text = broken  # type: ignore[method-assign]
        answer = client.post(PATH, json={**SHORT, "prompt": prompt})
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "internal"
        assert "KeyError" not in answer.text
        assert client.get("/v2/health/ready").status_code == 200
    failed = [line for line in map(json.loads, logged.getvalue().splitlines()) if line["message"] == "failed"]
    assert [line["exception"] for line in failed] == ["KeyError"]
    assert failed[0]["request_id"] == answer.headers["x-request-id"]
    assert prompt not in logged.getvalue()


def test_what_was_loaded_is_left_alone_by_the_collector_of_garbage_once_it_is_there(tiny: TinyStore) -> None:
    frozen: list[int] = []
    try:
        with serving([SteerPredictor(tiny.shared())], on_loaded=lambda: frozen.append(left_to_itself())) as server:
            assert httpx.get(f"{url_of(server)}/v2/health/ready").status_code == 200
    finally:
        gc.unfreeze()
    assert len(frozen) == 1
    assert frozen[0] > 100_000


def left_to_itself() -> int:
    command_line._leave_to_itself()
    return gc.get_freeze_count()
