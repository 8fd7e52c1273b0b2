"""Each check finds what it is for."""

import base64
import copy
import json
from pathlib import Path
from typing import Any

import pytest

from checks import monitoring, programs, references, rights, schemas, secret_values
from checks.__main__ import main
from checks.images import problems_of as image_problems
from checks.linters import look_shell, look_yaml
from checks.outcome import Check, Outcome, Skipped
from checks.pods import pods_of, problems_of
from checks.replay import arguments_of, environment_of
from checks.tools import shared
from tests.support.manifests import needed

DIGEST = "sha256:" + "0" * 64
POD: dict[str, Any] = {
    "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "main",
            "image": f"somewhere/image@{DIGEST}",
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        }
    ],
    "volumes": [{"name": "tmp", "emptyDir": {}}],
}
FAULTS = {
    "hostNetwork is set": {"hostNetwork": True},
    "volume data is of a kind that is not allowed: hostPath": {
        "volumes": [{"name": "data", "hostPath": {"path": "/"}}]
    },
    "the pod runs as user 0": {"securityContext": {**POD["securityContext"], "runAsUser": 0}},
    "main: runAsNonRoot is not true": {"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}},
    "main: seccompProfile is not set": {"securityContext": {"runAsNonRoot": True}},
    "the pod has no seccomp profile": {
        "securityContext": {**POD["securityContext"], "seccompProfile": {"type": "Unconfined"}}
    },
}
CONTAINER_FAULTS = {
    "main: privileged": {"privileged": True},
    "main: allowPrivilegeEscalation is not false": {"allowPrivilegeEscalation": True},
    "main: the root file system is writable": {"readOnlyRootFilesystem": False},
    "main: not all capabilities are dropped": {"capabilities": {"drop": ["NET_RAW"]}},
    "main: capabilities are added": {"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}},
    "main: it runs as user 0": {"runAsUser": 0},
    "main: runAsNonRoot is not true": {"runAsNonRoot": False},
    "main: procMount is not Default": {"procMount": "Unmasked"},
}


def test_a_pod_that_is_restricted_has_no_problem() -> None:
    assert list(problems_of(POD)) == []


@pytest.mark.parametrize("problem", FAULTS)
def test_what_a_pod_does_against_the_standard_is_found(problem: str) -> None:
    assert problem in list(problems_of({**POD, **FAULTS[problem]}))


@pytest.mark.parametrize("problem", CONTAINER_FAULTS)
@pytest.mark.parametrize("kind", ["containers", "initContainers"])
def test_what_a_container_does_against_the_standard_is_found(problem: str, kind: str) -> None:
    container = copy.deepcopy(POD["containers"][0])
    container["securityContext"] |= CONTAINER_FAULTS[problem]
    assert list(problems_of({**POD, kind: [container]})) == [problem]


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("Pod", POD),
        ("StatefulSet", {"template": {"spec": POD}}),
        ("CronJob", {"jobTemplate": {"spec": {"template": {"spec": POD}}}}),
        ("ServingRuntime", POD),
    ],
)
def test_pods_are_found_in_what_makes_them(kind: str, spec: dict[str, Any]) -> None:
    assert [pod.spec for pod in pods_of("here", {"kind": kind, "spec": spec})] == [POD]


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (f"docker.io/library/postgres@{DIGEST}", None),
        ("ghcr.io/mistudio/serve:abc", None),
        ("localhost:32000/mistudio/serve:abc", None),
        ("docker.io/library/postgres:17", "has no digest"),
        ("docker.io/library/postgres", "has no digest"),
        ("ghcr.io/mistudio/serve", "has no digest"),
        ("localhost:32000/mistudio/serve", "has no digest"),
        ("ghcr.io/mistudio/serve:latest", "has a tag that moves"),
        ("ghcr.io/mistudio/serve:other", "has another tag than"),
        ("ghcr.io/mistudio/unknown:abc", "has another tag than"),
    ],
)
def test_an_image_that_may_change_under_its_name_is_found(image: str, problem: str | None) -> None:
    found = list(image_problems(image, {"serve": "abc"}))
    assert found == [] if problem is None else problem in found[0]


