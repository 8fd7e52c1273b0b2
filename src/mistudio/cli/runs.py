"""``mistudio runs``: what was started here, how it goes, and how to end it."""

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from mistudio.cli.options import StoreOption
from mistudio.terminal import console, echo, plain

if TYPE_CHECKING:
    from rich.table import Table

    from mistudio.events import Event, Started
    from mistudio.runs import Run

_LIST_HELP = """List the runs of a store, the newest first.

Examples:

    mistudio runs list

    mistudio runs list --json
"""
_SHOW_HELP = """Show a run: its settings, how far it is, what it published.

Of a run that goes on it says which steps are at work.

Example:

    mistudio runs show 20260131-235959-0a1b2c
"""
_LOGS_HELP = """Print what a run has printed. With --json its events, one JSON object a line.

Examples:

    mistudio runs logs 20260131-235959-0a1b2c --follow

    mistudio runs logs 20260131-235959-0a1b2c --json
"""
_CANCEL_HELP = """End a run with all its steps. What it has published stays, and running it again goes on from there.

Example:

    mistudio runs cancel 20260131-235959-0a1b2c
"""
_LINE = "{:<22}  {:<19}  {:<9}  {:<9}  {}"
_TIME = "%Y-%m-%d %H:%M:%S"

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Id of the run, as list shows it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    runs = typer.Typer(help="List, show, follow and cancel runs on this machine.", no_args_is_help=True)
    runs.command("list", help=_LIST_HELP)(list_)
    runs.command("show", help=_SHOW_HELP)(show)
    runs.command("logs", help=_LOGS_HELP)(logs)
    runs.command("cancel", help=_CANCEL_HELP)(cancel)
    app.add_typer(runs, name="runs")


def list_(as_json: JsonOption = False, store: StoreOption = "") -> None:
    """List the runs of a store."""
    from mistudio.runs import LocalRunner

    runs = LocalRunner(store).list()
    if as_json:
        echo(json.dumps([run.model_dump(mode="json") for run in runs], indent=1))
        return
    echo(_LINE.format("run", "started", "state", "what", "settings") if runs else "No runs in this store.")
    for run in runs:
        settings = " ".join(f"{name}={value}" for name, value in run.settings.items())
        started = run.created_at.astimezone().strftime(_TIME)
        echo(_LINE.format(run.id, started, run.state, run.target.name, settings).rstrip())


def show(run_id: IdArgument, as_json: JsonOption = False, store: StoreOption = "") -> None:
    """Show one run."""
    from mistudio.runs import LocalRunner

    runner = LocalRunner(store)
    run = runner.get(run_id)
    if as_json:
        echo(run.model_dump_json(indent=1))
        return
    console().print(_facts(run, list(runner.events(run_id))))
    echo(f"Log: {run.log}")


def logs(
    run_id: IdArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the run ends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the events as JSON lines instead.")] = False,
    store: StoreOption = "",
) -> None:
    """Print what a run has printed."""
    from mistudio.runs import LocalRunner

    runner = LocalRunner(store)
    if as_json:
        for event in runner.events(run_id, follow=follow):
            echo(event.model_dump_json())
    else:
        for text in runner.log(run_id, follow=follow):
            _print_log(text)


def cancel(run_id: IdArgument, as_json: JsonOption = False, store: StoreOption = "") -> None:
    """End a run."""
    from mistudio.runs import LocalRunner

    run = LocalRunner(store).cancel(run_id)
    echo(run.model_dump_json(indent=1) if as_json else f"Run {run.id}: {run.state}")


def _print_log(text: bytes) -> None:
    """What a run printed, as it is; on a terminal as text alone."""
    if sys.stdout.isatty():
        text = plain(text.decode(errors="replace").replace("\r", "\n")).encode()
    typer.echo(text, nl=False)


def _facts(run: "Run", events: "list[Event]") -> "Table":
    from rich.table import Table

    table = Table("", "", show_header=False)
    table.columns[1].overflow = "fold"
    table.add_row("run", run.id)
    table.add_row(run.target.kind, run.target.name)
    table.add_row("state", run.state)
    table.add_row("started", run.created_at.astimezone().strftime(_TIME))
    if run.ended_at:
        table.add_row("ended", run.ended_at.astimezone().strftime(_TIME))
    if run.message:
        table.add_row("why", run.message)
    for name, value in run.settings.items():
        table.add_row(f"setting: {name}", str(value))
    for step in _at_work(events) if run.state == "running" else ():
        about = f" ({step.about})" if step.about else ""
        table.add_row(f"{step.step}{about}", f"at work for {time.time() - step.time:,.0f} s")
    for (what, about, _), figures in (_latest(events) if run.state == "running" else {}).items():
        table.add_row(f"{what} ({about})" if about else what, figures)
    for made in run.artifacts:
        table.add_row(made.step, f"{made.uri} ({'found' if made.found else 'made'})")
    return table


def _at_work(events: "list[Event]") -> "list[Started]":
    from mistudio.runs.outcome import StepStates

    steps = StepStates()
    for event in events:
        steps.take(event)
    return list(steps.running.values())


def _latest(events: "list[Event]") -> dict[tuple[str, str, int], str]:
    """How far each piece of work under way is, and the last figures of each curve; several processes do the same."""
    from mistudio.events import Metrics, Progress

    latest: dict[tuple[str, str, int], str] = {}
    for event in events:
        if isinstance(event, Progress):
            key = (event.what, event.about, event.pid)
            latest.pop(key, None)
            if not event.finished:
                done = f"{event.done / event.total:.0%}" if event.total else f"{event.done:,.0f}"
                latest[key] = f"{done} {event.note}"
        elif isinstance(event, Metrics):
            figures = ", ".join(f"{name} {value:.4g}" for name, value in event.values.items())
            latest[event.run, "", event.pid] = f"at {event.number:,}: {figures}"
    return latest
