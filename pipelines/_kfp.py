"""What the command line needs of KFP: running a pipeline here, and compiling it."""

import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