def test_values_of_secrets_are_found(tmp_path: Path) -> None:
    encoded = base64.b64encode(b"anything").decode()
    value = {"kind": "Secret", "data": dict.fromkeys(("MISTUDIO_SIGNING_KEY", "AWS_ACCESS_KEY_ID"), encoded)}
    assert list(secret_values.problems_of(value)) == ["MISTUDIO_SIGNING_KEY has a value"]
    given = copy.deepcopy(POD)
    given["containers"][0]["env"] = [
        {"name": "POSTGRES_PASSWORD", "value": "hunter2"},
        {"name": "HOME", "value": "/tmp"},
    ]
    assert list(secret_values.problems_of({"kind": "Pod", "spec": given})) == ["main has a value for POSTGRES_PASSWORD"]
    example = tmp_path / "secrets.example"
    example.mkdir()
    lines = ["AWS_SECRET_ACCESS_KEY=abc", "AWS_DEFAULT_REGION=us-east-1"]
    (example / "s3.env").write_text("\n".join(lines))
    assert list(secret_values.problems_in(example / "s3.env")) == ["has a value for AWS_SECRET_ACCESS_KEY"]
    (tmp_path / "key").write_text("-----BEGIN " + "RSA PRIVATE KEY-----")
    assert len(list(secret_values.problems_in(tmp_path / "key"))) == 1


def role(**rule: list[str]) -> dict[str, Any]:
    return {"kind": "Role", "metadata": {"namespace": "n", "name": "r", "labels": {}}, "rules": [rule]}


BINDING = {
    "kind": "RoleBinding",
    "metadata": {"namespace": "n", "name": "b"},
    "roleRef": {"name": "r"},
    "subjects": [{"namespace": "n", "name": "account"}],
}
READS = {"n/account": {"n core pods get"}}


def test_rights_that_differ_from_the_calls_are_found() -> None:
    exact = role(apiGroups=[""], resources=["pods"], verbs=["get"])
    assert list(rights.problems_of([exact, BINDING], READS)) == []
    wider = role(apiGroups=[""], resources=["pods"], verbs=["get", "delete"])
    assert list(rights.problems_of([wider, BINDING], READS)) == [
        "n/account may n core pods delete, and nothing calls it"
    ]
    narrower = role(apiGroups=[""], resources=["services"], verbs=["get"])
    assert "n/account calls n core pods get, and may not" in list(rights.problems_of([narrower, BINDING], READS))
    everything = role(apiGroups=["*"], resources=["pods"], verbs=["get"])
    assert "Role r names everything by *" in list(rights.problems_of([everything, BINDING], READS))
    whole = {"kind": "ClusterRoleBinding", "metadata": {"name": "c"}}
    assert "ClusterRoleBinding c holds for the whole cluster" in list(
        rights.problems_of([exact, BINDING, whole], READS)
    )


def test_rights_for_code_of_others_are_left_out() -> None:
    others = role(apiGroups=["argoproj.io"], resources=["workflowtaskresults"], verbs=["create"])
    others["metadata"]["labels"][rights.MARK] = "upstream"
    assert list(rights.problems_of([others, BINDING], {})) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"serviceAccountName": "nobody"}, "there is no service account nobody"),
        ({"volumes": [{"name": "a", "configMap": {"name": "none"}}]}, "there is no ConfigMap none"),
        (
            {"volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "none"}}]},
            "there is no PersistentVolumeClaim none",
        ),
        ({"volumeMounts": [{"name": "data", "mountPath": "/data"}]}, "main mounts data, which is no volume"),
        ({"readinessProbe": {"httpGet": {"port": 81}}}, "readinessProbe asks port 81, at which nothing listens"),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "b"}}}]},
            "there is no Secret keys with a key b",
        ),
    ],
)
def test_names_that_stand_for_nothing_are_found(change: dict[str, Any], problem: str) -> None:
    container = {"name": "main", "ports": [{"containerPort": 80, "name": "http"}]}
    inside = {key: value for key, value in change.items() if key in ("env", "readinessProbe", "volumeMounts")}
    spec = {"serviceAccountName": "runner", "containers": [container | inside]}
    spec |= {key: value for key, value in change.items() if key not in inside}
    others = [named("ServiceAccount", "runner"), {**named("Secret", "keys"), "data": {"a": ""}}]
    pods = {**named("Deployment", "d"), "spec": {"template": {"metadata": {"labels": {"app": "d"}}, "spec": spec}}}
    assert list(references.problems_of([*others, pods])) == [f"Deployment d: {problem}"]
    pods["spec"]["template"]["spec"] = {"serviceAccountName": "runner", "containers": [container]}
    assert list(references.problems_of([*others, pods])) == []
    service = {**named("Service", "s"), "spec": {"selector": {"app": "d"}, "ports": [{"targetPort": "http"}]}}
    assert list(references.problems_of([*others, pods, service])) == []
    service["spec"] = {"selector": {"app": "d"}, "ports": [{"targetPort": "grpc"}]}
    assert list(references.problems_of([*others, pods, service])) == [
        "Service s: leads to port grpc, at which nothing listens"
    ]
    service["spec"] = {"selector": {"app": "e"}, "ports": []}
    assert list(references.problems_of([*others, pods, service])) == ["Service s: no pod has the labels {'app': 'e'}"]


