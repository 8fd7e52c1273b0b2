"""Whatever the OpenAPI document allows, or nearly allows, is answered, and never with an error of the server's."""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from mistudio.correlate.queries import QUERIES
from mistudio.steer.config import ServiceConfig
from model_servers.base.server import ModelServer
from model_servers.correlate.predictor import CorrelatePredictor
from model_servers.steer.predictor import SteerPredictor
from tests.support.served import CHAT_TEMPLATE, tiny_store
from tests.support.serving import serving, url_of

NAME = "model"
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    tiny = tiny_store(tmp_path_factory)
    config = ServiceConfig(rows=8, max_tokens=64)
    shared = tiny.shared()
    steer, correlate = SteerPredictor(shared, config, CHAT_TEMPLATE), CorrelatePredictor(shared, None, CHAT_TEMPLATE)
    with serving([correlate, steer]) as started:
        yield started


@pytest.fixture(scope="module")
def api(server: ModelServer) -> Any:
    return schemathesis.openapi.from_url(f"{url_of(server)}/openapi.json")


@pytest.mark.proof
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_request_is_answered_by_an_error_of_the_server(api: Any, mode: GenerationMode) -> None:
    statuses: Counter[tuple[str, int]] = Counter()
    for operation in (found.ok() for found in api.get_all_operations()):
        _try_out(operation, mode, statuses)
    paths = ("/openai/v1/completions", "/v1/models/{model_name}:predict", "/v1/correlate/text", "/v1/correlate/token")
    written = [statuses[path, 200] for path in paths]
    assert all(written) or mode is GenerationMode.NEGATIVE, statuses


def _try_out(operation: Any, mode: GenerationMode, statuses: "Counter[tuple[str, int]]") -> None:
    @settings(
        max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        _aim(case)
        response = case.call()
        statuses[operation.path, response.status_code] += 1
        assert response.status_code < 500, response.text
        assert response.headers["x-request-id"]
        if response.status_code >= 400:
            assert response.json()["error"]

    try:
        check()
    except Unsatisfiable:  # no parameter, and so none to get wrong
        assert mode is GenerationMode.NEGATIVE


def _aim(case: Any) -> None:
    """Name the model that is there, and only one thing to go on with, as no generator would guess."""
    instances = case.body.get("instances") if isinstance(case.body, dict) else None
    objects = [each for each in instances if isinstance(each, dict)] if isinstance(instances, list) else []
    is_look_up = bool(objects) and "by" in objects[0]
    if "model_name" in case.path_parameters:
        case.path_parameters["model_name"] = "correlate" if is_look_up else NAME
    if not isinstance(case.body, dict):
        return
    if isinstance(case.body.get("model"), str):
        case.body["model"] = NAME
    if case.operation.path.startswith("/v1/correlate/"):
        _aim_look_up(case.body, case.operation.path.rpartition("/")[2])
    if len(objects) == len(instances or ()) > 0:
        case.body["instances"] = [each for each in objects if ("by" in each) == is_look_up]
    for instance in objects:
        if "by" in instance:
            _aim_look_up(instance, instance["by"])
        elif (instance.get("prompt") is None) == (instance.get("messages") is None):
            instance |= {"prompt": "the cat", "messages": None}


def _aim_look_up(asked: dict[str, Any], name: Any) -> None:
    asked.pop("autoencoder", None)
    if name == "text" and [asked.get(each) for each in ("text", "messages", "ids")].count(None) != 2:
        asked |= {"text": "the cat", "messages": None, "ids": None, "roles": None}


def test_the_document_has_every_route_that_reads_a_body(api: Any, server: ModelServer) -> None:
    document = httpx.get(f"{url_of(server)}/openapi.json").json()
    bodies = {path for path, methods in document["paths"].items() if "requestBody" in methods.get("post", {})}
    assert bodies == {
        "/openai/v1/completions",
        "/openai/v1/chat/completions",
        "/v1/models/{model_name}:predict",
        "/v2/models/{model_name}/infer",
        *(f"/v1/correlate/{name}" for name in QUERIES),
    }
    schemas = document["components"]["schemas"]
    assert "steering" in schemas["CompletionRequest"]["properties"]
    assert {"Add", "Clamp", "Scale", "Ablate", "Cap"} <= schemas.keys()
