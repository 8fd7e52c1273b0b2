"""Whatever the OpenAPI document says of the monitor, or nearly says, is answered, and never by an error."""

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

from model_servers.base.server import ModelServer
from tests.support.monitored import EVENTS, watching
from tests.support.served import tiny_store
from tests.support.serving import url_of

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "8"))
ENDLESS = "/v1/monitor/stream"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    with watching(tiny_store(tmp_path_factory), tmp_path_factory.mktemp("schema")) as (started, _):
        yield started


@pytest.fixture(scope="module")
def api(server: ModelServer) -> Any:
    return schemathesis.openapi.from_url(f"{url_of(server)}/openapi.json")


@pytest.mark.proof
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_request_is_answered_by_an_error_of_the_server(api: Any, server: ModelServer, mode: GenerationMode) -> None:
    statuses: Counter[tuple[str, str, int]] = Counter()
    for operation in (found.ok() for found in api.get_all_operations()):
        if "/monitor/" in operation.path or operation.path.endswith((":predict", "/infer")):
            _try_out(operation, mode, statuses, url_of(server))
    if mode is GenerationMode.POSITIVE:
        for path in ("alerts", "history", "status", "rules", "drift"):
            assert statuses["get", f"/v1/monitor/{path}", 200], statuses
        assert statuses["post", EVENTS, 202] + statuses["post", EVENTS, 400], statuses


def _try_out(operation: Any, mode: GenerationMode, statuses: "Counter[tuple[str, str, int]]", url: str) -> None:
    @settings(
        max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        if "model_name" in case.path_parameters:
            case.path_parameters["model_name"] = "monitor"
        if operation.path == ENDLESS:
            _begun(url, case.query)
            return
        response = case.call()
        statuses[operation.method, operation.path, response.status_code] += 1
        assert response.status_code < 500, response.text
        assert response.headers["x-request-id"]
        if response.status_code >= 400:
            assert response.json()["error"]

    try:
        check()
    except Unsatisfiable:  # no parameter, and so none to get wrong
        assert mode is GenerationMode.NEGATIVE


def _begun(url: str, query: Any) -> None:
    """A stream has no end: its head is enough."""
    try:
        with httpx.Client(timeout=60) as client, client.stream("GET", url + ENDLESS, params=query) as response:
            assert response.status_code in (200, 400), response.status_code
    except httpx.InvalidURL:  # longer than this client sends
        pass