def named(kind: str, name: str) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"namespace": "n", "name": name}}


def test_fields_that_kubernetes_does_not_know_or_allow_are_found() -> None:
    program = needed("kubernetes-validate")
    good = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"b": "c"}}
    assert schemas.core_problems(program, [good]) == []
    assert schemas.core_problems(program, [{**good, "dta": {}}])
    assert schemas.core_problems(program, [{**good, "data": {"b": 1}}])


def test_fields_that_a_crd_does_not_know_or_allow_are_found() -> None:
    try:
        shared("data", "crds")
    except Skipped as reason:
        pytest.skip(str(reason))
    schema = schemas.crd_schema("monitoring.coreos.com", "v1", "PodMonitor")
    assert schema is not None
    good = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": {"name": "a"},
            "spec": {"selector": {}, "podMetricsEndpoints": [{"port": "http"}]}}  # fmt: skip
    assert list(schemas.problems_of(good, schema)) == []
    misspelt = {**good, "spec": {**good["spec"], "podMetricEndpoints": []}}
    assert list(schemas.problems_of(misspelt, schema)) == [".spec.podMetricEndpoints is not known"]
    assert list(schemas.problems_of({**good, "spec": {"selector": 1}}, schema))
    deep = {**good, "spec": {"selector": {}, "podMetricsEndpoints": [{"port": "http", "pth": "/"}]}}
    assert list(schemas.problems_of(deep, schema)) == [".spec.podMetricsEndpoints[0].pth is not known"]


def test_what_the_models_of_the_gateway_do_not_allow_is_found() -> None:
    node = needed("node")
    if not (schemas.TOOLS / "node_modules").is_dir():
        pytest.skip("npm models are missing: run `make check-tools` where npm is")
    bad = {"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "SecurityPolicy", "metadata": {"name": "a"},
           "spec": {"apiKeyAuth": {"credentialRefs": 3}}}  # fmt: skip
    (problem,) = schemas.gateway_problems(node, [("here", bad)])
    assert problem.startswith("here: ")
    assert "credentialRefs must be array" in problem


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ('sum by (a, b) (rate(x_total{c="d e", f=~"g|h"}[5m])) > 0.1', {"x_total"}),
        ("x / on (pod) group_left (node) y and z", {"x", "y", "z"}),
        ("histogram_quantile(0.95, sum(rate(x_bucket[5m])) by (le))", {"x_bucket"}),
        ("time() - a:b:rate5m offset 1h", {"a:b:rate5m"}),
        ("max(x) or vector(0)", {"x"}),
    ],
)
def test_metrics_are_found_in_queries(query: str, names: set[str]) -> None:
    assert monitoring.names_in(query) == names


def test_a_metric_that_nothing_exports_is_found() -> None:
    exported = {name for _, query in monitoring.queries() for name in monitoring.names_in(query)}
    assert monitoring.metric_problems(exported)[1] == []
    problems = monitoring.metric_problems(exported - {"mistudio_requests_total"})[1]
    assert problems
    assert all("mistudio_requests_total, which nothing exports" in problem for problem in problems)


