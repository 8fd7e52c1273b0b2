"""Which paths the network policies open, and which they leave closed."""

import pytest

from checks.rendering import Document, rendered
from tests.support.manifests import needs_rendering
from tests.support.network_policies import Pod, Policies

DATA, SERVICES, MONITORING = "mistudio-data", "mistudio-services", "mistudio-monitoring"
STEP = Pod(DATA, {"workflows.argoproj.io/workflow": "interpret-1"})
TRAINER = Pod(DATA, {"jobset.sigs.k8s.io/jobset-name": "train-1"})
STRANGER = Pod(DATA, {"app": "notebook"})
STORE = Pod(DATA, {"app.kubernetes.io/component": "object-store"})
OURS = {"app.kubernetes.io/part-of": "mistudio"}
MLFLOW = Pod(DATA, {**OURS, "app.kubernetes.io/name": "mlflow", "app.kubernetes.io/component": "tracking"})
RETENTION = Pod(DATA, {**OURS, "app.kubernetes.io/component": "retention"})
DATABASE = Pod(DATA, {"app.kubernetes.io/name": "mlflow-database"})
BACKUP = Pod(DATA, {"app.kubernetes.io/component": "backup"})
MONITOR = Pod(SERVICES, {"component": "predictor", "serving.kserve.io/inferenceservice": "monitor"})
WATCHED = Pod(SERVICES, {"component": "predictor", "mistudio.ai/watched": "true"})
PREDICTOR = Pod(SERVICES, {"component": "predictor", "serving.kserve.io/inferenceservice": "stories"})
PROMETHEUS = Pod(MONITORING, {"app.kubernetes.io/name": "prometheus"})
GRAFANA = Pod(MONITORING, {"app.kubernetes.io/name": "grafana"})
GATEWAY = Pod("envoy-gateway-system", {"app.kubernetes.io/name": "envoy"})
KFP = Pod("kubeflow", {"app": "ml-pipeline"})
KEDA = Pod("keda", {"app": "keda-operator"})
DNS = Pod("kube-system", {"k8s-app": "kube-dns"})
ELSEWHERE = Pod("default", {"app": "anything"})

OPEN = {
    "a step reads and writes the store": (STEP, STORE, 9000),
    "a step tells MLflow": (STEP, MLFLOW, 5000),
    "a step asks a predictor that it has deployed": (STEP, PREDICTOR, 8080),
    "a step reports to KFP": (STEP, KFP, 8887),
    "trainers exchange tensors": (TRAINER, TRAINER, 29400),
    "a trainer reads and writes the store": (TRAINER, STORE, 9000),
    "a trainer tells MLflow": (TRAINER, MLFLOW, 5000),
    "MLflow keeps runs": (MLFLOW, DATABASE, 5432),
    "MLflow keeps artifacts": (MLFLOW, STORE, 9000),
    "KFP opens a run in MLflow": (KFP, MLFLOW, 5000),
    "a backup reads the database": (BACKUP, DATABASE, 5432),
    "a backup reads the store": (BACKUP, STORE, 9000),
    "what is old leaves the database": (RETENTION, DATABASE, 5432),
    "what is old leaves MLflow's artifacts": (RETENTION, MLFLOW, 5000),
    "what is left over leaves the store": (RETENTION, STORE, 9000),
    "a predictor reads the store": (PREDICTOR, STORE, 9000),
    "the gateway asks a predictor": (GATEWAY, PREDICTOR, 8080),
    "a watched model sends copies of its traffic to the monitor": (WATCHED, MONITOR, 8080),
    "Prometheus reads the monitor's metrics": (PROMETHEUS, MONITOR, 8080),
    "the monitor reads the store": (MONITOR, STORE, 9000),
    "Prometheus reads a predictor's metrics": (PROMETHEUS, PREDICTOR, 8080),
    "Prometheus reads the store's metrics": (PROMETHEUS, STORE, 9327),
    "Grafana asks Prometheus": (GRAFANA, PROMETHEUS, 9090),
    "KEDA asks Prometheus": (KEDA, PROMETHEUS, 9090),
}
CLOSED = {
    "a step reads MLflow's database": (STEP, DATABASE, 5432),
    "a predictor tells MLflow": (PREDICTOR, MLFLOW, 5000),
    "a predictor reads MLflow's database": (PREDICTOR, DATABASE, 5432),
    "a predictor asks another": (PREDICTOR, PREDICTOR, 8080),
    "a model that nobody watches sends events": (PREDICTOR, MONITOR, 8080),
    "another namespace sends events": (ELSEWHERE, MONITOR, 8080),
    "a watched model asks another predictor": (WATCHED, PREDICTOR, 8080),
    "the monitor reaches what it watches": (MONITOR, WATCHED, 8080),
    "a predictor reaches a step": (PREDICTOR, STEP, 8080),
    "a pod of no run reads MLflow": (STRANGER, MLFLOW, 5000),
    "a pod of no run reads the store": (STRANGER, STORE, 9000),
    "another namespace asks a predictor": (ELSEWHERE, PREDICTOR, 8080),
    "another namespace reads the store": (ELSEWHERE, STORE, 9000),
    "another namespace asks Prometheus": (ELSEWHERE, PROMETHEUS, 9090),
    "the store reaches the database": (STORE, DATABASE, 5432),
    "the gateway reads the store": (GATEWAY, STORE, 9000),
    "the store's master is reached": (STEP, STORE, 9333),
    "the store's files are reached beside S3": (STEP, STORE, 8888),
    "Grafana reads a predictor": (GRAFANA, PREDICTOR, 8080),
}
INSIDE = (STEP, TRAINER, STRANGER, STORE, MLFLOW, DATABASE, BACKUP, RETENTION, PREDICTOR, PROMETHEUS, GRAFANA)


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    needs_rendering()
    return rendered()["microk8s"]


