"""The connection to a cluster: who one is, what is refused and why, and what is tried again."""

from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from mistudio.cluster.api import Cluster
from mistudio.cluster.resources import INFERENCE_SERVICES, PODS, TRAIN_JOBS, Resource
from mistudio.errors import ClusterError, ConfigError
from tests.support.kube_accounts import ACCOUNT, DATA, QUICK, SERVICES, TOKEN, connected, kubeconfig
from tests.support.kube_api import KubeApi, Right, role

ALL = ("get", "list", "watch", "create", "update", "patch", "delete")
MAY = role(SERVICES, ("serving.kserve.io", "inferenceservices", ALL), ("", ("pods", "pods/log"), ("get", "list")))


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with KubeApi("inferenceservices") as api:
        api.rights.account(ACCOUNT, TOKEN, MAY)
        yield api


@pytest.fixture
def cluster(tmp_path: Path, api: KubeApi, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with connected(tmp_path, api, monkeypatch) as cluster:
        yield cluster


def service(name: str = "steer", **predictor: Any) -> dict[str, Any]:
    model = {"modelFormat": {"name": "mistudio-steer"}, "runtime": "mistudio-steer", "args": ["--line", "sae/1"]}
    return {
        "apiVersion": INFERENCE_SERVICES.api_version,
        "kind": INFERENCE_SERVICES.kind,
        "metadata": {"name": name, "namespace": SERVICES},
        "spec": {"predictor": {"model": model, **predictor}},
    }


def test_an_object_is_made_read_changed_listed_and_deleted(cluster: Cluster, api: KubeApi) -> None:
    assert cluster.get(INFERENCE_SERVICES, SERVICES, "steer") is None
    made = cluster.create(INFERENCE_SERVICES, service())
    made["spec"]["predictor"]["minReplicas"] = 2
    changed = cluster.update(INFERENCE_SERVICES, made)
    assert changed["metadata"]["generation"] == 2
    assert cluster.get(INFERENCE_SERVICES, SERVICES, "steer") == changed
    assert cluster.find(INFERENCE_SERVICES, SERVICES) == [changed]
    assert cluster.find(INFERENCE_SERVICES, SERVICES, {"app": "other"}) == []
    cluster.delete(INFERENCE_SERVICES, SERVICES, "steer", uid="of-another-object")
    assert cluster.get(INFERENCE_SERVICES, SERVICES, "steer") is not None
    cluster.delete(INFERENCE_SERVICES, SERVICES, "steer", uid=made["metadata"]["uid"])
    cluster.delete(INFERENCE_SERVICES, SERVICES, "steer")
    assert not api.has("inferenceservices", SERVICES, "steer")
    used = {right.verb for right in api.rights.used(ACCOUNT)}
    assert used == {"get", "list", "create", "update", "delete"}
    assert Right(SERVICES, "serving.kserve.io", "inferenceservices", "create") in api.rights.used()


def test_a_field_that_the_crd_does_not_know_is_refused_and_named(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match=r"unknown field \"spec.predictor.modle\"") as refused:
        cluster.create(INFERENCE_SERVICES, service(modle={}))
    assert refused.value.status == 400


def test_a_value_that_the_crd_refuses_is_named_with_its_field(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match=r"spec.predictor.minReplicas: Invalid value: 'two'") as refused:
        cluster.create(INFERENCE_SERVICES, service(minReplicas="two"))
    assert (refused.value.status, refused.value.reason) == (422, "Invalid")
    with pytest.raises(ClusterError, match=r"spec.canary\[0\].trafficPercent: Required value"):
        cluster.create(INFERENCE_SERVICES, {**service(), "spec": {**service()["spec"], "canary": [{"predictor": {}}]}})


def test_a_write_to_an_object_that_was_changed_meanwhile_is_a_conflict(cluster: Cluster, api: KubeApi) -> None:
    made = cluster.create(INFERENCE_SERVICES, service())
    api.set_status("inferenceservices", SERVICES, "steer", {"url": "http://somewhere"})
    with pytest.raises(ClusterError, match="has been modified") as refused:
        cluster.update(INFERENCE_SERVICES, made)
    assert refused.value.reason == "Conflict"
    with pytest.raises(ClusterError, match="already exists") as refused:
        cluster.create(INFERENCE_SERVICES, service())
    assert refused.value.reason == "AlreadyExists"


def test_a_right_that_is_missing_is_named_with_verb_resource_and_namespace(cluster: Cluster) -> None:
    with pytest.raises(ClusterError) as refused:
        cluster.find(PODS, DATA)
    assert f"lacks the right to list pods in namespace {DATA}" in str(refused.value)
    assert ACCOUNT in str(refused.value)
    with pytest.raises(ClusterError, match="create trainjobs.trainer.kubeflow.org in namespace mistudio-services"):
        cluster.create(TRAIN_JOBS, {"metadata": {"namespace": SERVICES, "name": "x"}})


def test_a_token_that_is_not_known_is_told_and_never_shown(
    tmp_path: Path, api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        connected(tmp_path, api, monkeypatch, token="a-token-that-has-expired") as cluster,
        pytest.raises(ClusterError, match="does not accept who asks") as refused,
    ):
        cluster.get(PODS, SERVICES, "x")
    assert "a-token" not in str(refused.value)


def test_a_kind_that_the_cluster_does_not_have_is_told_with_who_brings_it(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match=r"does not know trainjobs of trainer.kubeflow.org/v2. Install Kubeflow"):
        cluster.get(Resource(*TRAIN_JOBS)._replace(version="v2"), SERVICES, "x")


@pytest.mark.parametrize("code", [429, 503, 0])
def test_what_may_pass_is_tried_again(cluster: Cluster, api: KubeApi, code: int) -> None:
    api.put("inferenceservices", SERVICES, service())
    api.fail(code, verb="get", times=3, Retry_After="0")
    assert cluster.get(INFERENCE_SERVICES, SERVICES, "steer") is not None
    assert api.num_asked("get", "inferenceservices") == 4


def test_a_request_that_is_refused_is_not_tried_again(cluster: Cluster, api: KubeApi) -> None:
    with pytest.raises(ClusterError):
        cluster.find(PODS, DATA)
    assert api.num_asked("list", "pods") == 1


def test_an_api_that_stays_away_is_an_error_after_a_bounded_time(
    tmp_path: Path, api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = replace(QUICK, total_s=0.5)
    with connected(tmp_path, api, monkeypatch, patience) as cluster:
        api.fail(503, times=1 << 30)
        with pytest.raises(ClusterError, match=r"cannot get pods x in namespace mistudio-services now \(status 503\)"):
            cluster.get(PODS, SERVICES, "x")
        with api.gone(), pytest.raises(ClusterError, match=f"{api.url} does not answer") as unreachable:
            cluster.get(PODS, SERVICES, "x")
    assert unreachable.value.status == 0


def test_an_answer_that_does_not_come_is_waited_for_no_longer_than_said(
    tmp_path: Path, api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(tmp_path, api, monkeypatch, replace(QUICK, answer_s=0.2)) as cluster:
        api.put("inferenceservices", SERVICES, service())
        api.fail(hangs=True, verb="get")
        assert cluster.get(INFERENCE_SERVICES, SERVICES, "steer") is not None


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        page = b"<html>Log in</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        pass


def test_what_is_no_api_of_a_cluster_is_told(tmp_path: Path, api: KubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kubeconfig(tmp_path, api)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        path.write_text(path.read_text().replace(api.url, f"http://127.0.0.1:{server.server_port}"))
        monkeypatch.setenv("KUBECONFIG", str(path))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            with Cluster.connect() as cluster, pytest.raises(ClusterError, match="not answer as the API of a cluster"):
                cluster.get(PODS, SERVICES, "x")
        finally:
            server.shutdown()


def test_where_the_answer_to_a_creation_is_lost_the_object_is_found_to_be_there(cluster: Cluster, api: KubeApi) -> None:
    api.fail(verb="create", after=True)
    with pytest.raises(ClusterError) as refused:
        cluster.create(INFERENCE_SERVICES, service())
    assert refused.value.reason == "AlreadyExists"
    assert api.has("inferenceservices", SERVICES, "steer")


def test_a_log_is_read_and_is_empty_before_a_container_starts(cluster: Cluster, api: KubeApi) -> None:
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "node"}, {"name": "side"}]}}
    api.put("pods", SERVICES, pod)
    assert cluster.pod_log(SERVICES, "p", "node") == ""
    api.logs[SERVICES, "p", "node"] = [(f"2026-01-01T00:00:0{n}.000000000Z", f"line {n}") for n in range(3)]
    assert cluster.pod_log(SERVICES, "p", "node", tail_lines=1) == "2026-01-01T00:00:02.000000000Z line 2\n"
    assert cluster.pod_log(SERVICES, "p", "node", since_s=60) == ""
    assert cluster.pod_log(SERVICES, "gone", "node") == ""


def test_a_context_is_chosen_by_name_and_brings_its_namespace(
    tmp_path: Path, api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, api)))
    with Cluster.connect("test", QUICK) as cluster:
        assert cluster.namespace == DATA
    with pytest.raises(ConfigError, match="contexts"):
        Cluster.connect("other", QUICK)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="No cluster is known here"):
        Cluster.connect(patience=QUICK)


def test_in_a_pod_the_service_account_is_taken(tmp_path: Path, api: KubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    from kubernetes.config import incluster_config

    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "ca.crt").write_text("of the cluster")
    (tmp_path / "namespace").write_text(SERVICES)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr("mistudio.cluster.api._NAMESPACE_FILE", tmp_path / "namespace")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", api.url.rpartition(":")[2])
    monkeypatch.setattr("kubernetes.client.ApiClient", lambda settings: settings)
    cluster = Cluster.connect(patience=QUICK)
    settings: Any = cluster._client
    assert (cluster.namespace, settings.host) == (SERVICES, api.url.replace("http:", "https:"))
    assert settings.get_api_key_with_prefix("authorization") == f"bearer {TOKEN}"
