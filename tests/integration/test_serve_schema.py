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

from mistudio.steer.config import ServiceConfig
from model_servers.base.server import ModelServer
from model_servers.steer.predictor import SteerPredictor
from tests.support.served import CHAT_TEMPLATE, tiny_store
from tests.support.serving import serving, url_of

NAME = "model"
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    tiny = tiny_store(tmp_path_factory)
    config = ServiceConfig(rows=8, max_tokens=64)
    with serving([SteerPredictor(tiny.shared(), config, CHAT_TEMPLATE)]) as started:
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
    written = [statuses[path, 200] for path in ("/openai/v1/completions", "/v1/models/{model_name}:predict")]
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
    if "model_name" in case.path_parameters:
        case.path_parameters["model_name"] = NAME
    if not isinstance(case.body, dict):
        return
    if isinstance(case.body.get("model"), str):
        case.body["model"] = NAME
    instances = case.body.get("instances")
    for instance in instances if isinstance(instances, list) else ():
        if isinstance(instance, dict) and (instance.get("prompt") is None) == (instance.get("messages") is None):
            instance |= {"prompt": "the cat", "messages": None}


def test_the_document_has_every_route_that_reads_a_body(api: Any, server: ModelServer) -> None:
    document = httpx.get(f"{url_of(server)}/openapi.json").json()
    bodies = {path for path, methods in document["paths"].items() if "requestBody" in methods.get("post", {})}
    assert bodies == {
        "/openai/v1/completions",
        "/openai/v1/chat/completions",
        "/v1/models/{model_name}:predict",
        "/v2/models/{model_name}/infer",
    }
    schemas = document["components"]["schemas"]
    assert "steering" in schemas["CompletionRequest"]["properties"]
    assert {"Add", "Clamp", "Scale", "Ablate", "Cap"} <= schemas.keys()