@pytest.fixture(scope="module")
def policies(documents: list[Document]) -> Policies:
    return Policies(documents)


@pytest.mark.parametrize("path", OPEN)
def test_what_is_needed_passes(policies: Policies, path: str) -> None:
    assert policies.allows(*OPEN[path])


@pytest.mark.parametrize("path", CLOSED)
def test_what_is_not_needed_does_not(policies: Policies, path: str) -> None:
    assert not policies.allows(*CLOSED[path])


@pytest.mark.parametrize("pod", INSIDE)
def test_every_pod_asks_for_names(policies: Policies, pod: Pod) -> None:
    assert policies.allows(pod, DNS, 53, "UDP")
    assert policies.allows(pod, DNS, 53)


def test_only_what_has_to_leaves_the_cluster(policies: Policies) -> None:
    leaving = [pod for pod in INSIDE if policies.leaves(pod, 443)]
    assert leaving == [STEP, BACKUP, PREDICTOR]  # a hub of models, a judge; the store of the copies
    assert not any(policies.leaves(pod, 80) for pod in INSIDE)
    base = Policies([policy for policy in rendered()["minio"] if policy["kind"] == "NetworkPolicy"])
    assert not any(base.leaves(pod, 443) for pod in INSIDE)


def test_a_store_outside_of_the_cluster_is_reached_by_what_uses_it() -> None:
    needs_rendering()
    production = Policies(rendered()["production"])
    assert all(production.leaves(pod, 443) for pod in (STEP, TRAINER, MLFLOW, RETENTION, BACKUP, PREDICTOR))
    assert not any(production.leaves(pod, 443) for pod in (STRANGER, DATABASE, GRAFANA))


def test_policies_name_ports_that_pods_listen_at(documents: list[Document]) -> None:
    listening = {
        (template["metadata"]["labels"]["app.kubernetes.io/name"], port)
        for each in documents
        if each["kind"] in ("StatefulSet", "Deployment")
        for template in [each["spec"]["template"]]
        for container in template["spec"]["containers"]
        for port in (number["containerPort"] for number in container.get("ports") or ())
    }
    assert {("mlflow", 5000), ("mlflow-database", 5432), ("seaweedfs", 9000), ("seaweedfs", 9327)} == listening
