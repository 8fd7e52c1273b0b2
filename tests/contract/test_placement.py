"""What a placement says of a step is what the compiled pipeline asks of the cluster for it."""

import math
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import dsl
from typer.testing import CliRunner

from components.grid.component import grid
from components.images import BATCH_IMAGE
from mistudio.cli import app
from mistudio.errors import ConfigError
from mistudio.steps import STEPS, call
from mistudio.steps.memory import estimate_elsewhere
from mistudio.steps.memory_config import MemoryConfig
from pipelines import _kfp, _placing, _sizes
from pipelines._defaults import component_names
from pipelines._kfp import run_here
from pipelines._reference import PAGE, page_text
from pipelines.interpret import interpret
from pipelines.placement import Placement, bytes_of, load_placement
from pipelines.sweep import sweep
from tests.support.tiny import tiny_llama

ROOT = Path(__file__).parents[2]
PIPELINES = {"interpret": interpret, "sweep": sweep}
EXAMPLES = sorted((ROOT / "pipelines" / "placements").glob("*.yaml"))
DECIDES = {"grid", "gate", "fail_gate"}
BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmnopqrs"))


def compiled(pipeline: Any, placement: Placement | Path) -> str:
    """The YAML; made in a thread, whose stack is short: KFP looks through all of it whenever it is told something."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_kfp.compiled, pipeline, placement).result()


class Compiled:
    """A compiled pipeline, taken apart by steps."""

    def __init__(self, text: str) -> None:
        self.spec, platform = yaml.safe_load_all(text)
        self._executors = self.spec["deploymentSpec"]["executors"]
        self._pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        self.labels = sorted(self._executors)
        assert sorted(self._pods) == self.labels, "a step without a placement"

    def container(self, step: str) -> dict[str, Any]:
        return self._executors[f"exec-{step.replace('_', '-')}"]["container"]

    def env(self, step: str) -> dict[str, str]:
        return {each["name"]: each["value"] for each in self.container(step)["env"]}

    def pod(self, step: str) -> dict[str, Any]:
        return self._pods[f"exec-{step.replace('_', '-')}"]

    def from_secrets(self, step: str) -> dict[str, bool]:
        return {each["secretName"]: each["optional"] for each in self.pod(step)["secretAsEnv"]}

    def volumes(self, step: str) -> dict[str, str]:
        return {each["mountPath"]: each["sizeLimit"] for each in self.pod(step)["emptyDirMounts"]}

    def task(self, step: str) -> dict[str, Any]:
        name = step.replace("_", "-")
        dags = [self.spec["root"], *self.spec["components"].values()]
        return next(dag["dag"]["tasks"][name] for dag in dags if name in dag.get("dag", {}).get("tasks", {}))


def steps_of(pipeline: Compiled) -> Iterator[str]:
    yield from (label.removeprefix("exec-").replace("-", "_") for label in pipeline.labels)


@pytest.fixture(scope="module")
def by_default() -> dict[str, Compiled]:
    """The pipelines as they are committed; that this is the default's is the test of components."""
    folder = ROOT / "pipelines" / "compiled"
    return {name: Compiled((folder / f"{name}.yaml").read_text(encoding="utf-8")) for name in PIPELINES}


def write(folder: Path, text: str) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", PIPELINES)
def test_every_step_of_a_compiled_pipeline_has_all_that_a_pod_needs(name: str, by_default: dict[str, Compiled]) -> None:
    pipeline = by_default[name]
    for step in steps_of(pipeline):
        pod, resources, env = pipeline.pod(step), pipeline.container(step)["resources"], pipeline.env(step)
        assert pod["securityContext"] == {"runAsUser": "65532", "runAsGroup": "65532", "runAsNonRoot": True}
        assert set(pipeline.volumes(step)) == {"/scratch", "/tmp"}
        assert (env["HOME"], env["MISTUDIO_SCRATCH"], env["MISTUDIO_CACHE"]) == (
            "/scratch",
            "/scratch",
            "/scratch/cache",
        )
        assert env["MISTUDIO_IMAGE"] == pipeline.container(step)["image"] == BATCH_IMAGE
        assert int(pod["activeDeadlineSeconds"]) > 0
        assert pod["podMetadata"]["labels"] == {
            "app.kubernetes.io/name": "mistudio",
            "app.kubernetes.io/component": step.replace("_", "-"),
            "app.kubernetes.io/part-of": name,
            "app.kubernetes.io/managed-by": "kubeflow-pipelines",
        }
        assert bytes_of(resources["resourceMemoryRequest"]) < bytes_of(resources["resourceMemoryLimit"])
        assert env["OMP_NUM_THREADS"] == str(math.ceil(float(resources["resourceCpuLimit"])))
        assert not pipeline.task(step)["cachingOptions"]
        assert "resourceType" not in str(resources)  # no GPU: the default runs on a plain cluster
        assert "nodeSelector" not in pod


