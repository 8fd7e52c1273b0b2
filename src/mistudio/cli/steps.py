"""``mistudio <step>``: one batch step without KFP, its options made from the step's declaration."""

import json
import os
from collections.abc import Callable
from typing import Any

import typer

from mistudio import steps
from mistudio.cli import steer_text
from mistudio.cli.going_on import goes_on
from mistudio.cli.options import option, option_of, parameter, with_parameters
from mistudio.cli.summary import print_pages
from mistudio.progress import say
from mistudio.settings import Leaf, assignments, find_leaf
from mistudio.steps import STEPS, Step, StepOutput
from mistudio.steps.spec import Input
from mistudio.terminal import console, echo

_PANEL = "Batch steps"
_EXAMPLES = {
    "saes": "sae/0123456789abcdef,sae/fedcba9876543210",
    "evaluations": "evaluation/0123456789abcdef,evaluation/fedcba9876543210",
}
# What a command cannot do without beside artifacts.
_NEEDED = {
    "direction": " --examples tones.jsonl",
    "deploy": " --deploy-to mistudio-services/steer",
    "calibrate": " --watch-list watch.yaml --saes sae/0123456789abcdef --texts usual.jsonl",
}
# What else is shown of a command: a selection, and what it is added to.
_MORE = {
    "explain": ("--only coherent:50", "--only 12,40-90 --base explanations/0123456789abcdef"),
    "score": ("--only 12,40-90", "--only coherent:50 --base scores/0123456789abcdef"),
    "steer evaluate": ("--scores scores/0123456789abcdef --num-features 8", "--only 12,40-90 --choose-by push_gain"),
    "direction": ("--positive kind.jsonl --negative rude.jsonl --hook resid_post.3 --method logistic",),
    "calibrate": ("--watch-list watch.yaml --saes sae/0123456789abcdef --texts usual.jsonl --positive found.jsonl",),
    "deploy": ("--deploy-to mistudio-services/steer --canary-percent 10",),
    "find-more": ("--only 12,40-90", "--only coherent:50 --base trials/0123456789abcdef"),
}


def register(app: typer.Typer) -> None:
    """Add one command for each step that publishes something, or says that it is one."""
    for step in STEPS.values():
        if step.output is not None or step.is_command:
            app.command(step.command, rich_help_panel=_PANEL, help=_help(step.command, step))(_command(step))
    steer = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Steering, offline.")
    evaluate = STEPS["steer_evaluate"]
    steer.command("evaluate", help=_help("steer evaluate", evaluate))(_command(evaluate))
    steer.command("text", help=steer_text.HELP)(steer_text.text)
    app.add_typer(steer, name="steer", rich_help_panel=_PANEL)


def _help(name: str, step: Step) -> str:
    required = [each.name for each in step.inputs if not each.optional]
    options = "".join(f" --{each} {_EXAMPLES.get(each, each + '/0123456789abcdef')}" for each in required)
    examples = [f"{name}{options}{_NEEDED.get(name, '')}", *(f"{name}{options} {more}" for more in _MORE.get(name, ()))]
    listed = "".join(f"    mistudio {example}\n\n" for example in examples)
    return f"{step.summary}\n\n{'Example' if len(examples) == 1 else 'Examples'}:\n\n{listed}"


def _command(step: Step) -> Callable[..., None]:
    """A typer command with the inputs and options of ``step``, ``--set``, ``--parameters`` and ``--json``."""
    options = {leaf.name: leaf for leaf in step.options}

    def command(*, others: list[str], listing: bool = False, json_output: bool = False, **values: Any) -> None:
        if listing:
            _print_parameters(step)
            return
        given = {name: options[name].plain(value) if name in options else value for name, value in values.items()}
        steps.own_process(step.name)
        if step.output is None:
            returned = steps.call(step.name, **{**given, **_read(step, others or [])})
            echo(json.dumps(returned) if json_output else returned)
            return
        with goes_on():
            values = _with_base(step, {**given, **_read(step, others or [])})
            outputs = steps.run_all(step.name, **steps.with_newest(step, values))
        _show(outputs, as_json=json_output, is_list=step.output is not None and step.output.many)

    parameters = [
        *(option(each.name, str, _input_text(step, each), None) for each in step.inputs),
        *map(option_of, step.options),
        parameter("others", list[str], typer.Option("--set", metavar="NAME=VALUE", help=_SET), None),
        parameter("listing", bool, typer.Option("--parameters", help="List all settings and exit."), False),
        parameter("json_output", bool, typer.Option("--json", help="Print JSON instead of a table."), False),
    ]
    return with_parameters(command, parameters)


def _with_base(step: Step, given: dict[str, Any]) -> dict[str, Any]:
    """What was given; with a selection and no base, the one that keeps most, which is named."""
    if step.newest_base is None:
        return given
    base, given = given.get("base"), {**given, "base": None}
    if base is None and (best := steps.newest_base(step.name, **given)) is not None:
        say(f"{best}; --base {_NO_BASE} starts anew.")
        base = best.artifact.uri
    return {**given, "base": None if base == _NO_BASE else base}


def _input_text(step: Step, given: Input) -> str:
    """What an input is, and whether it has to be given: typer lets it be left out, for --parameters."""
    text = given.text.replace("None:", "not given:")
    if step.newest_base is not None and given.name == "base":
        newest = "where --only is given the one that keeps most is taken, else all is made anew"
        return f"{text} The word {_NO_BASE} makes all anew; not given: {newest}."
    return text if given.optional else f"{text}  [required]"


_NO_BASE = "none"
_SET = "Set any setting that --parameters lists; wins over its option; may be repeated."


def _read(step: Step, settings: list[str]) -> dict[str, Any]:
    """Read ``name=value`` pairs as settings of a step.

    Raises:
        ConfigError: a setting is unknown, or its value is not of its kind.
    """
    known = step.settings + step.runtime_settings + step.loading
    values: dict[str, Any] = {}
    for name, text in assignments(settings):
        leaf = find_leaf(known, name, "--set")
        values[leaf.path if leaf.place == "settings" else leaf.name] = leaf.plain(leaf.parse(text))
    return values


def _print_parameters(step: Step) -> None:
    """List everything that can be set of a step, with its path, its default and its meaning."""
    from rich.table import Table

    table = Table("setting", "type", "default", "meaning")
    for leaf in (*step.settings, *step.runtime_settings, *step.loading):
        table.add_row(_name(leaf), leaf.kind.__name__, "" if leaf.default is None else str(leaf.default), leaf.shown())
    console().print(table)


def _name(leaf: Leaf) -> str:
    return leaf.name if leaf.path == leaf.name or leaf.place != "settings" else leaf.path


def _show(outputs: list[StepOutput], *, as_json: bool, is_list: bool) -> None:
    if os.environ.get("RANK", "0") != "0":  # of several processes that train together, the first tells
        return
    if as_json:
        content = [{"step": each.step, "seconds": each.seconds, **each.metadata()} for each in outputs]
        echo(json.dumps(content if is_list else content[0], indent=1))
        return
    from rich.table import Table

    out = console()
    for output in outputs:
        how = "found" if output.found else f"made in {output.seconds:.1f} s"
        out.print(f"{output.artifact.uri}  ({how})")
        table = Table(show_header=False)
        for name, value in output.artifact.manifest.summary.items():
            table.add_row(
                name,
                f"{value:,.6g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value),
            )
        out.print(table)
        print_pages(output.step, output.artifact)
