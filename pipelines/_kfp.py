"""What the command line needs of KFP: running a pipeline here, and compiling it."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import local
from kfp.compiler import Compiler


def function_of(pipeline: Any) -> Callable[..., object]:
    """The Python function behind a pipeline, with its signature and docstring."""
    return inspect.unwrap(pipeline.pipeline_func)


def run_here(pipeline: Any, values: dict[str, object], root: Path) -> None:
    """Run a pipeline with KFP's local runner: every task a child process with this interpreter's packages."""
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    pipeline(**values)


def compile_to(pipeline: Any, path: Path) -> None:
    """Write a pipeline's YAML."""
    Compiler().compile(pipeline, str(path))