@pytest.mark.parametrize("name", PIPELINES)
def test_steps_that_publish_are_tried_again_and_those_that_decide_are_not(
    name: str, by_default: dict[str, Compiled]
) -> None:
    pipeline = by_default[name]
    for step in steps_of(pipeline):
        policy = pipeline.task(step).get("retryPolicy")
        if step in DECIDES or STEPS[step].output is None:
            assert policy is None
        else:
            assert policy == {
                "maxRetryCount": 2,
                "backoffDuration": "30s",
                "backoffFactor": 2.0,
                "backoffMaxDuration": "600s",
            }


def test_a_step_gets_the_secrets_that_it_has_a_use_for(by_default: dict[str, Compiled]) -> None:
    pipeline = by_default["interpret"]
    assert pipeline.from_secrets("train") == {"mistudio-s3": False, "mistudio-signing": True}
    assert pipeline.from_secrets("explain") == {"mistudio-s3": False, "mistudio-judge": True, "mistudio-signing": True}
    assert pipeline.from_secrets("gate") == {"mistudio-s3": False, "mistudio-signing": True}
    assert "secretAsEnv" not in pipeline.pod("fail_gate")
    maps = pipeline.pod("train")["configMapAsEnv"]
    assert [(each["keyToEnv"][0]["envVar"], each["optional"]) for each in maps] == [
        ("MISTUDIO_STORE", False),
        ("MLFLOW_TRACKING_URI", True),
    ]


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path, by_default: dict[str, Compiled]) -> None:
    file = write(
        tmp_path,
        """
        gpu_kinds:
          large:
            node_selector: {gpu: large}
            tolerations: [{key: gpu, operator: Exists, effect: NoSchedule}]
        every_step: {retries: 5, cpu_limit: "8", node_selector: {zone: a}, labels: {team: one}}
        steps:
          train:
            {gpus: 2, gpu_kind: large, cpu_limit: 2500m, timeout_hours: 1.5, env: {NCCL_DEBUG: INFO}, labels: {c: d}}
          capture: {memory_request: 3Gi, memory_limit: 4Gi, scratch: 100Gi}
        secrets:
          judge: null
          hub: {name: hub, keys: {token: HF_TOKEN}, optional: true}
        image: registry.example/python:1
        gpu_image: registry.example/python-cuda:1
        image_pull_secrets: [registry]
        run_as_user: 1000
        caching: true
        """,
    )
    pipeline = Compiled(compiled(interpret, file))
    train, pod = pipeline.container("train"), pipeline.pod("train")
    assert train["image"] == "registry.example/python-cuda:1"
    assert train["resources"]["accelerator"] == {
        "count": "2",
        "resourceCount": "2",
        "resourceType": "nvidia.com/gpu",
        "type": "nvidia.com/gpu",
    }
    assert pod["nodeSelector"]["labels"] == {"zone": "a", "gpu": "large"}
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["activeDeadlineSeconds"] == "5400"
    assert pipeline.env("train") | {"NCCL_DEBUG": "INFO", "OMP_NUM_THREADS": "3"} == pipeline.env("train")
    assert pipeline.env("train")["MISTUDIO_NUM_PROCESSES"] == "2"
    assert pipeline.volumes("train")["/dev/shm"] == "1Gi"
    assert {"team": "one", "c": "d"}.items() <= pod["podMetadata"]["labels"].items()
    assert pipeline.volumes("capture")["/scratch"] == "100Gi"
    assert pipeline.container("capture")["resources"]["resourceMemoryLimit"] == "4Gi"
    assert pipeline.container("capture")["image"] == "registry.example/python:1"
    assert "tolerations" not in pipeline.pod("capture")
    assert "MISTUDIO_NUM_PROCESSES" not in pipeline.env("capture")
    assert pipeline.from_secrets("explain") == {"mistudio-s3": False, "mistudio-signing": True, "hub": True}
    assert pipeline.pod("report")["securityContext"]["runAsUser"] == "1000"
    assert pipeline.pod("report")["imagePullSecret"][0]["secretName"] == "registry"
    assert pipeline.task("report")["cachingOptions"] == {"enableCache": True}
    assert pipeline.task("train")["retryPolicy"]["maxRetryCount"] == 5
    assert not any("retryPolicy" in pipeline.task(step) for step in ("register", "deploy"))
    assert not any("retryPolicy" in pipeline.task(step) for step in DECIDES & set(steps_of(pipeline)))
    before = by_default["interpret"]
    assert pipeline.container("explain")["command"] == before.container("explain")["command"]
    assert pipeline.volumes("explain") == before.volumes("explain")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("steps: {trian: {gpus: 1}}", "steps.'trian': there is no such step; there are .*train"),
        ("steps: {train: {gpu: 1}}", "steps.train.gpu: extra inputs are not permitted"),
        ("steps: {train: {gpus: many}}", "steps.train.gpus: input should be a valid integer.*'many'"),
        ("steps: {train: {memory_limit: 3GB}}", "steps.train.memory_limit: string should match.*'3GB'"),
        ("steps: {train: {gpus: 1, gpu_kind: h100}}", "steps.train.gpu_kind: 'h100' is none of gpu_kinds: gpu"),
        ("steps: {ingest: {gpus: 1}}", "steps.ingest.gpus: the step computes on no GPU"),
        ("steps: {capture: {processes: 2}}", "steps.capture.processes: the step is the work of one process"),
        ("steps: {gate: {retries: 1}}", "steps.gate.retries: the step decides, and is never tried again"),
        ("steps: {train: {env: {MY_API_KEY: abc}}}", "steps.train.env: MY_API_KEY looks like a secret"),
        ("find_parts: 51", "find_parts: input should be less than or equal to 50"),
        ("run_as_user: 0", "run_as_user: input should be greater than or equal to 1"),
        ("secrets: {judge: {keys: {}}}", "secrets.judge.name: field required"),
        ("every_step: {gpus: 1, gpu_kind: h100}", "every_step.gpu_kind: 'h100' is none of gpu_kinds: gpu"),
        ("every_step: {memory_limit: 0Gi}", "every_step.memory_limit: string should match"),
        ("every_step: {cpu_limit: '0.0'}", "every_step.cpu_limit: string should match"),
        (f"every_step: {{scratch: {'9' * 400}Gi}}", "every_step.scratch: string should match"),
        (f"cache_gb: {'9' * 400}", "cache_gb: input should be less than"),
        ("every_step: {tolerations: [{value: a}]}", "every_step.tolerations.0.key: Equal compares the value"),
        ("every_step: {tolerations: [{operator: Exists, value: a}]}", "tolerations.0.value: Exists looks at no value"),
        ("scratch_folder: /tmp", "scratch_folder: /tmp has a volume of its own"),
        ("- a", "write fields, such as"),
        ("a: [", "cannot be read"),
        ("model: 2026-13-45", "cannot be read: month must be in 1..12"),
        (f"find_parts: {'9' * 5000}", "cannot be read"),
        (f"model: {'[' * 2000}", "cannot be read: it is nested too deep"),
        ("steps:\n  train: {gpus: 1}\n  train: {retries: 1}", "cannot be read: 'train' is there twice.*line 3"),
        ("a: &a [*a]", "has more than 20,000 values, with what its aliases repeat"),
        (BOMB, "has more than 20,000 values, with what its aliases repeat"),
    ],
)
def test_a_refused_file_is_named_with_the_step_and_the_field(content: str, message: str, tmp_path: Path) -> None:
    file = write(tmp_path, content)
    with pytest.raises(ConfigError, match=message) as refused:
        load_placement(file)
    assert "cluster.yaml" in str(refused.value)