def test_labels_that_a_metric_does_not_have_are_found() -> None:
    text = '# TYPE mistudio_requests counter\nmistudio_requests_total{route="/", method="GET", status="200"} 1\n'
    labels = monitoring.labels_by(text)
    assert labels == {"mistudio_requests_total": {"route", "method", "status"}}
    assert monitoring.label_problems(labels) == []
    problems = monitoring.label_problems({"mistudio_requests_total": {"method"}})
    assert any("asks mistudio_requests_total for status, which it has not" in problem for problem in problems)
    assert any("groups by route, status, which mistudio_requests_total has not" in problem for problem in problems)


def test_metrics_without_samples_are_exported_too() -> None:
    text = "# HELP a_total b\n# TYPE a_total counter\n# TYPE c histogram\nc_sum 0\n"
    assert monitoring.exported_by(text) == {"a_total", "c", "c_bucket", "c_sum", "c_count"}


def test_variables_that_nothing_reads_are_found() -> None:
    assert programs.is_read("MISTUDIO_API_KEYS")
    assert programs.is_read("HF_HUB_OFFLINE")
    assert programs.is_read("MLFLOW_S3_ENDPOINT_URL")
    assert not programs.is_read("MISTUDIO_API_KEYZ")


def test_arguments_are_those_that_the_kubelet_makes() -> None:
    env = [{"name": "HOST", "value": "db"}, {"name": "URI", "value": "sql://$(HOST)/a"}]
    container = {"command": ["serve"], "args": ["--to=$(HOST)", "--log=/audit/$(POD_NAME).jsonl"], "env": env}
    assert arguments_of(container) == ["serve", "--to=db", "--log=/audit/pod-0.jsonl"]
    assert environment_of(container, {})["URI"] == "sql://db/a"


def test_an_argument_that_the_program_does_not_take_is_found() -> None:
    content = {
        "command": ["python", "-P", "-m", "model_servers"],
        "args": ["--models=steer", "--port=8080", "--drain-timeout-seconds=20"],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready"}},
    }
    (problem,) = programs.predictor_problems(programs.Container("here", content), "model", "store", "sae/0")
    assert "unrecognized arguments: --drain-timeout-seconds=20" in problem


def test_the_table_says_what_failed_and_the_status_tells(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def skips() -> tuple[str, list[str]]:
        raise Skipped("there is no [tool]")

    checks = (
        Check("good", "all is well", lambda: ("3 things", [])),
        Check("bad", "nothing is", lambda: ("2 things", ["a thing [is] wrong"])),
        Check("other", "it could be", skips),
    )
    monkeypatch.setattr("checks.__main__.CHECKS", checks)
    assert main([]) == 1
    said = capsys.readouterr().out
    for words in ("holds", "1 problems", "skipped", "there is no [tool]", "bad: a thing [is] wrong"):
        assert words in said
    assert main(["good", "other"]) == 0
    assert main(["unknown"]) == 2


def test_a_check_that_breaks_off_has_failed() -> None:
    def breaks() -> tuple[str, list[str]]:
        raise RuntimeError("kind cannot be rendered")

    outcome = Check("broken", "it holds", breaks).run()
    assert outcome.word == "failed"
    assert outcome.problems == ("RuntimeError: kind cannot be rendered",)


def test_an_outcome_that_was_skipped_is_no_success() -> None:
    assert Outcome(skipped="no tool").word == "skipped"
    assert Outcome("1 thing").word == "holds"
    assert Outcome("1 thing", ["wrong"]).word == "failed"


def test_alerts_without_a_test_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    needed("promtool")
    groups = json.loads(json.dumps(monitoring.groups()))
    groups["groups"][0]["rules"].append({"alert": "Untested", "expr": "up == 0"})
    monkeypatch.setattr(monitoring, "groups", lambda: groups)
    assert monitoring.look_rules()[1] == ["no test raises Untested"]


def test_linters_find_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed("yamllint", "shellcheck")
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "a.yaml").write_text("a:   1\na: 2\n")
    (tmp_path / "manifests" / "a.sh").write_text("#!/bin/sh\ncat $1\n")
    (tmp_path / "manifests" / ".yamllint").write_text("extends: default\n")
    monkeypatch.setattr("checks.linters.ROOT", tmp_path)
    monkeypatch.setattr("checks.linters.MANIFESTS", tmp_path / "manifests")
    assert any("duplication of key" in line for line in look_yaml()[1])
    assert any("SC2086" in line for line in look_shell()[1])
