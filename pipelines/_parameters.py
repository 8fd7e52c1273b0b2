"""A pipeline's parameters, taken from the steps that they are of: type, default and meaning are declared there."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kfp import dsl
from kfp.dsl.pipeline_context import Pipeline
from kfp.kubernetes import use_field_path_as_env

from components.generate import dashboard_options, plain_default
from mistudio.runs.tasks import step_name
from mistudio.settings import Leaf
from mistudio.steps import STEPS
from mistudio.steps.records import RUN_ENV
from pipelines._placing import HERE, Loops, loops_of, place_tasks
from pipelines.placement import Placement

_RUN_LABEL = "metadata.labels['pipeline/runid']"
# By step: what it calls an option -> what the pipeline calls it.
Takes = Mapping[str, Mapping[str, str]]


def pipeline(description: str, takes: Takes) -> Callable[[Callable[[Any, Loops], None]], Any]:
    """Make a KFP pipeline of a function.

    Its first argument has, by step, the parameters that the step takes, the second how its loops run. What it makes is
    the pipeline as it runs on this machine; ``placed(placement)`` of that is the same pipeline for a cluster.

    Args:
        description: what the dashboard says of it.
        takes: by step the options that the pipeline hands on, and what it calls them; the first step that takes a
            parameter gives its type, default and meaning.
    """

    def decorate(body: Callable[[Any, Loops], None]) -> Any:
        def placed(placement: Placement | None = None) -> Any:
            function = _function(body, takes, placement)
            return dsl.pipeline(name=body.__name__, description=description)(function)

        made = placed()
        made.placed = placed
        return made

    return decorate


def _finish_tasks() -> None:
    """Call each task of the pipeline by its step's title, and tell its pod which run it is of."""
    for task in Pipeline.get_default_pipeline().tasks.values():
        step = step_name(task.name)
        if step:
            task.set_display_name(STEPS[step].title or step)
            use_field_path_as_env(task, RUN_ENV, _RUN_LABEL)


def _function(body: Callable[[Any, Loops], None], takes: Takes, placement: Placement | None) -> Callable[..., None]:
    """The function that KFP reads a pipeline from: with a parameter, its default and its meaning for each option."""
    leaves = dict(_leaves(takes))
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=plain_default(leaf),
            annotation=str if leaf.kind is dict else leaf.kind,
        )
        for name, leaf in leaves.items()
    ]

    def function(*given: Any) -> None:
        values = dict(zip(leaves, given, strict=True))
        by_step = {step: {own: values[name] for own, name in of.items()} for step, of in takes.items()}
        body(by_step, loops_of(placement) if placement else HERE)
        if placement:
            _finish_tasks()
            place_tasks(placement, body.__name__)

    texts = "".join(f"    {name}: {_shown(leaf)}\n" for name, leaf in leaves.items())
    function.__name__ = function.__qualname__ = body.__name__
    function.__doc__ = f"{(body.__doc__ or '').strip()}\n\nArgs:\n{texts}"
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {each.name: each.annotation for each in parameters}
    function.takes = takes  # type: ignore[attr-defined]
    return function


def only(*names: str, **renamed: str) -> dict[str, str]:
    """These options, and those that the pipeline calls by another name (``tokens="train_tokens"``)."""
    return {name: name for name in names} | renamed


def every(step: str, without: Sequence[str] = (), **renamed: str) -> dict[str, str]:
    """All options of a step that the dashboard shows, but those ``without``."""
    names = [leaf.name for leaf in dashboard_options(STEPS[step]) if leaf.name not in without]
    return {name: renamed.get(name, name) for name in names}


def _leaves(takes: Takes) -> Iterator[tuple[str, Leaf]]:
    """Each parameter with the option that declares it, seed and store last."""
    found: dict[str, Leaf] = {}
    for step, of in takes.items():
        options = {leaf.name: leaf for leaf in STEPS[step].options}
        for own, name in of.items():
            found.setdefault(name, options[own])
    last = ("seed", "store")
    yield from ((name, leaf) for name, leaf in found.items() if name not in last)
    yield from ((name, found[name]) for name in last if name in found)


def _shown(leaf: Leaf) -> str:
    return re.sub(r"\s+", " ", leaf.shown())
