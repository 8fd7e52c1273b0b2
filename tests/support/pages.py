"""What a page of the documents names, and whether it is there: commands, options, paths, variables, metrics."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import typer.main

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`(mistudio [^`\n]+|make [^`\n]+|kubectl [^`\n]+)`")
_VARIABLE = re.compile(r"\b(?:MISTUDIO|MLFLOW|AWS|HF|OMP|CUDA|PYTORCH|WORLD)_[A-Z][A-Z0-9_]+\b")
_METRIC = re.compile(r"\bmistudio_[a-z]+(?:_[a-z]+)+\b")
_CODE = ("src", "model_servers", "components", "pipelines", "images", "manifests")


class Command(NamedTuple):
    """A command of a page, in words."""

    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def commands(text: str) -> list[Command]:
    """The lines of all blocks of bash, and what stands in the text as a command; comments and pipes left out."""
    lines = [line for block in _BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    lines += _INLINE.findall(text)
    parsed = [tuple(shlex.split(line, comments=True)) for line in lines if line.strip()]
    return [Command(words) for words in dict.fromkeys(parsed) if words]


def variables(text: str) -> set[str]:
    return set(_VARIABLE.findall(text))


def metrics(text: str) -> set[str]:
    return set(_METRIC.findall(text))


def problem_of(command: Command) -> str | None:
    """What of a command is not there; None where all of it is."""
    program, *words = command.words
    if program == "mistudio":
        return mistudio_problem(words)
    if program == "make":
        unknown = [word for word in words if "=" not in word and word not in make_targets()]
        return f"there is no target {unknown[0]}" if unknown else None
    if program == "kubectl":
        return kubectl_problem(words)
    return f"{program} is not among the programs that pages may use" if program not in OTHERS else None


# Programs that are not ours: what else a page may use of them is up to the reader.
OTHERS = ("git", "cd", "sh", "export", "ls", "curl", "docker", "openssl")


@cache
def make_targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@cache
def _application() -> Any:
    from mistudio.cli import app

    return typer.main.get_command(app)


def mistudio_problem(words: list[str]) -> str | None:
    """What of a ``mistudio`` command is not there."""
    found, rest = _application(), list(words)
    while rest and hasattr(found, "commands"):
        name = rest.pop(0)
        if name not in found.commands:
            return f"there is no command {name}"
        found = found.commands[name]
    if found.name == "serve":
        known = set(_serve_options())
        return next((f"serve has no {word}" for word in map(_flag, rest) if word and word not in known), None)
    return _options_problem(found, rest)


def _options_problem(command: Any, words: list[str]) -> str | None:
    options = {flag: option for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    given, pending = 0, list(words)
    while pending:
        word = pending.pop(0)
        if not word.startswith("-"):
            given += 1
            continue
        flag, _, value = word.partition("=")
        if flag not in options:
            return f"{command.name} has no {flag}"
        option = options[flag]
        if not getattr(option, "is_flag", False) and not value:
            if not pending:
                return f"{flag} has no value"
            value = pending.pop(0)
        if flag == "--set" and (problem := _setting_problem(words[0], value)):
            return problem
    most = None if any(each.nargs == -1 for each in arguments) else len(arguments)
    fewest = sum(each.required for each in arguments)
    if most is not None and given > most:
        return f"{command.name} takes {most} arguments, not {given}"
    # A command that stands in a text by its name alone is no call of it.
    return f"{command.name} needs {fewest} arguments" if given < fewest and words else None


def _setting_problem(pipeline: str, setting: str) -> str | None:
    from mistudio.runs.checkout import load_pipeline

    name = setting.partition("=")[0]
    known = load_pipeline(pipeline).component_spec.inputs or {}
    return None if name in known else f"{pipeline} has no parameter {name}"


@cache
def _serve_options() -> frozenset[str]:
    from model_servers.command_line import _parser

    return frozenset(flag for action in _parser()._actions for flag in action.option_strings)


def _flag(word: str) -> str:
    return word.partition("=")[0] if word.startswith("--") else ""


def kubectl_problem(words: list[str]) -> str | None:
    """What of a ``kubectl`` command the program that is here does not have."""
    rest = list(words)
    while rest and rest[0] in ("-n", "--namespace"):
        rest = rest[2:]
    if not rest:
        return "there is no verb"
    verb = [rest[0], *(rest[1:3] if rest[:2] == ["create", "secret"] else rest[1:2] if rest[0] in _GROUPS else [])]
    known = kubectl_options(tuple(verb))
    if known is None:
        return f"kubectl has no {' '.join(verb)}"
    return next(
        (f"kubectl {' '.join(verb)} has no {flag}" for flag in map(_short_flag, rest) if flag and flag not in known),
        None,
    )


_GROUPS = ("create", "rollout")


def _short_flag(word: str) -> str:
    return word.partition("=")[0] if word.startswith("-") and len(word) > 1 else ""


@cache
def kubectl() -> str | None:
    """The program: in the path, or where `make check-tools` puts it."""
    return shutil.which("kubectl") or shutil.which("kubectl", path=str(ROOT / "build" / "checks" / "bin"))


@cache
def kubectl_options(verb: tuple[str, ...]) -> frozenset[str] | None:
    """The options of a verb, as the program itself says; None where it has no such verb."""
    done = subprocess.run([str(kubectl()), *verb, "--help"], capture_output=True, text=True, check=False)
    if done.returncode or not re.search(rf"kubectl {' '.join(map(re.escape, verb))}\b", done.stdout):
        return None
    everywhere = subprocess.run([str(kubectl()), "options"], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^\s+(?:(-\w), )?(--[\w-]+)", done.stdout + everywhere, re.MULTILINE)
    return frozenset(flag for pair in found for flag in pair if flag)


@cache
def code() -> str:
    """All code, and what is deployed."""
    kinds = {".py", ".yaml", ".sh", ".json", ".env"}
    paths = [path for top in _CODE for path in sorted((ROOT / top).rglob("*")) if path.suffix in kinds]
    paths.append(ROOT / "Makefile")
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


@cache
def exported_metrics() -> frozenset[str]:
    """Names of all metrics of our servers, as Prometheus has them."""
    from dataclasses import fields

    from mistudio.steer.service_parts import ServiceStats
    from model_servers.base.metrics import Metrics
    from model_servers.correlate.metrics import CorrelateMetrics
    from model_servers.monitor.metrics import MonitorMetrics
    from model_servers.steer.metrics import _GAUGES, SteerMetrics

    base = Metrics()
    CorrelateMetrics(base.registry, lambda: {})
    MonitorMetrics(base.registry, lambda: None)
    SteerMetrics(base.registry, lambda: None)
    described = {family.name: family.type for family in base.registry.collect()}
    described |= {
        f"mistudio_steer_{each.name}": "gauge" if each.name in _GAUGES else "counter" for each in fields(ServiceStats)
    }
    endings = {"counter": ("_total",), "histogram": ("", "_bucket", "_sum", "_count"), "gauge": ("",)}
    return frozenset(
        name if name.endswith(ending) else name + ending for name, kind in described.items() for ending in endings[kind]
    )


def unknown_variables(text: str) -> set[str]:
    """Variables that neither our code nor what is deployed names."""
    return {name for name in variables(text) if not re.search(rf"\b{name}\b", code())}


def missing_paths(text: str) -> set[str]:
    """Paths of the checkout that are named and not there."""
    named = re.findall(r"(?<![\w/.-])((?:manifests|pipelines|images|tests|docs|src)/[\w./-]*\w)", text)
    return {name for name in named if not (ROOT / name).exists() and "/secrets" not in name}


def broken_links(name: str) -> set[str]:
    """Links to pages, or headings of pages, that are not there."""
    return set(_broken(name))


def _broken(name: str) -> Iterator[str]:
    here = (ROOT / "docs" / name).parent
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page(name)):
        path, _, heading = target.partition("#")
        file = here / path if path else ROOT / "docs" / name
        if not file.exists() or (heading and heading not in _headings(file)):
            yield target


def _headings(file: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
