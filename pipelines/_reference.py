"""Writes the page of all that a placement file can say, ``docs/reference/placement.md``, from its declaration."""

import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipelines import _defaults
from pipelines._sizes import PROFILES, Sizes, gib
from pipelines.placement import GpuKind, Placement, StepPlacement, Toleration, Variables, load_placement, table

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "placement.md"
_HEAD = """# Placement file

Everything that a placement file can say. Written by `make compile` from the declaration: do not edit. What it is for,
with examples: [placement](../concepts/placement.md).
"""
_PARTS: tuple[tuple[str, type[BaseModel], str], ...] = (
    ("The file", Placement, ""),
    ("A step", StepPlacement, "Of `every_step` and of each entry of `steps`. The defaults are in the table below."),
    ("A kind of GPU", GpuKind, "Of each entry of `gpu_kinds`."),
    ("A toleration", Toleration, "Of `tolerations`, of a step or a kind of GPU."),
    ("Variables", Variables, "Of each entry of `secrets` and `config_maps`."),
)


def page_text() -> str:
    """The page."""
    return "\n".join([_HEAD, *_declarations(), *_defaults_of_all(), *_by_size()])


def _declarations() -> Iterator[str]:
    for title, model, about in _PARTS:
        yield f"## {title}\n"
        if about:
            yield f"{about}\n"
        yield "| field | type | default | what it is |\n|---|---|---|---|"
        for name, field in model.model_fields.items():
            yield f"| `{name}` | {_kind(field.annotation)} | {_default(field)} | {field.description} |"
        yield ""


def _defaults_of_all() -> Iterator[str]:
    yield "## Where each step runs by default\n"
    yield "As `mistudio compile --show-placement` prints it: cores and memory from the request to the limit.\n"
    yield table(load_placement())
    yield "\nEnvironment variables from secrets and config maps:\n"
    yield "| for | kind | name | variables | needed | steps |\n|---|---|---|---|---|---|"
    for kind, all_of in (("secret", _defaults.SECRETS), ("config map", _defaults.CONFIG_MAPS)):
        for name, given in all_of.items():
            own = Variables(**given)
            keys = ", ".join(f"`{key}`" for key in own.keys.values())
            yield f"| {name} | {kind} | `{own.name}` | {keys} | {'no' if own.optional else 'yes'} | {own.needed_by} |"
    yield ""


def _by_size() -> Iterator[str]:
    yield "## Memory by the size of the model\n"
    yield (
        "What the estimates of `mistudio check-memory` come to for the models that stand for a size, in GiB: of a CPU\n"
        "process in float32, and of a GPU in bfloat16.\n"
    )
    rows = {name: Sizes.of(None, name, "none", Placement().sizes) for name in PROFILES}
    steps = ("capture", "train", "evaluate", "find", "explain", "score")
    yield f"| size | parameters | {' | '.join(steps)} |\n|---|---|{'---|' * len(steps)}"
    for name, sizes in rows.items():
        cells = (
            f"{gib(sizes.host_bytes(step, on_gpu=False) or 0)}, {gib(sizes.gpu_bytes(step) or 0)}" for step in steps
        )
        yield f"| {name} | {sizes.shape.num_parameters:,} | {' | '.join(cells)} |"
    yield ""


def _kind(annotation: Any) -> str:
    """A type in words that people who write YAML know."""
    options = [each for each in get_args(annotation) if each is not types.NoneType]
    if get_origin(annotation) is types.UnionType:
        return " or ".join(_kind(each) for each in options)
    if annotation in (str, int, float, bool):
        return {str: "text", int: "whole number", float: "number", bool: "true or false"}[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return re.sub(r"(?<!^)([A-Z])", r" \1", annotation.__name__).lower()
    if get_origin(annotation) is dict:
        return f"names with {_kind(options[1])}"
    if get_origin(annotation) is tuple:
        return f"list of {_kind(options[0])}"
    if options and all(isinstance(each, str) for each in options):
        return ", ".join(f"`{each}`" for each in options if each)
    return _kind(options[0]) if options else str(annotation)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    plain = isinstance(value, str | int | float) and value != ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`" if plain else ""


if __name__ == "__main__":
    PAGE.write_text(page_text(), encoding="utf-8")
