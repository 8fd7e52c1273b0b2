"""Where on a cluster each step runs: GPUs, memory, nodes, secrets, scratch space, retries and time-outs, declared once.

The default (``_defaults``) submits to a plain cluster without GPUs. A YAML file overrides it when pipelines are
compiled (``mistudio compile --placement cluster.yaml``), so that one repository serves several clusters. What a file
leaves out stays as it is. It says things of all steps (``every_step``) and of single ones (``steps``), which win.

``Placement.of`` is what comes out for one step; ``_placing`` puts it into a pipeline. Pipelines that run on this
machine take nothing of it.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from mistudio.errors import ConfigError
from mistudio.paths import given_path
from mistudio.plain_text import shortened
from mistudio.redaction import secret_setting
from mistudio.settings import Settings
from mistudio.steps import STEPS, Step
from mistudio.steps.memory_config import MemoryConfig
from mistudio.subject.config import Quantization
from pipelines import _defaults
from pipelines._placement_file import read_file
from pipelines._sizes import Sizes, gib

_MOST_ITERATIONS = 50  # of a loop: each is several pods, and all of them stand in one object of the cluster
_QUANTITY = r"^[1-9]\d{0,6}(Mi|Gi|Ti)$"
_MEMORY = r"^(auto|[1-9]\d{0,6}(Mi|Gi|Ti))$"
_COLUMNS = ("step", "GPUs", "processes", "cores", "memory", "scratch", "retries", "hours")
_CPU = r"^(0?\.\d{0,3}[1-9]|[1-9]\d{0,4}(\.\d{1,3})?|[1-9]\d{0,6}m)$"
_MOUNTED = ("/tmp", "/dev/shm")  # noqa: S108 -- of the pod, which other volumes have

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
Texts = dict[str, str]


class Toleration(Settings):
    """A taint of nodes that a pod may run on all the same."""

    key: str = Field(default="", description="of the taint; empty: all taints, with operator Exists")
    operator: Literal["Equal", "Exists"] = Field(default="Equal", description="Equal compares the value")
    value: str = Field(default="", description="of the taint")
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(default="", description="empty: all")
    seconds: int | None = Field(default=None, ge=0, description="how long NoExecute is tolerated; None: for ever")

    @model_validator(mode="after")
    def _is_one(self) -> "Toleration":
        if self.operator == "Equal" and not self.key:
            message = "key: Equal compares the value of a taint: name its key, or use operator Exists for all taints"
            raise ValueError(message)
        if self.operator == "Exists" and self.value:
            message = "value: Exists looks at no value: leave it out, or use operator Equal"
            raise ValueError(message)
        return self


class GpuKind(Settings):
    """A kind of GPU that the cluster has, and how to get one."""

    resource: str = Field(
        default="nvidia.com/gpu", pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$", description="its resource"
    )
    memory_gb: float | None = Field(
        default=None, gt=0, description="memory of one, in GB; where it is given, a step that does not fit is refused"
    )
    node_selector: Texts = Field(default={}, description="labels of its nodes, beside those of the step")
    tolerations: tuple[Toleration, ...] = Field(default=(), description="taints of its nodes, beside the step's")


class Variables(Settings):
    """Environment variables from a secret or a config map of the namespace."""

    name: Name = Field(description="of the secret or config map")
    keys: Texts = Field(description="each of its keys with the variable that it becomes")
    optional: bool = Field(default=False, description="start the pod without it; else it waits until it is there")
    needed_by: Literal["all", "store", "judge", "predictors"] = Field(
        default="all",
        description="which steps get it: all, those that open the store, those that may ask a language model, or the "
        "one that deploys to predictors",
    )


class StepPlacement(Settings):
    """Where one step runs; None: as before, which is the default or what ``every_step`` says."""

    gpus: int | None = Field(default=None, ge=0, le=64, description="GPUs of the pod")
    gpu_kind: str | None = Field(default=None, description="which of gpu_kinds")
    processes: int | None = Field(
        default=None, ge=1, le=64, description="processes that train together in the pod; None: one a GPU, at least one"
    )
    cpu_request: str | None = Field(default=None, pattern=_CPU, description="cores that are kept for it")
    cpu_limit: str | None = Field(default=None, pattern=_CPU, description="cores that it may use")
    memory_request: str | None = Field(
        default=None, pattern=_MEMORY, description="memory that is kept for it; auto: as check-memory estimates"
    )
    memory_limit: str | None = Field(
        default=None, pattern=_MEMORY, description="memory above which it is killed; auto: 1.5 times the request"
    )
    scratch: str | None = Field(
        default=None,
        pattern=_MEMORY,
        description="size of the scratch volume; auto: the cache, and the model's weights where one is loaded",
    )
    timeout_hours: float | None = Field(default=None, gt=0, le=8760, description="after which a pod is ended")
    retries: int | None = Field(default=None, ge=0, le=10, description="how often a pod that failed is tried again")
    retry_wait_s: int | None = Field(
        default=None, ge=0, le=3600, description="seconds before the first retry; each further wait is twice as long"
    )
    retry_longest_wait_s: int | None = Field(default=None, ge=1, le=86_400, description="longest of these, in seconds")
    node_selector: Texts | None = Field(default=None, description="labels that its node must have")
    tolerations: tuple[Toleration, ...] | None = Field(default=None, description="taints that its node may have")
    env: Texts | None = Field(default=None, description="further environment variables; secrets are none of them")
    labels: Texts | None = Field(default=None, description="further labels of the pod")
    annotations: Texts | None = Field(default=None, description="annotations of the pod")

    @model_validator(mode="after")
    def _secrets_come_from_secrets(self) -> "StepPlacement":
        if name := secret_setting(self.env or {}):
            message = f"env: {name} looks like a secret: name a Kubernetes secret that has it in secrets"
            raise ValueError(message)
        return self


class Placement(Settings):
    """Where all steps run."""

    model_size: str = Field(
        default="small", description="size of the models to have room for: tiny, small, medium, large, or as 7B or 350M"
    )
    model: str | None = Field(
        default=None, description="a model to have room for instead: a folder, a GGUF file, or an id on the hub"
    )
    quantization: Quantization = Field(default="none", description="of its weights")
    sizes: MemoryConfig = Field(default=MemoryConfig(), description="sizes of the work, as check-memory has them")
    gpu_kinds: dict[str, GpuKind] = Field(default={"gpu": GpuKind()}, description="GPUs of the cluster, by kind")
    every_step: StepPlacement = Field(
        default=StepPlacement(), description="of all steps; GPUs and retries only where the step can use them"
    )
    steps: dict[str, StepPlacement] = Field(default={}, description="of single steps, by name")
    secrets: dict[str, Variables | None] = Field(
        default={}, description="secrets by what they are for; those of the default stay, unless they are null"
    )
    config_maps: dict[str, Variables | None] = Field(default={}, description="config maps, likewise")
    image: str = Field(default="", description="image of all pods; empty: BATCH_IMAGE of images/refs.env")
    gpu_image: str = Field(default="", description="image of pods with GPUs; empty: BATCH_CUDA_IMAGE")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="a tag that stands for its content is never pulled twice"
    )
    image_pull_secrets: tuple[Name, ...] = Field(default=(), description="secrets of the registry")
    run_as_user: int = Field(default=65_532, ge=1, description="user of the processes; never root")
    run_as_group: int = Field(default=65_532, ge=1, description="their group")
    scratch_folder: str = Field(
        default="/scratch", pattern=r"^(/[\w.-]+)+$", description="HOME, MISTUDIO_SCRATCH and the cache"
    )
    cache_gb: int = Field(
        default=10, ge=1, le=1_000_000, description="what the cache of the store may take of the scratch volume"
    )
    tmp: str = Field(default="2Gi", pattern=_QUANTITY, description="size of the volume at /tmp")
    shared_memory: str = Field(
        default="1Gi", pattern=_QUANTITY, description="size of /dev/shm, where several processes train together"
    )
    find_parts: int = Field(
        default=2, ge=1, le=_MOST_ITERATIONS, description="parts of find's pass, each a pod that reads many shards"
    )
    at_once: int = Field(default=8, ge=1, le=_MOST_ITERATIONS, description="pods of a loop that run at the same time")
    most_points: int = Field(
        default=_MOST_ITERATIONS, ge=1, le=_MOST_ITERATIONS, description="autoencoders of one sweep; more are refused"
    )
    caching: bool = Field(
        default=False,
        description="let Kubeflow skip steps by their parameters; the steps look into the store themselves, and see "
        "what Kubeflow does not: another store, a corpus that has changed",
    )

    @model_validator(mode="after")
    def _fits_the_steps(self) -> "Placement":
        own = (problem for name, own in self.steps.items() for problem in self._problems(name, own))
        if problem := next(chain(self._problems_of_all(), own), None):
            raise ValueError(problem)
        return self

    @cached_property
    def room(self) -> Sizes:
        """The model that there is to be room for, and what each step holds with it."""
        return Sizes.of(self.model, self.model_size, self.quantization, self.sizes)

    def of(self, step: str) -> StepPlacement:
        """Where a step runs: everything filled in, memory worked out.

        Raises:
            ConfigError: it does not fit the GPU, or more is kept for it than it may use.
        """
        known, own = STEPS.get(step), self.steps.get(step, StepPlacement())
        every, default = self.every_step, StepPlacement(**_defaults.of(known))
        if known and not _can_use_gpus(known):
            every = every.model_copy(update={"gpus": None, "gpu_kind": None})
        if not default.retries:  # it decides, or changes something outside of the store
            every = every.model_copy(update={"retries": None})
        if not (known and known.shared):
            every = every.model_copy(update={"processes": None})
        merged = _merged(default, every, own)
        processes = merged.processes or (max(merged.gpus or 0, 1) if known and known.shared else 1)
        placed = merged.model_copy(update={"processes": processes})
        self._check_gpu(step, placed)
        placed = placed.model_copy(update=self._worked_out(step, placed))
        _check_limits(step, placed)
        return placed

    def gpu_of(self, placed: StepPlacement) -> GpuKind | None:
        """The kind of GPU that a step gets; None: it gets none."""
        return self.gpu_kinds[placed.gpu_kind or ""] if placed.gpus else None

    def variables(self, step: str, secrets: bool) -> Iterator[Variables]:  # noqa: FBT001
        """The secrets, or config maps, whose values a step gets as environment variables."""
        defaults = _defaults.SECRETS if secrets else _defaults.CONFIG_MAPS
        given = self.secrets if secrets else self.config_maps
        known = STEPS.get(step)
        for each in ({name: Variables(**own) for name, own in defaults.items()} | given).values():
            if each is not None and _needs(known, each.needed_by):
                yield each

    def _problems_of_all(self) -> Iterator[str]:
        """What was said of no single step and cannot be."""
        if self.scratch_folder in _MOUNTED:
            yield f"scratch_folder: {self.scratch_folder} has a volume of its own: use another folder"
        kind = self.every_step.gpu_kind
        if kind and kind not in self.gpu_kinds:
            yield f"every_step.gpu_kind: {shortened(kind)} is none of gpu_kinds: {', '.join(self.gpu_kinds)}"

    def _problems(self, step: str, own: StepPlacement) -> Iterator[str]:
        """What was said of a step that cannot be."""
        names = _defaults.component_names()
        if step not in names:
            yield f"steps.{shortened(step)}: there is no such step; there are {', '.join(names)}"
        known = STEPS.get(step)
        kind = own.gpu_kind or self.every_step.gpu_kind
        if kind and kind not in self.gpu_kinds:
            yield f"steps.{step}.gpu_kind: {shortened(kind)} is none of gpu_kinds: {', '.join(self.gpu_kinds)}"
        if known and own.gpus and not _can_use_gpus(known):
            yield f"steps.{step}.gpus: the step computes on no GPU: leave it out"
        if known and (own.processes or 1) > 1 and not known.shared:
            yield f"steps.{step}.processes: the step is the work of one process: leave it out"
        if own.retries and step in _defaults.DECIDES:
            yield f"steps.{step}.retries: the step decides, and is never tried again: leave it out"

    def _check_gpu(self, step: str, placed: StepPlacement) -> None:
        kind = self.gpu_of(placed)
        if kind is None or kind.memory_gb is None or (needed := self.room.gpu_bytes(step)) is None:
            return
        # Where several processes train, each holds everything; other steps spread the model over the GPUs.
        there_gb = kind.memory_gb * (1 if (placed.processes or 1) > 1 else placed.gpus or 1)
        if needed > there_gb * 1e9:
            message = (
                f"steps.{step}.gpus: with a model of {self.room.about} the step needs {needed / 1e9:.1f} GB of GPU "
                f"memory, and {placed.gpus} of kind {placed.gpu_kind} with {kind.memory_gb:g} GB have too little: use "
                "another kind or more of them, smaller sizes (sizes), quantization, or a smaller model_size."
            )
            raise ConfigError(message)

    def _worked_out(self, step: str, placed: StepPlacement) -> dict[str, str]:
        """Memory and scratch space, where they are to be worked out."""
        processes = placed.processes or 1
        request = placed.memory_request
        if request in (None, "auto"):
            needed = self.room.host_bytes(step, on_gpu=bool(placed.gpus)) or _defaults.plain_bytes(STEPS.get(step))
            shared = bytes_of(self.shared_memory) if processes > 1 else 0
            request = f"{gib(needed * processes + shared + _defaults.BESIDE_BYTES)}Gi"
        limit = placed.memory_limit
        if limit in (None, "auto"):
            limit = f"{gib(bytes_of(request or '') * _defaults.LIMIT_RATIO)}Gi"
        scratch = placed.scratch
        if scratch in (None, "auto"):
            weights = self.room.file_bytes if _can_use_gpus(STEPS.get(step)) else 0
            scratch = f"{gib(self.cache_gb * 1e9 + weights) + _defaults.SCRATCH_BESIDE_GIB}Gi"
        return {"memory_request": request or "", "memory_limit": limit or "", "scratch": scratch or ""}


def load_placement(path: Path | str | None = None, **given: Any) -> Placement:
    """The placement of a file, over the default.

    Args:
        path: YAML; None: the default as it is.
        given: fields to set over the file's, such as ``model_size``; None: as the file has it.

    Raises:
        ConfigError: it cannot be read, or a field is refused; the message names the file, the step and the field.
    """
    content = {} if path is None else read_file(given_path(path, "--placement"))
    content |= {name: value for name, value in given.items() if value is not None}
    try:
        return Placement.model_validate(content)
    except ValidationError as error:
        where = "The placement" if path is None else f"The placement {path}"
        message = f"{where} is refused: {'; '.join(map(_reason, error.errors()))}."
        raise ConfigError(message) from error


def table(placement: Placement, steps: Iterable[str] | None = None) -> str:
    """Where each step runs, as a table in Markdown.

    Args:
        placement: what holds.
        steps: which; None: all that can be in a pipeline.
    """
    rows = [_COLUMNS, ("---",) * len(_COLUMNS)]
    rows += [_row(step, placement.of(step)) for step in steps or _defaults.component_names()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"| {line} |" for line in lines)


def _row(step: str, placed: StepPlacement) -> tuple[str, ...]:
    gpus = f"{placed.gpus} {placed.gpu_kind}" if placed.gpus else ""
    cpu, memory = (f"{one} to {two}" for one, two in _ranges(placed))
    hours = f"{placed.timeout_hours:g}"
    processes = str(placed.processes) if (placed.processes or 1) > 1 else ""
    return (step, gpus, processes, cpu, memory, placed.scratch or "", str(placed.retries), hours)


def _ranges(placed: StepPlacement) -> Iterator[tuple[str | None, str | None]]:
    yield placed.cpu_request, placed.cpu_limit
    yield placed.memory_request, placed.memory_limit


def _check_limits(step: str, placed: StepPlacement) -> None:
    """Refuse what the cluster would: a pod for which more is kept than it may use."""
    cpu = (cores_of(each or "0") for each in (placed.cpu_request, placed.cpu_limit))
    memory = (bytes_of(each or "0Mi") for each in (placed.memory_request, placed.memory_limit))
    for name, (request, limit) in (("cpu", cpu), ("memory", memory)):
        if request > limit:
            said = getattr(placed, f"{name}_request"), getattr(placed, f"{name}_limit")
            message = (
                f"steps.{step}.{name}_limit: {said[1]} is less than the {said[0]} that are kept for the step "
                f"({name}_request), which no cluster takes: set both."
            )
            raise ConfigError(message)


def cores_of(quantity: str) -> float:
    """Cores of a Kubernetes quantity such as ``500m``."""
    return int(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def bytes_of(quantity: str) -> int:
    """Bytes of a Kubernetes quantity such as ``2Gi``."""
    units = {"Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
    return int(quantity[:-2]) * units[quantity[-2:]]


def _reason(problem: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    text = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{name}.{text}" if name else text
    return f"{name}: {text[:1].lower()}{text[1:]}, not {shortened(problem['input'])}"


def _merged(*layers: StepPlacement) -> StepPlacement:
    """The last that says something of a field; names with values are put together."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer:
            if value is not None:
                merged[name] = {**merged.get(name, {}), **value} if isinstance(value, dict) else value
    return StepPlacement(**merged)


def _can_use_gpus(step: Step | None) -> bool:
    return step is None or bool(step.uses & {"model", "live", "device"})


def _needs(step: Step | None, what: str) -> bool:
    """Whether a step gets what is needed for the store, or by a judge; one that is no declared step gets everything."""
    if step is None or what == "all":
        return True
    if what == "predictors":
        return step.name == "deploy"
    return "judge" in step.uses if what == "judge" else bool(step.inputs or step.output)
