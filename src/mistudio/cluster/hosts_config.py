"""Settings of work on several hosts, and what their pods are given beside the work."""

import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from mistudio.guarded_json import RefusedJSON, parse_json
from mistudio.plain_text import shortened
from mistudio.settings import Settings

# What the Trainer sets, and what says how many processes are in one pod where there is no Trainer.
_RESERVED = ("PET_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "MISTUDIO_NUM_PROCESSES")


class PodSettings(Settings):
    """What the pod of each host is given, as a pod's specification has it; ``dsl.TaskConfig`` of KFP is one."""

    affinity: dict[str, Any] | None = None
    tolerations: list[dict[str, Any]] | None = None
    node_selector: dict[str, str] | None = None
    env: list[dict[str, Any]] | None = None
    volumes: list[dict[str, Any]] | None = None
    volume_mounts: list[dict[str, Any]] | None = None
    resources: dict[str, Any] | None = None

    @property
    def environment(self) -> list[dict[str, Any]]:
        """The variables without those that are the Trainer's."""
        return [each for each in self.env or [] if not str(each.get("name", "")).startswith(_RESERVED)]

    @property
    def num_gpus(self) -> int:
        """GPUs that each pod is given."""
        limits = (self.resources or {}).get("limits") or {}
        return sum(int(value) for name, value in limits.items() if "gpu" in name.lower())

    def mounts(self, path: str) -> bool:
        """Whether a path lies in a volume."""
        mounted = [str(each.get("mountPath", "")).rstrip("/") for each in self.volume_mounts or []]
        return any(path == each or path.startswith(f"{each}/") for each in mounted if each)


class HostsConfig(Settings):
    """How work is spread over hosts; what it ends with is the same."""

    num_nodes: int = Field(2, ge=1, le=1024, description="hosts, each with a pod of its own")
    processes_per_node: int | None = Field(
        None, ge=1, le=64, description="processes a host; None: one a GPU of its pod, or one"
    )
    training_runtime: str = Field("torch-distributed", min_length=1, description="ClusterTrainingRuntime")
    namespace: str | None = Field(None, description="where the TrainJob is made; None: the pod's, or the context's")
    image: str | None = Field(None, description="image of the pods; None: MISTUDIO_IMAGE, else that of the runtime")
    context: str | None = Field(None, description="context of the kubeconfig")
    check_every_s: float = Field(5.0, gt=0, le=600, description="seconds between two looks at the cluster")
    pod: PodSettings = PodSettings()

    @model_validator(mode="before")
    @classmethod
    def _read_pod(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and isinstance(given.get("pod"), str):
            try:
                return {**given, "pod": parse_json(given["pod"])}
            except RefusedJSON as error:
                message = f"pod is no JSON ({error}): {shortened(given['pod'])}"
                raise ValueError(message) from error
        return given

    @model_validator(mode="after")
    def _fits(self) -> Self:
        gpus = self.pod.num_gpus
        if gpus and self.processes_per_node and self.processes_per_node > gpus:
            message = f"processes_per_node {self.processes_per_node} is more than the {gpus} GPUs of a pod: lower it"
            raise ValueError(message)
        return self

    @property
    def processes(self) -> int:
        """Processes on each host."""
        return self.processes_per_node or self.pod.num_gpus or 1


def pod_json(task_config: Any) -> str | None:
    """What KFP hands on of a task's pod, as the step takes it; None where there is nothing.

    Args:
        task_config: a ``dsl.TaskConfig``.
    """
    given = {name: getattr(task_config, name) for name in PodSettings.model_fields}
    known = {name: value for name, value in given.items() if value}
    return json.dumps(known) if known else None
