"""What the command line needs of KFP: running a pipeline here, and compiling it."""

import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from kfp import local
from kfp.compiler import Compiler

from pipelines.placement import Placement, load_placement


def function_of(pipeline: Any) -> Callable[..., object]:
    """The Python function behind a pipeline, with its signature and docstring."""
    return inspect.unwrap(pipeline.pipeline_func)


def run_here(pipeline: Any, values: dict[str, object], root: Path) -> None:
    """Run a pipeline with KFP's local runner: every task a child process with this interpreter's packages."""
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    pipeline(**values)


def compiled(pipeline: Any, placement: Placement | Path | None = None) -> str:
    """A pipeline's YAML for a cluster.

    Args:
        pipeline: one of ours.
        placement: where its steps run, or the file that says so; None: the default.

    Raises:
        ConfigError: the placement is refused, or a step does not fit where it is to run.
    """
    if not isinstance(placement, Placement):
        placement = load_placement(placement)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        Compiler().compile(pipeline.placed(placement), str(path))
        return path.read_text(encoding="utf-8")


def compile_to(pipeline: Any, path: Path, placement: Placement | Path | None = None) -> None:
    """Write a pipeline's YAML; see :func:`compiled`."""
    path.write_text(compiled(pipeline, placement), encoding="utf-8")


def set_cache(path: Path, *, use: bool) -> None:
    """Have Kubeflow take the outputs of a compiled pipeline's tasks from its cache, or do each task."""
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    graphs = [documents[0]["root"], *documents[0]["components"].values()]
    tasks = [task for graph in graphs for task in graph.get("dag", {}).get("tasks", {}).values()]
    wanted = {"enableCache": True} if use else {}
    if any(task.get("cachingOptions", {}) != wanted for task in tasks if "taskInfo" in task):
        for task in tasks:
            task["cachingOptions"] = wanted
        path.write_text(yaml.safe_dump_all(documents, sort_keys=False, width=120), encoding="utf-8")
