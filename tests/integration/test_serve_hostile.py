"""Hostile bodies to every route that reads one: each is refused as the client's fault, and the server goes on."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from model_servers.base.server import ModelServer
from model_servers.correlate.predictor import CorrelatePredictor
from model_servers.steer.predictor import SteerPredictor
from tests.support.served import CHAT_TEMPLATE, TinyStore, tiny_store
from tests.support.serving import serving, url_of

NAME = "model"
COMPLETIONS, CHAT = "/openai/v1/completions", "/openai/v1/chat/completions"
PREDICT, INFER = f"/v1/models/{NAME}:predict", f"/v2/models/{NAME}/infer"
POST = b"POST /openai/v1/completions HTTP/1.1\r\nhost: localhost\r\n"
HOLDERS = {
    COMPLETIONS: '{"model": "model", "prompt": "a", "max_tokens": 1, %s}',
    CHAT: '{"model": "model", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1, %s}',
    PREDICT: '{"instances": [{"prompt": "a", "max_tokens": 1, %s}]}',
    "/v1/correlate/text": '{"text": "a", %s}',
    "/v1/correlate/examples": '{"positive": ["a"], "negative": ["b"], %s}',
    "/v1/models/correlate:predict": '{"instances": [{"by": "text", "text": "a", %s}]}',
    INFER: '{"inputs": [{"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["a"]}], "parameters": {%s}}',
}
FRAGMENTS = {
    "deep": '"stop": ' + "[" * 150_000 + "]" * 150_000,
    "unclosed": '"steering": ' + '{"edits": [' * 1000,
    "nan": '"temperature": NaN',
    "infinity": '"temperature": -Infinity',
    "overflow": '"temperature": 1e400',
    "huge integer": f'"seed": {"9" * 90}',
    "endless integer": f'"n": {"9" * 5000}',
    "huge float": '"top_p": 1e308',
    "lone surrogate": '"stop": "\\ud800"',
    "surrogate name": '"\\udfff": 1',
    "twice": '"n": 1, "n": 2',
    "of another kind": '"n": {"a": [1]}',
    "negative": '"max_tokens": -1',
    "boolean": '"max_tokens": true',
    "many stops": f'"stop": {json.dumps(["x"] * 10_000)}',
    "long stop": f'"stop": "{"x" * 2000}"',
    "many biases": f'"logit_bias": {json.dumps({str(number): 1 for number in range(5000)})}',
    "bias of no token": '"logit_bias": {"99999999999999999999": 1}',
    "huge bias": '"logit_bias": {"1": 1e300}',
    "unknown": '"__class__": {"__init__": 1}',
    "endless name": f'"{"n" * 100_000}": 1',
}
STEERING = {
    "many edits": {"edits": [{"op": "ablate", "feature": 1}] * 300},
    "many features": {"edits": [{"op": "ablate", "features": list(range(5000))}]},
    "huge feature": {"edits": [{"op": "ablate", "feature": 10**30}]},
    "huge strength": {"edits": [{"op": "add", "feature": 1, "strength": 10**80}], "extra": 1},
    "huge position": {"edits": [{"op": "ablate", "feature": 64, "where": {"positions": [10**30, -(10**30)]}}]},
    "huge window": {"edits": [{"op": "ablate", "feature": 1, "where": {"window": [10**30, 1]}}]},
    "deep exclude": {"edits": [{"op": "ablate", "feature": 1, "where": None}]},
    "other autoencoder": {"edits": [{"op": "ablate", "feature": 1, "autoencoder": "../../etc/passwd"}]},
    "direction": {"edits": [{"op": "add", "direction": "../../etc/passwd", "strength": 1}]},
    "watch": {"watch": [10**30]},
    "maximum": {"edits": [{"op": "add", "feature": 1, "strength": 1, "unit": "feature_max"}]},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    return tiny_store(tmp_path_factory)


@pytest.fixture(scope="module")
def server(tiny: TinyStore) -> Iterator[ModelServer]:
    shared = tiny.shared()
    predictors = [CorrelatePredictor(shared, None, CHAT_TEMPLATE), SteerPredictor(shared, chat_template=CHAT_TEMPLATE)]
    with serving(predictors) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: ModelServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url_of(server), timeout=60) as made:
        yield made


def is_refused(client: httpx.Client, path: str, body: bytes, kind: str = "application/json") -> httpx.Response:
    answer = client.post(path, content=body, headers={b"content-type": kind.encode("utf-8", "surrogateescape")})
    assert 400 <= answer.status_code < 500, answer.text
    error: Any = answer.json()["error"]
    message = error["message"] if path.startswith("/openai") else error
    assert 0 < len(message) < 1500
    assert client.get("/v2/health/live").status_code == 200
    return answer


@pytest.mark.parametrize("path", HOLDERS)
@pytest.mark.parametrize("name", FRAGMENTS)
def test_a_hostile_field_is_refused(client: httpx.Client, path: str, name: str) -> None:
    is_refused(client, path, (HOLDERS[path] % FRAGMENTS[name]).encode())


@pytest.mark.parametrize("path", HOLDERS)
@pytest.mark.parametrize("name", STEERING)
def test_hostile_steering_is_refused(client: httpx.Client, path: str, name: str) -> None:
    steering: Any = STEERING[name]
    value = json.dumps(json.dumps(steering)) if path == INFER else json.dumps(steering)
    is_refused(client, path, (HOLDERS[path] % f'"steering": {value}').encode())


@pytest.mark.parametrize("path", HOLDERS)
@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"0", b'"text"', b"{", b"\xff\xfe", b"\x00" * 100, b"{}", '{"a": "é"}'.encode("utf-16")],
)
def test_what_is_no_request_is_refused(client: httpx.Client, path: str, body: bytes) -> None:
    is_refused(client, path, body)


@pytest.mark.parametrize("path", HOLDERS)
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "\udce9"]
)
def test_other_content_types_are_refused(client: httpx.Client, path: str, kind: str) -> None:
    assert is_refused(client, path, b"{}", kind).status_code == 415


@pytest.mark.parametrize("path", HOLDERS)
def test_other_methods_are_refused(client: httpx.Client, path: str) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH", "HEAD", "TRACE"):
        assert client.request(method, path).status_code in (404, 405)


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/%00", "/v2/models/%FF%FE/ready", "/v1/models/..%2f..%2fetc", "/v1/models/" + "a" * 5000,
        "/openai/v1/models/%ED%A0%80", "/%2e%2e/%2e%2e/etc/passwd", "/v2/models/model%0d%0aset-cookie:a",
    ],
)  # fmt: skip
def test_strange_paths_are_not_found(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "head",
    [
        b"GARBAGE\r\n\r\n",
        POST + b"content-length: -5\r\n\r\n",
        POST + b"content-length: 9\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        POST + b"x: " + b"y" * 200_000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_http_ends_the_connection_alone(server: ModelServer, client: httpx.Client, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        try:
            connection.sendall(head)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(1000)
        except OSError:  # the server has ended the connection already; on shutdown that is no ConnectionError
            answer = b""
    assert not answer or answer.split(b" ")[1].startswith(b"4")
    assert client.get("/v2/health/ready").status_code == 200


def test_a_client_that_leaves_in_the_middle_of_a_body_leaves_nothing_behind(
    server: ModelServer, client: httpx.Client
) -> None:
    head = POST + b"content-type: application/json\r\ncontent-length: 500\r\n\r\n"
    for _ in range(10):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head + b'{"model"')
    for _ in range(500):
        if "mistudio_requests_active 0.0" in client.get("/metrics").text:
            break
    else:
        pytest.fail("requests stay active")


def test_after_all_of_that_requests_are_answered(client: httpx.Client) -> None:
    answer = client.post(COMPLETIONS, json={"model": NAME, "prompt": "the", "max_tokens": 2})
    assert answer.status_code == 200
    assert client.post("/v1/correlate/text", json={"text": "the"}).status_code == 200
    assert "mistudio_steer_rows_in_use 0.0" in client.get("/metrics").text
