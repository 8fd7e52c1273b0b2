"""Puts a placement into a pipeline: each of its tasks gets what ``kfp.kubernetes`` can say of a pod.

What KFP cannot say (a root file system that is read only, a group for volumes) is a matter of the cluster; the page on
placement names how. KFP itself lets no pod escalate privileges, drops all capabilities, and sets the default seccomp
profile.
"""

import math
from typing import NamedTuple

from kfp import dsl, kubernetes
from kfp.dsl.pipeline_context import Pipeline

from components.images import BATCH_CUDA_IMAGE, BATCH_IMAGE
from mistudio.steps import STEPS
from pipelines.placement import GpuKind, Placement, StepPlacement, Toleration, cores_of


class Loops(NamedTuple):
    """How the loops of a pipeline run.

    Attributes:
        find_parts: parts of find's pass.
        at_once: iterations that run at the same time.
        most_points: autoencoders of one sweep; 0: any number.
    """

    find_parts: int
    at_once: int
    most_points: int


# KFP's local runner does two iterations at a time.
HERE = Loops(find_parts=2, at_once=8, most_points=0)


def loops_of(placement: Placement) -> Loops:
    """How loops run on a cluster."""
    return Loops(placement.find_parts, placement.at_once, placement.most_points)


def place_tasks(placement: Placement, pipeline: str) -> None:
    """Place all tasks of the pipeline that is being built."""
    for task in Pipeline.get_default_pipeline().tasks.values():
        if task.container_spec is not None:
            _place(task, placement, task.component_spec.name.replace("-", "_"), pipeline)


def _place(task: dsl.PipelineTask, placement: Placement, step: str, pipeline: str) -> None:
    placed = placement.of(step)
    _resources(task, placed, placement.gpu_of(placed))
    image = _image(task, placement, on_gpu=bool(placed.gpus))
    _node(task, placed, placement.gpu_of(placed))
    _environment(task, placement, step, placed, image)
    _volumes(task, placement, placed)
    _trying_again(task, placed)
    _labels(task, placed, step, pipeline)
    # What publishes nothing decides, or changes something outside of the store: it is done again.
    publishes = step not in STEPS or STEPS[step].output is not None
    task.set_caching_options(enable_caching=placement.caching and publishes)
    kubernetes.set_timeout(task, math.ceil(3600 * (placed.timeout_hours or 0)))
    kubernetes.set_security_context(
        task, run_as_user=placement.run_as_user, run_as_group=placement.run_as_group, run_as_non_root=True
    )


def _resources(task: dsl.PipelineTask, placed: StepPlacement, kind: GpuKind | None) -> None:
    task.set_cpu_request(placed.cpu_request).set_cpu_limit(placed.cpu_limit)
    task.set_memory_request(placed.memory_request).set_memory_limit(placed.memory_limit)
    if kind is not None:
        task.set_accelerator_type(kind.resource).set_accelerator_limit(placed.gpus)


def _image(task: dsl.PipelineTask, placement: Placement, *, on_gpu: bool) -> str:
    own = (placement.gpu_image or BATCH_CUDA_IMAGE) if on_gpu else (placement.image or BATCH_IMAGE)
    task.set_container_image(own)
    kubernetes.set_image_pull_policy(task, placement.image_pull_policy)
    if placement.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(placement.image_pull_secrets))
    return own


def _node(task: dsl.PipelineTask, placed: StepPlacement, kind: GpuKind | None) -> None:
    selector = {**(placed.node_selector or {}), **(kind.node_selector if kind else {})}
    for label, value in selector.items():
        kubernetes.add_node_selector(task, label, value)
    for each in (*(placed.tolerations or ()), *(kind.tolerations if kind else ())):
        _tolerate(task, each)


def _tolerate(task: dsl.PipelineTask, each: Toleration) -> None:
    kubernetes.add_toleration(
        task, each.key or None, each.operator, each.value or None, each.effect or None, each.seconds
    )


def _environment(task: dsl.PipelineTask, placement: Placement, step: str, placed: StepPlacement, image: str) -> None:
    cores = math.ceil(cores_of(placed.cpu_limit or "1"))
    folder = placement.scratch_folder
    values = {
        "HOME": folder,
        "MISTUDIO_SCRATCH": folder,
        "MISTUDIO_CACHE": f"{folder}/cache",
        "MISTUDIO_CACHE_GB": str(placement.cache_gb),
        "MISTUDIO_IMAGE": image,
        "OMP_NUM_THREADS": str(cores),  # PyTorch would start one for each core of the node
    }
    if (placed.processes or 1) > 1:
        values["MISTUDIO_NUM_PROCESSES"] = str(placed.processes)
    for name, value in (values | (placed.env or {})).items():
        task.set_env_variable(name, value)
    for each in placement.variables(step, secrets=True):
        kubernetes.use_secret_as_env(task, each.name, each.keys, optional=each.optional)
    for each in placement.variables(step, secrets=False):
        kubernetes.use_config_map_as_env(task, each.name, each.keys, optional=each.optional)


def _volumes(task: dsl.PipelineTask, placement: Placement, placed: StepPlacement) -> None:
    kubernetes.empty_dir_mount(task, "scratch", placement.scratch_folder, size_limit=placed.scratch)
    kubernetes.empty_dir_mount(task, "tmp", "/tmp", size_limit=placement.tmp)  # noqa: S108 -- of the pod
    if (placed.processes or 1) > 1:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=placement.shared_memory)  # noqa: S108


def _trying_again(task: dsl.PipelineTask, placed: StepPlacement) -> None:
    if placed.retries:
        task.set_retry(
            placed.retries,
            backoff_duration=f"{placed.retry_wait_s}s",
            backoff_factor=2.0,
            backoff_max_duration=f"{placed.retry_longest_wait_s}s",
        )


def _labels(task: dsl.PipelineTask, placed: StepPlacement, step: str, pipeline: str) -> None:
    own = {
        "app.kubernetes.io/name": "mistudio",
        "app.kubernetes.io/component": step.replace("_", "-"),
        "app.kubernetes.io/part-of": pipeline,
        "app.kubernetes.io/managed-by": "kubeflow-pipelines",
    }
    for label, value in (own | (placed.labels or {})).items():
        kubernetes.add_pod_label(task, label, value)
    for key, value in (placed.annotations or {}).items():
        kubernetes.add_pod_annotation(task, key, value)
