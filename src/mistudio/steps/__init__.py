"""The batch steps, each declared once: what the command line and the KFP components call.

``run_step("train", activations="activations/0123456789abcdef", k=16)`` runs one. What is not given, or None, is the
default, or chosen by the step; ``STEPS`` has what each takes.
"""

from typing import TYPE_CHECKING, Any

from mistudio.cluster.hosts_config import pod_json
from mistudio.errors import ConfigError
from mistudio.heap import keep_freed_memory
from mistudio.plain_text import shortened
from mistudio.steps import running, together
from mistudio.steps.newest import with_newest
from mistudio.steps.output import StepOutput, artifact_uri
from mistudio.steps.registry import STEPS
from mistudio.steps.running import check_together
from mistudio.steps.spec import Step

if TYPE_CHECKING:
    from mistudio.explain.keeping import Base

__all__ = [
    "STEPS",
    "Step",
    "StepOutput",
    "artifact_uri",
    "call",
    "check_together",
    "named",
    "newest_base",
    "own_process",
    "pod_json",
    "run_all",
    "run_step",
    "run_together",
    "with_newest",
]


def run_step(step: str, /, **values: Any) -> StepOutput:
    """Run a step that publishes one artifact.

    Args:
        step: its name.
        values: its inputs and options by name; None: not given.

    Raises:
        ConfigError: a name is unknown, or a value is refused.
        MistudioError: the step cannot be done as asked.
    """
    return running.run(named(step), values)


def run_together(step: str, /, **values: Any) -> StepOutput:
    """Run a step in as many processes as ``MISTUDIO_NUM_PROCESSES`` says, one if it says nothing; see :func:`run_step`.

    Raises:
        MistudioError: also where one of the processes was killed.
    """
    return together.run_together(named(step), values)


def run_all(step: str, /, **values: Any) -> list[StepOutput]:
    """Run a step that publishes several artifacts; see :func:`run_step`."""
    return running.run_all(named(step), values)


def call(step: str, /, **values: Any) -> Any:
    """Run a step of pipelines that publishes nothing, and return its value; see :func:`run_step`."""
    return running.call(named(step), values)


def newest_base(step: str, /, **values: Any) -> "Base | None":
    """The artifact that what a step makes for a selection is best added to; None without one, or a selection."""
    return running.newest_base(named(step), values)


def own_process(step: str, /) -> None:
    """Say that this process is there for one step alone, which may set what is the process's, such as its heap."""
    keep_freed_memory(one_heap=step != "ingest")  # tokenizers work on all cores, in small pieces


def named(step: str) -> Step:
    """The declaration of a step.

    Raises:
        ConfigError: there is none of that name.
    """
    found = STEPS.get(step) if isinstance(step, str) else None
    if found is None:
        message = f"There is no step {shortened(step)}; there are {', '.join(STEPS)}."
        raise ConfigError(message)
    return found
