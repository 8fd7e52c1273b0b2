"""What the command line needs of KFP: running a pipeline here, and compiling it."""

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from kfp import local
from kfp.compiler import Compiler


def function_of(pipeline: Any) -> Callable[..., object]:
    """The Python function behind a pipeline, with its signature and docstring."""
    return inspect.unwrap(pipeline.pipeline_func)


def run_here(pipeline: Any, values: dict[str, object], root: Path) -> None:
    """Run a pipeline with KFP's local runner: every task a child process with this interpreter's packages."""
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    with warnings.catch_warnings():
        # What is of a cluster alone, such as names for the dashboard.
        warnings.filterwarnings("ignore", message=".*have no effect in the current local runner")
        pipeline(**values)


def compile_to(pipeline: Any, path: Path) -> None:
    """Write a pipeline's YAML."""
    Compiler().compile(pipeline, str(path))


def forget_cache(path: Path) -> None:
    """Have Kubeflow do each task of a compiled pipeline, and take none from its cache."""
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    _switch_off(documents[0])
    path.write_text(yaml.safe_dump_all(documents, sort_keys=False, width=120), encoding="utf-8")


def _switch_off(spec: Any) -> None:
    graphs = [spec["root"], *spec["components"].values()]
    for task in (task for graph in graphs for task in graph.get("dag", {}).get("tasks", {}).values()):
        task["cachingOptions"] = {}
