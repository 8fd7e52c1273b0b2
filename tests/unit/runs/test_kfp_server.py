"""The server of the tests is as strict as the one that it stands for: what is wrong is refused in Google's form."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import kfp_server_api as api
import pytest

from tests.support.kfp_api import KfpServer

ROOT = Path(__file__).parents[3]
COMPILED = ROOT / "pipelines" / "compiled" / "interpret.yaml"


@pytest.fixture
def server() -> Iterator[KfpServer]:
    with KfpServer(tokens={"mine": {"ns"}}, multi_user=True) as started:
        yield started


@pytest.fixture
def client(server: KfpServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"Authorization": "Bearer mine"}, trust_env=False) as made:
        yield made


def refused(answer: httpx.Response, status: int, code: int, text: str) -> None:
    content = answer.json()
    assert (answer.status_code, content["code"]) == (status, code)
    assert set(content) == {"error", "code", "message", "details"}
    assert text in content["message"]


def uploaded(client: httpx.Client, content: bytes, **query: str) -> httpx.Response:
    return client.post("/apis/v2beta1/pipelines/upload_version", params=query, files={"uploadfile": content})


def test_what_the_generated_client_does_not_know_is_refused(client: httpx.Client) -> None:
    pipeline = {"display_name": "p", "namespace": "ns"}
    refused(client.post("/apis/v2beta1/pipelines", json=pipeline | {"colour": 1}), 400, 3, 'unknown field "colour"')
    refused(client.post("/apis/v2beta1/pipelines", json=pipeline | {"tags": {"a": 1}}), 400, 3, "str was expected")
    refused(client.post("/apis/v2beta1/pipelines", content=b"{"), 400, 3, "no JSON")
    refused(client.get("/apis/v2beta1/pipelines/names/p", params={"colour": "x"}), 400, 3, "unknown query")
    refused(client.get("/apis/v2beta1/nothing"), 404, 5, "Not Found")
    refused(client.post("/apis/v2beta1/healthz"), 501, 12, "Not Allowed")


def test_who_asks_and_where_is_looked_at(client: httpx.Client, server: KfpServer) -> None:
    refused(httpx.get(f"{server.url}/apis/v2beta1/runs", trust_env=False), 401, 16, "no user identity")
    refused(client.get("/apis/v2beta1/runs"), 400, 3, "Namespace is empty")
    refused(client.get("/apis/v2beta1/runs", params={"namespace": "other"}), 403, 7, "not authorized")


def test_names_are_given_once_and_files_are_pipelines(client: httpx.Client, server: KfpServer) -> None:
    pipeline = {"display_name": "p", "namespace": "ns"}
    made = client.post("/apis/v2beta1/pipelines", json=pipeline).json()
    refused(client.post("/apis/v2beta1/pipelines", json=pipeline), 409, 6, "already exist")
    query = {"name": "v", "pipelineid": made["pipeline_id"]}
    for content in (b"root: [", b"no: pipeline", b"[1, 2]", b""):
        refused(uploaded(client, content, **query), 400, 3, "pipeline spec is invalid")
    assert uploaded(client, COMPILED.read_bytes(), **query).status_code == 200
    refused(uploaded(client, COMPILED.read_bytes(), **query), 409, 6, "already exist")
    refused(uploaded(client, b"x", name="v", pipelineid="none"), 404, 5, "Pipeline none not found")


@pytest.fixture
def reference(client: httpx.Client) -> dict[str, Any]:
    pipeline = client.post("/apis/v2beta1/pipelines", json={"display_name": "p", "namespace": "ns"}).json()
    version = uploaded(client, COMPILED.read_bytes(), name="v", pipelineid=pipeline["pipeline_id"]).json()
    experiment = client.post("/apis/v2beta1/experiments", json={"display_name": "e", "namespace": "ns"}).json()
    known = {name: version[name] for name in ("pipeline_id", "pipeline_version_id")}
    return {"display_name": "r", "experiment_id": experiment["experiment_id"], "pipeline_version_reference": known}


def test_parameters_of_a_run_are_those_of_its_pipeline(client: httpx.Client, reference: dict[str, Any]) -> None:
    for parameters, text in (({"kk": 1}, "not defined"), ({"k": "one"}, "NUMBER_INTEGER"), ({"model": 3}, "STRING")):
        body = reference | {"runtime_config": {"parameters": parameters}}
        refused(client.post("/apis/v2beta1/runs", json=body), 400, 3, text)
    refused(client.post("/apis/v2beta1/runs", json=reference | {"experiment_id": "x"}), 404, 5, "Experiment x")


def test_pages_follow_each_other_and_a_token_is_of_its_question(
    client: httpx.Client, reference: dict[str, Any]
) -> None:
    made = [client.post("/apis/v2beta1/runs", json=reference).json()["run_id"] for _ in range(5)]
    query = {"namespace": "ns", "page_size": "2", "sort_by": "created_at desc"}
    seen, token = [], ""
    while True:
        answer = client.get("/apis/v2beta1/runs", params=query | {"page_token": token}).json()
        seen += [run["run_id"] for run in answer["runs"]]
        if not answer["next_page_token"]:
            break
        token = answer["next_page_token"]
    assert seen == made[::-1]
    other = query | {"page_token": token, "sort_by": "created_at asc"}
    refused(client.get("/apis/v2beta1/runs", params=other), 400, 3, "of another question")
    refused(client.get("/apis/v2beta1/runs", params=query | {"page_token": "!"}), 400, 3, "invalid package token")
    refused(client.get("/apis/v2beta1/runs", params=query | {"sort_by": "colour"}), 400, 3, "sort_by")


def test_a_run_goes_from_state_to_state(client: httpx.Client, server: KfpServer, reference: dict[str, Any]) -> None:
    run_id = client.post("/apis/v2beta1/runs", json=reference).json()["run_id"]
    address = f"/apis/v2beta1/runs/{run_id}"
    shown = client.get(address).json()
    assert (shown["state"], shown["finished_at"]) == ("PENDING", "1970-01-01T00:00:00+00:00")
    refused(client.post(f"{address}:retry"), 400, 9, "must be Failed")
    assert client.post(f"{address}:terminate").json() == {}
    refused(client.post(f"{address}:terminate"), 400, 9, "is being terminated")
    server.run.become("CANCELED")
    assert client.post(f"{address}:retry").json() == {}
    assert client.get(address).json()["state"] == "RUNNING"


def test_what_it_answers_is_what_the_generated_client_reads(server: KfpServer, reference: dict[str, Any]) -> None:
    configuration = api.Configuration(host=server.url)
    configuration.api_key["authorization"] = "mine"
    configuration.api_key_prefix["authorization"] = "Bearer"
    runs = api.RunServiceApi(api.ApiClient(configuration))
    made = runs.run_service_create_run(json.loads(json.dumps(reference)))
    server.run.workflow.begin("train")
    read = runs.run_service_get_run(made.run_id)
    names = [each.display_name for each in read.run_details.task_details]
    assert names == ["root-driver", "root", "train-driver", "train", "executor"]
    assert read.run_details.task_details[3].child_tasks[0].pod_name.endswith("-1031676")
