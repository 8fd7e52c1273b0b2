"""``mistudio <step>``: one batch step without KFP, its options made from the step's own parameters."""

import functools
import inspect
import json
import os
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import docstring_parser
import typer

from mistudio.steps import BATCH_STEPS, StepOutput, train_together

_PANEL = "Batch steps"
Step = Callable[..., StepOutput] | Callable[..., list[StepOutput]]


def register(app: typer.Typer) -> None:
    """Add one command for each batch step."""
    for name, step in BATCH_STEPS.items():
        app.command(name, rich_help_panel=_PANEL, help=_help(name, step))(_command(step))
    app.command("train-together", rich_help_panel=_PANEL, help=_help("train-together", train_together))(
        _command(train_together)
    )


def _help(name: str, step: Step) -> str:
    required = [p.name for p in inspect.signature(step).parameters.values() if p.default is inspect.Parameter.empty]
    examples = {
        "saes": "sae/0123456789abcdef,sae/fedcba9876543210",
        "evaluations": "evaluation/0123456789abcdef,evaluation/fedcba9876543210",
    }
    options = "".join(f" --{p} {examples.get(p, p + '/0123456789abcdef')}" for p in required)
    summary = docstring_parser.parse(step.__doc__ or "").short_description
    return f"{summary}\n\nExample:\n\n    mistudio {name}{options}\n"


def _command(step: Step) -> Callable[..., None]:
    """A typer command with the parameters of ``step`` as options, and ``--json``."""

    @functools.wraps(step)
    def command(*, json_output: bool = False, **values: Any) -> None:
        _show(step(**values), json_output)

    hints = get_type_hints(step)
    texts = {p.arg_name: p.description for p in docstring_parser.parse(step.__doc__ or "").params}
    parameters = [
        parameter.replace(
            kind=inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[hints[name], typer.Option(f"--{name.replace('_', '-')}", help=texts[name])],
        )
        for name, parameter in inspect.signature(step).parameters.items()
    ]
    json_flag = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
    parameters.append(
        inspect.Parameter("json_output", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=json_flag)
    )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _show(made: StepOutput | list[StepOutput], as_json: bool) -> None:
    if os.environ.get("RANK", "0") != "0":  # of several processes that train together, the first tells
        return
    outputs = made if isinstance(made, list) else [made]
    if as_json:
        content = [{"step": each.step, "seconds": each.seconds, **each.metadata()} for each in outputs]
        typer.echo(json.dumps(content if isinstance(made, list) else content[0], indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for output in outputs:
        how = "found" if output.found else f"made in {output.seconds:.1f} s"
        console.print(f"{output.artifact.uri}  ({how})", highlight=False)
        table = Table(show_header=False)
        for name, value in output.artifact.manifest.summary.items():
            table.add_row(
                name,
                f"{value:,.6g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value),
            )
        console.print(table)
