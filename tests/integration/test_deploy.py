"""deploy on a cluster whose predictors are real servers: what is served in the end, and what after it went wrong."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mistudio.artifacts import Artifact, actions
from mistudio.cli import app
from mistudio.cluster.config import DeployConfig
from mistudio.cluster.deploying import deploy
from mistudio.cluster.inference import Deployed
from mistudio.errors import ClusterError, RolloutFailed
from mistudio.stopping import Stopped
from tests.support.deploying import KEY, QUICK, Processes, Stage, another_sae, in_process, stage
from tests.support.kube_accounts import ACCOUNT, SERVICES, calls_in, can_be_ended
from tests.support.served import TinyStore, tiny_store

RUNTIME = Path(__file__).parents[2] / "manifests" / "serving" / "runtime-steer.yaml"
PLACE = f"{SERVICES}/steer"
STABLE = f"steer-predictor.{SERVICES}.svc.cluster.local"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    return tiny_store(tmp_path_factory)


@pytest.fixture(scope="module")
def other(tiny: TinyStore) -> Artifact:
    return another_sae(tiny)


@pytest.fixture
def cluster(tmp_path: Path, tiny: TinyStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    with stage(tmp_path, monkeypatch, in_process(*tiny[:2]), "--models", "steer") as made:
        yield made


def config(**settings: Any) -> DeployConfig:
    quick = {"check_every_s": 0.02, "watch_s": 0.1, "ready_timeout_s": 60.0, "smoke_tokens": 3, "max_error_rate": 0.0}
    return DeployConfig(deploy_to=PLACE, **{**quick, **settings})


def lines(service: dict[str, Any]) -> list[str]:
    """What is served, the stable one first."""
    predictors = [service["spec"]["predictor"], *(each["predictor"] for each in service["spec"].get("canary", []))]
    return [each["model"]["args"][1] for each in predictors]


def test_an_autoencoder_is_served_and_deploying_it_again_changes_nothing(cluster: Stage, tiny: TinyStore) -> None:
    did = deploy(tiny.sae, config(), patience=QUICK)
    service = cluster.api.get("inferenceservices", SERVICES, "steer")
    model = service["spec"]["predictor"]["model"]
    assert model == {
        "modelFormat": {"name": "mistudio-steer"},
        "runtime": "mistudio-steer",
        "args": ["--line", tiny.sae.uri],
    }
    assert service["spec"]["predictor"]["annotations"]["mistudio.io/sae-digest"] == tiny.sae.digest
    assert service["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "mistudio"
    assert "Created InferenceService" in did
    assert "with feature 0 added" in did
    assert "0 failed" in did
    again = deploy(tiny.sae, config(), patience=QUICK)
    assert "serves" in again.splitlines()[0]
    assert "already" in again.splitlines()[0]
    after = cluster.api.get("inferenceservices", SERVICES, "steer")
    assert after["metadata"]["resourceVersion"] == service["metadata"]["resourceVersion"]
    assert cluster.kserve.started == [["--models", "steer", "--line", tiny.sae.uri]]


def test_a_canary_is_tried_before_it_gets_traffic_and_promoted_without_a_restart(
    cluster: Stage, tiny: TinyStore, other: Artifact
) -> None:
    deploy(tiny.sae, config(), patience=QUICK)
    shares: list[int] = []
    cluster.api.storage.webhooks["inferenceservices"] = lambda made: shares.extend(
        each["trafficPercent"] for each in made["spec"].get("canary", [])
    )
    did = deploy(other, config(canary_percent=10), patience=QUICK)
    assert list(dict.fromkeys(shares)) == [0, 10]
    assert "gets 10% of the traffic" in did
    service = cluster.api.get("inferenceservices", SERVICES, "steer")
    assert lines(service) == [tiny.sae.uri, other.uri]
    deploy(other, config(canary_percent=10), patience=QUICK)  # which finds it
    deploy(other, config(canary_percent=100), patience=QUICK)
    service = cluster.api.get("inferenceservices", SERVICES, "steer")
    assert lines(service) == [other.uri]
    assert service["spec"]["predictor"]["name"] == f"sae-{other.uri.partition('/')[2][:8]}"
    assert [each[-1] for each in cluster.kserve.started] == [tiny.sae.uri, other.uri]


def test_what_does_not_start_is_rolled_back(
    tmp_path: Path, tiny: TinyStore, other: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stage(tmp_path, monkeypatch, in_process(*tiny[:2], lambda line: line == other.uri)) as cluster:
        with pytest.raises(RolloutFailed, match=r"there is no .* in this store.* was deleted again"):
            deploy(other, config(), patience=QUICK)
        assert not cluster.api.has("inferenceservices", SERVICES, "steer")
        deploy(tiny.sae, config(), patience=QUICK)
        before = cluster.api.get("inferenceservices", SERVICES, "steer")["spec"]
        for percent in (100, 10):
            with pytest.raises(RolloutFailed, match=r"BlockedByFailedLoad: ModelLoadFailed: there is no"):
                deploy(other, config(canary_percent=percent), patience=QUICK)
            assert cluster.api.get("inferenceservices", SERVICES, "steer")["spec"] == before


def test_a_deployment_that_is_ended_puts_back_what_was_served(cluster: Stage, tiny: TinyStore, other: Artifact) -> None:
    deploy(tiny.sae, config(), patience=QUICK)
    before = cluster.api.get("inferenceservices", SERVICES, "steer")["spec"]

    def end() -> None:
        while "canary" not in cluster.api.get("inferenceservices", SERVICES, "steer")["spec"]:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    ending = threading.Thread(target=end)
    ending.start()
    with pytest.raises(Stopped) as stopped, can_be_ended():
        deploy(other, config(canary_percent=10, watch_s=600), patience=QUICK)
    ending.join()
    assert "was taken away" in stopped.value.__notes__[0]
    assert cluster.api.get("inferenceservices", SERVICES, "steer")["spec"] == before


def test_one_that_was_killed_is_gone_on_with_and_knows_the_way_back(
    cluster: Stage, tiny: TinyStore, other: Artifact
) -> None:
    deploy(tiny.sae, config(), patience=QUICK)
    before = cluster.api.get("inferenceservices", SERVICES, "steer")["spec"]["predictor"]
    changed = Deployed(other.uri, "mistudio-steer", {}).predictor(before)
    kind = cluster.api.kind("inferenceservices")
    told = lambda old: {**old, "spec": {"predictor": changed}}  # noqa: E731 - as far as the one before came
    cluster.api.storage.update(kind, SERVICES, "steer", told, strict=True)
    cluster.network.fail(STABLE, "/openai/v1/completions")
    with pytest.raises(RolloutFailed, match=f"does not write: .* Rolled back: {PLACE} serves {tiny.sae.uri} again"):
        deploy(other, config(), patience=QUICK)
    predictor = cluster.api.get("inferenceservices", SERVICES, "steer")["spec"]["predictor"]
    assert predictor["model"] == before["model"]


def test_what_pods_say_is_told_and_no_right_is_used_or_lacking_beside_those_of_the_page(
    tmp_path: Path, tiny: TinyStore, other: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_broken = threading.Event()
    is_broken.set()
    with stage(tmp_path, monkeypatch, in_process(*tiny[:2], lambda _line: is_broken.is_set())) as cluster:
        labels = {"serving.kserve.io/inferenceservice": "steer"}
        waiting = {"name": "kserve-container", "ready": False, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
        spec = {"containers": [{"name": "kserve-container"}]}
        pod = {"metadata": {"name": "steer-1", "labels": labels}, "spec": spec}
        cluster.api.put("pods", SERVICES, {**pod, "status": {"containerStatuses": [waiting]}})
        cluster.api.logs[SERVICES, "steer-1", "kserve-container"] = [("2026-01-01T00:00:00Z", "Error: no such line")]
        with pytest.raises(RolloutFailed, match=r"CrashLoopBackOff\s+The last lines of steer-1:\s+Error: no such line"):
            deploy(tiny.sae, config(), patience=QUICK)
        is_broken.clear()
        deploy(tiny.sae, config(), patience=QUICK)
        deploy(other, config(canary_percent=0), patience=QUICK)
        assert cluster.api.rights.used_rules(ACCOUNT) == calls_in(SERVICES)


@pytest.mark.parametrize("percent", [100, 50])
def test_errors_while_it_is_watched_bring_back_what_was_served(
    cluster: Stage, tiny: TinyStore, other: Artifact, percent: int
) -> None:
    deploy(tiny.sae, config(), patience=QUICK)
    before = cluster.api.get("inferenceservices", SERVICES, "steer")["spec"]
    name = f"steer-sae-{other.uri.partition('/')[2][:8]}-predictor.{SERVICES}.svc.cluster.local"
    # The first answer is that to the check, the others come while it is watched.
    cluster.network.fail(name if percent < 100 else STABLE, "/openai/v1/completions", after=1)
    with pytest.raises(RolloutFailed, match=r"requests made to try it failed within 0.1 s, more than 0.0%"):
        deploy(other, config(canary_percent=percent), patience=QUICK)
    assert cluster.api.get("inferenceservices", SERVICES, "steer")["spec"] == before


def test_the_wrong_autoencoder_behind_the_name_is_noticed(cluster: Stage, tiny: TinyStore, other: Artifact) -> None:
    deploy(tiny.sae, config(), patience=QUICK)
    cluster.kserve.is_paused.set()
    service = cluster.api.get("inferenceservices", SERVICES, "steer")

    def ready_at_once(made: dict[str, Any]) -> None:
        """As a controller that says it is ready, while the pods of before still answer."""
        made["status"]["observedGeneration"] = service["metadata"]["generation"] + 1

    cluster.api.storage.webhooks["inferenceservices"] = ready_at_once
    with pytest.raises(RolloutFailed, match=f"serves the autoencoder {tiny.sae.digest[:12]}, and not"):
        deploy(other, config(ready_timeout_s=0.2), patience=QUICK)


@pytest.mark.parametrize("is_new", [True, False])
def test_what_another_has_deployed_meanwhile_is_not_rolled_back(
    cluster: Stage, tiny: TinyStore, other: Artifact, is_new: bool
) -> None:
    if not is_new:
        deploy(tiny.sae, config(), patience=QUICK)
    cluster.kserve.is_paused.set()  # nothing gets ready
    kind = cluster.api.kind("inferenceservices")
    theirs = Deployed("sae/0123456789abcdef", "mistudio-steer", {})

    def deploy_theirs() -> None:
        place = "inferenceservices", SERVICES, "steer"
        while not cluster.api.has(*place) or lines(cluster.api.get(*place)) != [other.uri]:
            time.sleep(0.01)
        cluster.api.storage.update(kind, SERVICES, "steer", lambda old: _serving(old, theirs), strict=True)

    another = threading.Thread(target=deploy_theirs)
    another.start()
    with pytest.raises(RolloutFailed, match="is not ready.*Somebody else has deployed meanwhile"):
        deploy(other, config(ready_timeout_s=2), patience=QUICK)
    another.join()
    assert lines(cluster.api.get("inferenceservices", SERVICES, "steer")) == [theirs.line]


def _serving(service: dict[str, Any], deployed: Deployed) -> dict[str, Any]:
    service["spec"]["predictor"] = deployed.predictor(service["spec"]["predictor"])
    return service


def test_a_write_in_between_is_no_conflict_that_anybody_sees(cluster: Stage, tiny: TinyStore, other: Artifact) -> None:
    deploy(tiny.sae, config(), patience=QUICK)
    told: list[int] = []

    def scale(_body: dict[str, Any]) -> None:
        """Another client writes just before, for the first two times."""
        if len(told) < 2:
            told.append(len(told) + 2)
            kind = cluster.api.kind("inferenceservices")
            cluster.api.storage.update(kind, SERVICES, "steer", lambda old: _scaled(old, told[-1]), strict=True)

    cluster.api.before["update"] = scale
    deploy(other, config(), patience=QUICK)
    service = cluster.api.get("inferenceservices", SERVICES, "steer")
    assert lines(service) == [other.uri]
    assert service["spec"]["predictor"]["minReplicas"] == 3
    assert len(told) == 2


def _scaled(service: dict[str, Any], replicas: int) -> dict[str, Any]:
    service["spec"]["predictor"]["minReplicas"] = replicas
    return service


def test_a_service_of_somebody_else_is_left_alone(cluster: Stage, tiny: TinyStore) -> None:
    model = {"modelFormat": {"name": "mistudio-steer"}, "runtime": "mistudio-steer", "args": ["--line", tiny.sae.uri]}
    cluster.api.put(
        "inferenceservices", SERVICES, {"metadata": {"name": "steer"}, "spec": {"predictor": {"model": model}}}
    )
    with pytest.raises(ClusterError, match=r"is not managed by mistudio.*kubectl label inferenceservice steer"):
        deploy(tiny.sae, config(), patience=QUICK)


def test_without_the_right_to_deploy_nothing_is_changed_and_the_right_is_named(cluster: Stage, tiny: TinyStore) -> None:
    cluster.api.rights.account(ACCOUNT, "token-of-the-pipelines-0123456789abcdef")
    with pytest.raises(
        ClusterError, match=f"right to get inferenceservices.serving.kserve.io steer in namespace {SERVICES}"
    ):
        deploy(tiny.sae, config(), patience=QUICK)


def test_who_deployed_what_is_on_record(cluster: Stage, tiny: TinyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_ACTOR", "ada@example.org")
    done = run("--sae", tiny.sae.uri, "--store", str(tiny.store.url))
    assert done.exit_code == 0, done.output
    recorded = list(actions(tiny.store))[-1].record
    assert (recorded["action"], recorded["target"], recorded["digest"]) == ("deploy", tiny.sae.uri, tiny.sae.digest)
    assert recorded["detail"] == {"place": PLACE, "canary_percent": 100, "outcome": "done"}
    assert recorded["actor"]["user"] == "ada@example.org"


@pytest.mark.proof
def test_the_command_deploys_a_real_server_and_takes_back_one_whose_store_lacks_the_line(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is started with the arguments of the manifests' ServingRuntime and of the InferenceService."""
    tiny = tiny_store(tmp_path_factory)
    theirs = tmp_path / "store-of-the-predictors"
    shutil.copytree(str(tiny.store.url), theirs)
    missing = another_sae(tiny)
    runtime = yaml.safe_load(RUNTIME.read_text(encoding="utf-8"))
    (container,) = runtime["spec"]["containers"]
    assert container["command"] == ["python", "-P", "-m", "model_servers"]
    container["args"].append(f"--subject={tiny.source.path}")  # the model is no part of this store
    containers = Processes({"MISTUDIO_STORE": str(theirs), "MISTUDIO_API_KEYS": f"deployer:{KEY}"})
    with stage(tmp_path, monkeypatch, containers.start, runtime=runtime) as cluster:
        done = run("--sae", tiny.sae.uri, "--store", str(tiny.store.url))
        assert done.exit_code == 0, done.output
        assert f"which serves {tiny.sae.uri}" in done.stdout
        assert "It is the right autoencoder, and it writes" in done.stdout
        with pytest.raises(RolloutFailed, match=rf"{missing.uri}.* serves {tiny.sae.uri} again"):
            raise run("--sae", missing.uri, "--store", str(tiny.store.url)).exception or AssertionError
        service = cluster.api.get("inferenceservices", SERVICES, "steer")
        assert lines(service) == [tiny.sae.uri]


def run(*arguments: str) -> Any:
    quick = ["--watch-s", "0.5", "--set", "check_every_s=0.05", "--set", "smoke_tokens=3"]
    return CliRunner().invoke(app, ["deploy", *arguments, "--deploy-to", PLACE, *quick])
