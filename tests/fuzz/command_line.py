"""Command lines in this process: run as ``mistudio`` runs them, but for the work, which none may begin."""

import io
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import typer
from hypothesis import strategies as st

from mistudio import cli
from mistudio.settings import Leaf
from mistudio.steps import STEPS
from tests.fuzz.hostile import argument, json_texts, plain, texts

MAX_CHARACTERS = 1000
# What is given where a command needs something and nothing hostile is: none of it is there.
_ORDINARY = {"model": "./no-such-model", "corpus": "no-such-file.jsonl", "pipeline": "interpret", "to": "saelens"}
_KINDS = {each.name: each.kind for step in STEPS.values() for each in step.inputs}
_ALWAYS = {"ingest": ("model",), "capture": ("model",), "validate-model": ("model",), "check-memory": ("model",)}


class WorkBegins(Exception):
    """Everything was accepted, and the work would begin."""


@dataclass(frozen=True)
class Outcome:
    """How a command line ended."""

    code: int
    out: str
    err: str


@cache
def command() -> Any:
    """The whole command line, made once."""
    return typer.main.get_command(cli.app)


@cache
def commands() -> Mapping[str, Any]:
    """Every command by its words."""
    return dict(_commands("", command()))


def _commands(words: str, found: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(found, "commands"):
        for name, each in found.commands.items():
            yield from _commands(f"{words} {name}".strip(), each)
    else:
        yield words, found


def run(arguments: list[str]) -> Outcome:
    """Run a command line; what raises anything but an end of the process comes out of here."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", how) for how in ("strict", "backslashreplace"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mistudio", *arguments])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        patch.setattr(cli, "app", command())
        patch.setattr(cli, "_show_what_is_logged", lambda: None)  # tests that follow read the log as it was
        for name in ("OMP_WAIT_POLICY", "PYTHONSAFEPATH"):  # which the command sets for good
            patch.setenv(name, os.environ.get(name, ""))
        try:
            cli.main()
            code: Any = 0
        except SystemExit as end:
            code = end.code
        except WorkBegins:
            code = 0
    return Outcome(code or 0, *(_content(stream) for stream in (out, err)))


def _content(stream: io.TextIOWrapper) -> str:
    stream.flush()
    content = stream.buffer
    assert isinstance(content, io.BytesIO)
    return content.getvalue().decode()


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command with what it needs, and one to three of its parameters hostile."""
    name = draw(st.sampled_from(sorted(commands())))
    found = commands()[name]
    parameters = [each for each in found.params if each.name not in ("help", "listing", "parameters")]
    hostile = draw(st.lists(st.sampled_from(parameters), min_size=1, max_size=3, unique=True)) if parameters else []
    given = [_given(draw, name, each, is_hostile=each in hostile) for each in parameters]
    return [*name.split(), *(argument(part) for each in given for part in each)]


def _given(draw: st.DrawFn, name: str, parameter: Any, *, is_hostile: bool) -> list[str]:
    own = str(parameter.name)
    if parameter.param_type_name == "argument":
        return [draw(plain) if is_hostile else _ordinary(own)]
    flag = parameter.opts[0]
    if getattr(parameter, "is_flag", False):
        return [flag] if is_hostile else []
    if not is_hostile:
        return [flag, _ordinary(own)] if parameter.required or own in _needed(name) else []
    return [flag, _value(draw, name, own)]


def _value(draw: st.DrawFn, name: str, own: str) -> str:
    if own in ("others", "settings") and name in _steps():
        leaf = draw(st.sampled_from(_steps()[name]))
        return f"{leaf.path}={draw(plain)}"
    if own == "settings" and name == "run":
        return f"{draw(st.sampled_from(_pipeline_parameters()) | texts)}={draw(plain)}"
    return draw(plain | json_texts())


@cache
def _steps() -> Mapping[str, tuple[Leaf, ...]]:
    return {each.command: (*each.settings, *each.runtime_settings, *each.loading) for each in STEPS.values()}


@cache
def _pipeline_parameters() -> tuple[str, ...]:
    from mistudio.runs.checkout import load_pipeline, signature

    return tuple(dict.fromkeys(name for each in ("interpret", "sweep") for name in signature(load_pipeline(each))))


def _needed(name: str) -> tuple[str, ...]:
    step = next((each for each in STEPS.values() if each.command == name), None)
    inputs = () if step is None else tuple(each.name for each in step.inputs if not each.optional)
    return (*inputs, *_ALWAYS.get(name, ()))


def _ordinary(name: str) -> str:
    return f"{_KINDS[name]}/0123456789abcdef" if name in _KINDS and name != "corpus" else _ORDINARY.get(name, "no-such")