def test_what_aliases_repeat_may_be_changed(tmp_path: Path) -> None:
    steps = "steps:\n  train: &long {retries: 5, timeout_hours: 9}\n  evaluate: {<<: *long, retries: 1}\n"
    placement = load_placement(write(tmp_path, steps))
    assert [(each.retries, each.timeout_hours) for each in map(placement.of, ("train", "evaluate"))] == [(5, 9), (1, 9)]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"cpu_request": "5"}, r"steps.report.cpu_limit: \d+ is less than the 5 that are kept"),
        ({"memory_request": "8Gi", "memory_limit": "8191Mi"}, "steps.report.memory_limit: 8191Mi is less than the 8Gi"),
    ],
)
def test_no_more_is_kept_for_a_step_than_it_may_use(limits: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_placement(steps={"report": limits}).of("report")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read"):
        load_placement(tmp_path / "none.yaml")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_compile_and_fit_their_gpus(example: Path) -> None:
    placement = load_placement(example)
    pipeline = Compiled(compiled(interpret, placement))
    for step in steps_of(pipeline):
        gpus = placement.steps[step].gpus if step in placement.steps else None
        accelerator = pipeline.container(step)["resources"].get("accelerator", {})
        assert int(accelerator.get("resourceCount", 0)) == (gpus or 0)
        placed = placement.of(step)
        kind = placement.gpu_of(placed)
        if kind:
            assert placement.room.gpu_bytes(step) <= kind.memory_gb * 1e9
            assert kind.node_selector.items() <= pipeline.pod(step)["nodeSelector"]["labels"].items()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_have_room_for_the_steps_that_no_pipeline_has_too(example: Path) -> None:
    placement = load_placement(example)
    for step in component_names():
        placed = placement.of(step)
        assert bytes_of(placed.memory_request or "") < bytes_of(placed.memory_limit or "")
        assert bytes_of(placed.scratch or "") > placement.cache_gb * 1e9


def test_there_are_examples_for_a_laptop_for_a_host_with_two_gpus_and_for_a_cluster() -> None:
    assert [path.stem for path in EXAMPLES] == ["kind", "production", "two-gpu-host"]


def test_memory_is_what_check_memory_estimates_for_the_model() -> None:
    for size in _sizes.PROFILES:
        placement = load_placement(model_size=size)
        estimated = estimate_elsewhere(_sizes.shape_of(size), MemoryConfig(), "float32", on_gpu=False)
        for step, needed in estimated.items():
            request = bytes_of(placement.of(step).memory_request or "")
            assert needed + (1 << 29) <= request < needed + (1 << 29) + (1 << 30)
    assert placement.room.shape.num_parameters == pytest.approx(8.03e9, rel=0.01)


def test_processes_that_train_together_each_get_the_memory_of_one() -> None:
    one, four = (load_placement_of({"train": {"processes": count}}) for count in (1, 4))
    estimated = one.room.host_bytes("train", on_gpu=False) or 0
    more = bytes_of(four.of("train").memory_request or "") - bytes_of(one.of("train").memory_request or "")
    assert abs(more - 3 * estimated - bytes_of(one.shared_memory)) <= 1 << 30


def load_placement_of(steps: dict[str, Any]) -> Placement:
    return Placement.model_validate({"steps": steps})


@pytest.mark.parametrize(
    ("size", "profile"), [("tiny", "tiny"), ("160M", "small"), ("0.5B", "small"), ("1B", "medium"), ("7b", "large")]
)
def test_a_size_is_that_of_the_smallest_model_that_stands_for_it(size: str, profile: str) -> None:
    assert _sizes.profile_named(size) == profile


@pytest.mark.parametrize(
    ("size", "message"), [("huge", "huge' is none: use tiny"), ("70B", r"largest, large \(8.0B\)")]
)
def test_a_size_that_no_model_stands_for_is_refused(size: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_placement(model_size=size).of("capture")


def test_a_model_that_is_named_is_measured(tmp_path: Path) -> None:
    source = tiny_llama(tmp_path)
    placement = load_placement(model=str(source.path))
    assert placement.room.shape.num_parameters < 1e6
    default = load_placement()
    assert bytes_of(placement.of("capture").memory_request or "") < bytes_of(default.of("capture").memory_request or "")


def test_a_step_that_does_not_fit_its_gpu_is_refused_with_what_would_help() -> None:
    content = {"model_size": "large", "gpu_kinds": {"gpu": {"memory_gb": 12}}, "steps": {"capture": {"gpus": 1}}}
    with pytest.raises(ConfigError, match=r"steps.capture.gpus: with a model of 8B .* needs 2\d\.\d GB of GPU memory"):
        compiled(interpret, Placement.model_validate(content))
    content["steps"] = {"capture": {"gpus": 2}}  # over which the model is spread
    compiled(interpret, Placement.model_validate(content))


def test_loops_have_as_many_iterations_as_the_placement_says() -> None:
    placement = Placement.model_validate({"find_parts": 7, "at_once": 3, "most_points": 20})
    tasks = Compiled(compiled(interpret, placement)).spec["root"]["dag"]["tasks"]
    (loop,) = (task for task in tasks.values() if "parameterIterator" in task)
    assert yaml.safe_load(loop["parameterIterator"]["items"]["raw"]) == list(range(7))
    assert loop["iteratorPolicy"] == {"parallelismLimit": 3}
    points = Compiled(compiled(sweep, placement)).task("grid")["inputs"]["parameters"]["most_points"]
    assert points["runtimeValue"]["constant"] == 20


def test_a_sweep_of_more_points_than_a_run_takes_is_refused_with_what_to_do() -> None:
    seeds = ",".join(map(str, range(6)))
    with pytest.raises(ConfigError, match="sweep of 6 autoencoders is more than the 5 .*mistudio compare"):
        call("grid", architectures="topk", sparsities="8", seeds=seeds, most_points=5)
    assert len(call("grid", architectures="topk", sparsities="8", seeds=seeds, most_points=6)) == 6
    assert len(call("grid", architectures="topk", sparsities="8", seeds=seeds)) == 6


def test_a_placed_step_runs_with_the_local_runner_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scratch = tmp_path / "scratch"
    placement = load_placement(ROOT / "pipelines" / "placements" / "production.yaml", scratch_folder=str(scratch))

    @dsl.pipeline(name="placed")
    def placed() -> None:
        grid(architectures="topk", sparsities="8")
        _placing.place_tasks(placement, "placed")

    with pytest.warns(UserWarning, match="no effect in the current local runner"):  # memory and cores
        run_here(placed, {}, tmp_path / "kfp")
    assert "outputs:\n    Output: [" in "".join(capfd.readouterr())


def test_compiling_for_a_cluster_leaves_what_is_committed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    example = str(ROOT / "pipelines" / "placements" / "kind.yaml")
    for given, environment in (((f"--placement={example}",), {}), ((), {"MISTUDIO_PLACEMENT": example})):
        done = CliRunner().invoke(app, ["compile", "sweep", *given], env=environment, catch_exceptions=False)
        assert done.stdout == "compiled/sweep.yaml\n"
        assert (tmp_path / "compiled" / "sweep.yaml").read_text() == compiled(sweep, Path(example))
        (tmp_path / "compiled" / "sweep.yaml").unlink()


def test_the_placement_is_shown_by_steps() -> None:
    done = CliRunner().invoke(app, ["compile", "--show-placement"], catch_exceptions=False)
    rows = [line.split()[1] for line in done.stdout.splitlines()[2:]]
    assert rows == component_names()


def test_the_page_of_placement_files_is_what_the_declaration_gives() -> None:
    assert PAGE.read_text(encoding="utf-8") == page_text(), "run make compile"


def test_the_command_line_starts_without_what_placements_need() -> None:
    code = "import sys, mistudio.cli; sys.exit(any(name in sys.modules for name in ('kfp', 'yaml', 'pipelines')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
