"""What the manifests promise beside being valid."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.utils.quantity import parse_quantity

from checks.pods import containers_of, pods_of
from checks.rendering import MANIFESTS, OVERLAYS, rendered
from model_servers.base.lanes import Lane
from model_servers.monitor.predictor import MonitorPredictor
from tests.support.manifests import needed, needs_rendering

NAMESPACES = ("mistudio-data", "mistudio-services", "mistudio-monitoring")


def found(target: str, kind: str, name: str | None = None) -> list[dict[str, Any]]:
    needs_rendering()
    return [
        document
        for document in rendered()[target]
        if document["kind"] == kind and name in (None, document["metadata"]["name"])
    ]


def test_a_user_writes_ten_lines() -> None:
    text = (MANIFESTS / "serving" / "sample" / "stories.yaml").read_text()
    assert len(text.splitlines()) <= 10
    model = yaml.safe_load(text)["spec"]["predictor"]["model"]
    runtimes = {each["metadata"]["name"]: each["spec"] for each in found("microk8s", "ServingRuntime")}
    formats = runtimes[model["runtime"]]["supportedModelFormats"]
    assert model["modelFormat"]["name"] in [each["name"] for each in formats]
    assert "storageUri" not in model


def test_one_runtime_is_chosen_by_itself_for_each_model_format() -> None:
    chosen = [
        (each["name"], runtime["metadata"]["name"])
        for runtime in found("production", "ServingRuntime")
        for each in runtime["spec"]["supportedModelFormats"]
        if each["autoSelect"]
    ]
    assert sorted(chosen) == [(name, name) for name in ("mistudio-correlate", "mistudio-monitor", "mistudio-steer")]


@pytest.mark.parametrize("sample", ["sample", "sample-correlate", "sample-monitor"])
def test_samples_name_runtimes_that_there_are(sample: str) -> None:
    runtimes = {each["metadata"]["name"]: each["spec"] for each in found("microk8s", "ServingRuntime")}
    for service in found(sample, "InferenceService"):
        model = service["spec"]["predictor"]["model"]
        if "runtime" in model:
            formats = [each["name"] for each in runtimes[model["runtime"]]["supportedModelFormats"]]
            assert model["modelFormat"]["name"] in formats


def test_the_scaling_takes_its_name_from_the_predictor() -> None:
    (scaling,) = found("sample", "ScaledObject")
    assert scaling["metadata"]["name"] == "stories"
    assert scaling["spec"]["scaleTargetRef"]["name"] == "stories-predictor"
    query = scaling["spec"]["triggers"][0]["metadata"]["query"]
    assert 'serving_kserve_io_inferenceservice="stories"' in query


def test_a_canary_has_its_share_beside_the_predictor() -> None:
    (service,) = found("canary", "InferenceService")
    (canary,) = service["spec"]["canary"]
    assert 0 < canary["trafficPercent"] < 50
    assert canary["predictor"]["model"]["args"] != service["spec"]["predictor"]["model"]["args"]


def test_watched_models_send_copies_of_requests_to_the_monitor_and_it_watches_itself_not() -> None:
    (monitor,) = found("sample-monitor", "InferenceService", "monitor")
    (watched,) = found("sample-monitor", "InferenceService", "assistant")
    logger = watched["spec"]["predictor"]["logger"]
    path = next(path for path, lane in MonitorPredictor.lanes.items() if lane is Lane.SINK)
    assert logger == {"mode": "all", "url": f"http://monitor-predictor.mistudio-services.svc{path}"}
    assert watched["metadata"]["labels"] == {"mistudio.ai/watched": "true"}
    assert "logger" not in monitor["spec"]["predictor"]
    for overlay in (*OVERLAYS, "sample"):
        assert not [each for each in found(overlay, "InferenceService") if "logger" in each["spec"]["predictor"]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_sink_needs_no_key_only_where_the_network_says_who_reaches_it(overlay: str) -> None:
    runtimes = {
        each["metadata"]["name"]: each["spec"]["containers"][0]["args"] for each in found(overlay, "ServingRuntime")
    }
    is_open = {name for name, arguments in runtimes.items() if "--open-sink" in arguments}
    assert is_open == {name for name in runtimes if name in ("mistudio-monitor", "mistudio-combined")}
    assert found(overlay, "NetworkPolicy", "sink")


@pytest.mark.parametrize(("overlay", "is_kept"), [("kind", False), ("microk8s", True), ("production", True)])
def test_what_the_monitor_has_seen_outlives_its_pod_where_there_is_a_volume(overlay: str, is_kept: bool) -> None:
    for runtime in found(overlay, "ServingRuntime"):
        (container,) = runtime["spec"]["containers"]
        folders = [each for each in container["args"] if each.startswith("--monitor-folder=")]
        mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
        assert bool(folders) == (runtime["metadata"]["name"] in ("mistudio-monitor", "mistudio-combined"))
        for folder in folders:
            volumes = {each["name"]: each for each in runtime["spec"]["volumes"]}
            assert ("persistentVolumeClaim" in volumes[mounts[folder.partition("=")[2]]]) == is_kept


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_namespaces_refuse_pods_that_are_not_restricted_and_deny_all_traffic(overlay: str) -> None:
    namespaces = {each["metadata"]["name"]: each["metadata"]["labels"] for each in found(overlay, "Namespace")}
    assert set(namespaces) == set(NAMESPACES)
    for labels in namespaces.values():
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    denying = {each["metadata"]["namespace"]: each["spec"] for each in found(overlay, "NetworkPolicy", "default-deny")}
    assert set(denying) == set(NAMESPACES)
    for spec in denying.values():
        assert spec == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_the_pods_of_runs_get_a_token(overlay: str) -> None:
    with_token = [
        each["metadata"]["name"] for each in found(overlay, "ServiceAccount") if each["automountServiceAccountToken"]
    ]
    assert with_token == ["mistudio-pipelines"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_secret_that_is_asked_for_is_there_and_nothing_else(overlay: str) -> None:
    needs_rendering()
    text = yaml.safe_dump(rendered()[overlay])
    asked = {
        (document["metadata"]["namespace"], *pair) for document in rendered()[overlay] for pair in references(document)
    }
    given = {
        (each["metadata"]["namespace"], each["metadata"]["name"], key)
        for each in found(overlay, "Secret")
        for key in each["data"]
    }
    assert asked <= given
    # What steps take by name, and the gateway as a whole, stands in no manifest by its keys.
    unasked = {name for _, name, _ in given - asked}
    by_steps = {"mistudio-s3", "mistudio-signing", "mistudio-judge", "mistudio-api-keys"}
    assert unasked <= {*by_steps, "mistudio-gateway-keys"}
    assert ("mistudio-gateway-keys" in text) == (overlay == "production")


def references(node: Any) -> list[tuple[str, str]]:
    if isinstance(node, list):
        return [pair for each in node for pair in references(each)]
    if not isinstance(node, dict):
        return []
    own = [(node["secretKeyRef"]["name"], node["secretKeyRef"]["key"])] if "secretKeyRef" in node else []
    return own + [pair for each in node.values() for pair in references(each)]


def test_the_two_gpu_host_is_where_gpus_and_data_go() -> None:
    (runtime,) = found("microk8s", "ServingRuntime", "mistudio-combined")
    hosts = runtime["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert hosts["nodeSelectorTerms"][0]["matchExpressions"][0]["values"] == ["mcs-lnxgpu01"]
    assert runtime["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    for store in found("microk8s", "StatefulSet"):
        assert "mcs-lnxgpu01" in yaml.safe_dump(store["spec"]["template"]["spec"]["affinity"])
    assert found("kind", "ServingRuntime", "mistudio-combined") == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_an_overlay_starts_fits_its_quotas(overlay: str) -> None:
    for quota in found(overlay, "ResourceQuota"):
        hard, namespace = quota["spec"]["hard"], quota["metadata"]["namespace"]
        for key, limit in hard.items():
            kind, _, resource = key.partition(".")
            if kind in ("requests", "limits"):
                taken = sum(
                    parse_quantity((container["resources"].get(kind) or {}).get(resource, 0))
                    for document in rendered()[overlay]
                    if document["metadata"].get("namespace") == namespace
                    for pod in pods_of("", document)
                    for container in containers_of(pod.spec)
                )
                assert taken <= parse_quantity(limit) * 3 / 4, f"{namespace}: {key} leaves no room for runs"


def test_restores_run_only_by_hand() -> None:
    suspended = {each["metadata"]["name"] for each in found("microk8s", "CronJob") if each["spec"].get("suspend")}
    assert suspended == {"buckets-restore", "database-restore"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_secrets_are_made_once_at_random_and_for_their_owner_alone(tmp_path: Path, overlay: str) -> None:
    script, made = secrets_of(tmp_path, overlay)
    values = dict(line.split("=", 1) for text in made.values() for line in text.splitlines())
    empty = {name for name, value in values.items() if not value}
    assert empty == {"MISTUDIO_LLM_API_KEY", *(["AWS_SECRET_ACCESS_KEY"] if overlay == "production" else [])}
    assert values["MISTUDIO_API_KEYS"] == f"admin:{values['admin']}"
    assert len(values["MISTUDIO_SIGNING_KEY"]) >= 32
    assert all(path.stat().st_mode & 0o077 == 0 for path in script.parent.rglob("secrets/*.env"))
    subprocess.run([script, overlay], check=True, capture_output=True)
    again = {path.name: path.read_text() for path in script.parent.glob(f"overlays/{overlay}/secrets/*")}
    assert again == made
    shared = {"api-keys.env", "gateway-keys.env", *(() if overlay == "production" else ("s3.env", "backup.env"))}
    for name in shared:  # one that was lost is made to fit the others
        (script.parent / "overlays" / overlay / "secrets" / name).unlink()
        subprocess.run([script, overlay], check=True, capture_output=True)
        again = {path.name: path.read_text() for path in script.parent.glob(f"overlays/{overlay}/secrets/*")}
        assert again == made


@pytest.mark.parametrize(
    ("removed", "kept"),
    [("api-keys", "gateway-keys"), ("gateway-keys", "api-keys"), ("s3", "backup"), ("backup", "s3")],
)
def test_of_secrets_that_share_a_value_one_that_is_made_anew_gets_that_of_the_other(
    removed: str, kept: str, tmp_path: Path
) -> None:
    script, made = secrets_of(tmp_path, "kind")
    folder = tmp_path / "overlays/kind/secrets"
    (folder / f"{removed}.env").unlink()
    subprocess.run([script, "kind"], check=True, capture_output=True)
    assert (folder / f"{removed}.env").read_text() == made[f"{removed}.env"]
    for name in (removed, kept):
        (folder / f"{name}.env").unlink()
    subprocess.run([script, "kind"], check=True, capture_output=True)
    assert (folder / f"{removed}.env").read_text() != made[f"{removed}.env"]


def secrets_of(folder: Path, overlay: str) -> tuple[Path, dict[str, str]]:
    needed("openssl")
    (folder / "overlays" / overlay).mkdir(parents=True)
    (folder / "secrets.example").symlink_to(MANIFESTS / "secrets.example")
    script = folder / "make-secrets.sh"
    script.write_bytes((MANIFESTS / "make-secrets.sh").read_bytes())
    script.chmod(0o755)
    subprocess.run([script, overlay], check=True, capture_output=True)
    return script, {path.name: path.read_text() for path in (folder / "overlays" / overlay / "secrets").iterdir()}
