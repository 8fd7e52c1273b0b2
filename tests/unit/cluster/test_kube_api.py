"""The test cluster does what an API server does where the code under test relies on it."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.kube_accounts import ACCOUNT, DATA, TOKEN
from tests.support.kube_api import KubeApi, role

PODS = f"/api/v1/namespaces/{DATA}/pods"
JOBS = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{DATA}/trainjobs"
ALL = ("get", "list", "watch", "create", "update", "patch", "delete")
POD = {"metadata": {"name": "p", "labels": {"app": "a"}}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}}
JOB = {"metadata": {"name": "j"}, "spec": {"runtimeRef": {"name": "torch"}, "trainer": {"numNodes": 2}}}


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with KubeApi("trainjobs") as api:
        rules = (("", ("pods", "pods/status"), ALL), ("trainer.kubeflow.org", ("trainjobs", "trainjobs/status"), ALL))
        api.rights.account(ACCOUNT, TOKEN, role(DATA, *rules))
        yield api


@pytest.fixture
def http(api: KubeApi) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=api.url, headers=headers, timeout=20, trust_env=False) as client:
        yield client


def patch(http: httpx.Client, path: str, kind: str, body: Any, **query: str) -> httpx.Response:
    headers = {"Content-Type": f"application/{kind}"}
    return http.patch(path, content=json.dumps(body), headers=headers, params=query)


def test_unknown_fields_are_dropped_or_refused_as_the_request_asks(http: httpx.Client) -> None:
    odd = {**JOB, "spec": {**JOB["spec"], "nodes": 2}}
    refused = http.post(JOBS, json=odd, params={"fieldValidation": "Strict"})
    assert (refused.status_code, refused.json()["reason"]) == (400, "BadRequest")
    made = http.post(JOBS, json=odd).json()
    assert "nodes" not in made["spec"]
    assert made["spec"]["runtimeRef"]["kind"] == "ClusterTrainingRuntime"  # by the schema's default


def test_fields_that_cannot_change_do_not(http: httpx.Client) -> None:
    made = http.post(JOBS, json=JOB).json()
    made["spec"]["trainer"]["numNodes"] = 3
    refused = http.put(f"{JOBS}/j", json=made)
    assert refused.status_code == 422
    assert refused.json()["details"]["causes"][0]["field"] == "spec.trainer"
    assert "field is immutable" in refused.json()["message"]


def test_names_bounds_and_missing_fields_are_refused(http: httpx.Client) -> None:
    for metadata, spec, field in (
        ({"name": "9j"}, JOB["spec"], ""),  # a rule of the whole object
        ({"name": "J"}, JOB["spec"], "metadata.name"),
        ({"name": "j"}, {"trainer": {}}, "spec.runtimeRef"),
        ({"name": "j"}, {"runtimeRef": {"name": ""}}, "spec.runtimeRef.name"),
        ({"name": "j"}, {"runtimeRef": {"name": "a"}, "suspend": "no"}, "spec.suspend"),
    ):
        refused = http.post(JOBS, json={"metadata": metadata, "spec": spec})
        assert refused.status_code == 422, metadata
        assert field in [each["field"] for each in refused.json()["details"]["causes"]]


def test_the_four_kinds_of_patches_do_what_each_does(http: httpx.Client) -> None:
    http.post(PODS, json=POD)
    path = f"{PODS}/p"
    strategic = {"spec": {"containers": [{"name": "b", "image": "new"}]}}
    patched = patch(http, path, "strategic-merge-patch+json", strategic).json()
    assert patched["spec"]["containers"] == [{"name": "a"}, {"name": "b", "image": "new"}]
    patched = patch(http, path, "merge-patch+json", {"spec": {"containers": [{"name": "c"}]}}).json()
    assert patched["spec"]["containers"] == [{"name": "c"}]
    operations = [
        {"op": "test", "path": "/metadata/labels/app", "value": "a"},
        {"op": "add", "path": "/metadata/labels/x~1y", "value": "b"},
        {"op": "remove", "path": "/metadata/labels/app"},
    ]
    patched = patch(http, path, "json-patch+json", operations).json()
    assert patched["metadata"]["labels"] == {"x/y": "b"}
    assert patch(http, path, "json-patch+json", operations).status_code == 422
    http.post(JOBS, json=JOB)
    assert patch(http, f"{JOBS}/j", "strategic-merge-patch+json", {}).status_code == 415


def test_who_applies_a_field_owns_it(http: httpx.Client) -> None:
    wanted = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "1", "b": "1"}}, "spec": {}}
    path, other = f"{PODS}/p", {**wanted, "metadata": {"name": "p", "labels": {"a": "2"}}}
    assert patch(http, path, "apply-patch+yaml", wanted, fieldManager="one").status_code == 201
    refused = patch(http, path, "apply-patch+yaml", other, fieldManager="two")
    assert (refused.status_code, refused.json()["details"]["causes"][0]["field"]) == (409, ".metadata.labels.a")
    forced = patch(http, path, "apply-patch+yaml", other, fieldManager="two", force="true").json()
    assert forced["metadata"]["labels"] == {"a": "2", "b": "1"}
    less = {**wanted, "metadata": {"name": "p", "labels": {}}}
    assert patch(http, path, "apply-patch+yaml", less, fieldManager="one").json()["metadata"]["labels"] == {"a": "2"}


def test_a_status_is_written_by_its_subresource_alone(http: httpx.Client) -> None:
    made = http.post(JOBS, json={**JOB, "status": {"jobsStatus": []}}).json()
    assert "status" not in made
    status = {"conditions": [{"type": "Complete", "status": "True", "reason": "r", "message": "m",
                              "lastTransitionTime": "2026-01-01T00:00:00Z"}]}  # fmt: skip
    done = patch(http, f"{JOBS}/j/status", "merge-patch+json", {"status": status, "spec": {"suspend": True}}).json()
    assert done["status"] == status
    assert done["spec"]["suspend"] is False
    assert done["metadata"]["generation"] == 1
    odd = patch(http, f"{JOBS}/j/status", "merge-patch+json", {"status": {"conditions": [{"type": "x"}]}})
    assert odd.status_code == 422


def test_a_watch_tells_every_change_from_a_version_on(api: KubeApi, http: httpx.Client) -> None:
    http.post(PODS, json=POD)
    version = http.get(PODS).json()["metadata"]["resourceVersion"]
    seen: list[tuple[str, str]] = []
    query = {"watch": "true", "resourceVersion": version, "labelSelector": "app=a", "timeoutSeconds": "20"}

    def watch() -> None:
        with http.stream("GET", PODS, params=query) as answer:
            for line in answer.iter_lines():
                event = json.loads(line)
                seen.append((event["type"], event["object"]["metadata"]["name"]))
                if len(seen) == 3:
                    return

    watcher = threading.Thread(target=watch)
    watcher.start()
    other = {"metadata": {"name": "other", "labels": {"app": "b"}}, "spec": {"containers": []}}
    http.post(PODS, json=other)
    http.post(PODS, json={**POD, "metadata": {"name": "q", "labels": {"app": "a"}}})
    patch(http, f"{PODS}/p", "merge-patch+json", {"spec": {"nodeName": "n"}})
    http.delete(f"{PODS}/q")
    watcher.join(20)
    assert seen == [("ADDED", "q"), ("MODIFIED", "p"), ("DELETED", "q")]
    api.storage.forget()
    (line,) = http.get(PODS, params=query).text.splitlines()
    assert json.loads(line)["object"]["code"] == 410


def test_what_has_finalizers_stays_until_they_are_gone(http: httpx.Client) -> None:
    http.post(PODS, json={**POD, "metadata": {"name": "p", "finalizers": ["a/b"]}})
    http.delete(f"{PODS}/p")
    assert http.get(f"{PODS}/p").json()["metadata"]["deletionTimestamp"]
    patch(http, f"{PODS}/p", "merge-patch+json", {"metadata": {"finalizers": None}})
    assert http.get(f"{PODS}/p").status_code == 404


def test_rules_hold_by_namespace_group_subresource_and_name(api: KubeApi, http: httpx.Client, tmp_path: Path) -> None:
    named = role(DATA, ("", "pods", ["get"]))
    named["rules"][0]["resourceNames"] = ["p"]
    api.rights.account("limited", "another-token", named, role("", ("", "pods", ["list"])))
    http.headers["Authorization"] = "Bearer another-token"
    assert http.get(f"{PODS}/p").status_code == 404
    assert http.get(f"{PODS}/q").status_code == 403
    assert http.get(f"{PODS}/p/log").status_code == 403
    assert http.get("/api/v1/namespaces/elsewhere/pods").status_code == 200
    assert http.get(JOBS).json()["reason"] == "Forbidden"
    http.headers["Authorization"] = "Bearer nobody"
    assert http.get(PODS).status_code == 401
    api.rights.write_record(tmp_path / "used.json", "limited")
    assert json.loads((tmp_path / "used.json").read_text()) == [
        {"namespace": "elsewhere", "apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
        {"namespace": DATA, "apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
    ]


def test_a_kind_without_a_crd_is_not_there(http: httpx.Client) -> None:
    assert http.get(f"/apis/apps/v1/namespaces/{DATA}/deployments").status_code == 404
    assert http.get(f"/apis/trainer.kubeflow.org/v2/namespaces/{DATA}/trainjobs").status_code == 404
