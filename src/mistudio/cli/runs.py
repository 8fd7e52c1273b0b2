"""``mistudio runs``: what was started here or on Kubeflow, how it goes, what came of it, and how to end it.

The commands are also there without ``runs``, as ``mistudio status ID``.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mistudio.cli.options import StoreOption
from mistudio.cli.places import here, kubeflow, reaching_kubeflow, runner_of
from mistudio.terminal import console, echo, plain

if TYPE_CHECKING:
    from rich.table import Table

    from mistudio.events import Event, Started
    from mistudio.runs import Run
    from mistudio.runs.connection import Connection
    from mistudio.runs.tasks import StepTask

_LIST_HELP = """List the runs of a store or of Kubeflow, the newest first.

Examples:

    mistudio runs list

    mistudio runs list --json

    mistudio runs list --on kubeflow --namespace mistudio-data
"""
_STATUS_HELP = """Show a run: its settings, how far it is.

Of a run that goes on it says which steps are at work.

Examples:

    mistudio {command} 20260131-235959-0a1b2c

    mistudio {command} 1f0f4d8e-3c1b-4b0a-9a53-0d9a4a4f2f11 --namespace mistudio-data
"""
_RESULT_HELP = """Print the closing table of a run.

Of one that has ended. It ends as the run did: with 3 where its gate failed.

Of a run on Kubeflow that needs to read the store that it publishes in.

Examples:

    mistudio {command} 20260131-235959-0a1b2c

    mistudio {command} 1f0f4d8e-3c1b-4b0a-9a53-0d9a4a4f2f11 --store s3://features/store --json
"""
_LOGS_HELP = """Print what a run has printed. With --json its events, one JSON object a line.

Of a run on Kubeflow each step has its own log, which is there as long as its pod, or Kubeflow's archive, is.

Examples:

    mistudio {command} 20260131-235959-0a1b2c --follow

    mistudio {command} 20260131-235959-0a1b2c --json

    mistudio {command} 1f0f4d8e-3c1b-4b0a-9a53-0d9a4a4f2f11 train
"""
_CANCEL_HELP = """End a run with all its steps. What it has published stays, and running it again goes on from there.

Example:

    mistudio {command} 20260131-235959-0a1b2c
"""
_RETRY_HELP = """Go on with a run that did not end well.

One that failed or was cancelled: what it has published is found.

On Kubeflow it stays the same run; here a new one is started, whose id is printed.

Example:

    mistudio {command} 1f0f4d8e-3c1b-4b0a-9a53-0d9a4a4f2f11
"""
_LINE = "{:<{width}}  {:<19}  {:<9}  {:<9}  {}"
_ID_WIDTH = 22
_TIME = "%Y-%m-%d %H:%M:%S"

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Id of the run, as list shows it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Reach = Callable[[], "Connection"]


def register(app: typer.Typer) -> None:
    """Add the commands to the application, in a group and by themselves."""
    runs = typer.Typer(help="List, show, follow and cancel runs, here and on Kubeflow.", no_args_is_help=True)
    runs.command("list", help=_LIST_HELP)(reaching_kubeflow(list_))
    app.add_typer(runs, name="runs")
    for name, alone, command, text in (
        ("show", "status", show, _STATUS_HELP),
        ("result", "result", result, _RESULT_HELP),
        ("logs", "logs", logs, _LOGS_HELP),
        ("cancel", "cancel", cancel, _CANCEL_HELP),
        ("retry", "retry", retry, _RETRY_HELP),
    ):
        runs.command(name, help=text.format(command=f"runs {name}"))(reaching_kubeflow(command))
        app.command(alone, help=text.format(command=alone))(reaching_kubeflow(command))


def list_(
    on: Annotated[Literal["here", "kubeflow"], typer.Option("--on", help="Where they run.")] = "here",
    as_json: JsonOption = False,
    store: StoreOption = "",
    *,
    connection: Reach,
) -> None:
    """List the runs of a place."""
    runs = (kubeflow(connection, store) if on == "kubeflow" else here(store)).list()
    if as_json:
        echo(json.dumps([run.model_dump(mode="json") for run in runs], indent=1))
        return
    width = max([_ID_WIDTH, *(len(run.id) for run in runs)])
    none = "No runs on Kubeflow." if on == "kubeflow" else "No runs in this store."
    echo(_LINE.format("run", "started", "state", "what", "settings", width=width) if runs else none)
    for run in runs:
        settings = " ".join(f"{name}={value}" for name, value in run.settings.items())
        started = run.created_at.astimezone().strftime(_TIME)
        echo(_LINE.format(run.id, started, run.state, run.target.name, settings, width=width).rstrip())


def show(run_id: IdArgument, as_json: JsonOption = False, store: StoreOption = "", *, connection: Reach) -> None:
    """Show one run."""
    from mistudio.runs import KubeflowRunner

    runner = runner_of(run_id, store, connection)
    run = runner.get(run_id)
    if as_json:
        echo(run.model_dump_json(indent=1))
        return
    if isinstance(runner, KubeflowRunner):
        console().print(_facts(run, [], runner.steps(run_id)))
    else:
        console().print(_facts(run, list(runner.events(run_id)), []))
    for name, value in (("Log", run.log), ("Dashboard", run.link)):
        if value:
            echo(f"{name}: {value}")


def result(run_id: IdArgument, as_json: JsonOption = False, store: StoreOption = "", *, connection: Reach) -> None:
    """Print what came of a run."""
    from mistudio.cli.running import ended_badly
    from mistudio.cli.summary import print_summary, summarise
    from mistudio.errors import InputError

    runner = runner_of(run_id, store, connection)
    run = runner.get(run_id)
    if not run.has_ended:
        message = f"Run {run_id} is {run.state}: its result is there when it has ended (mistudio status {run_id})."
        raise InputError(message)
    finished = list(runner.finished(run_id))
    closing = summarise(finished, run.seconds)
    failed = {"failed": run.message} if run.state != "finished" else {}
    if as_json:
        echo(json.dumps(closing | failed, indent=1))
    elif finished:
        print_summary(closing, run.store)
    else:
        echo(f"None of its steps has left anything in the store{f' {run.store}' if run.store else ''}.", err=True)
    if failed:
        raise ended_badly(run, finished)


def logs(
    run_id: IdArgument,
    step: Annotated[str, typer.Argument(help="One of its steps, of a run on Kubeflow.", show_default=False)] = "",
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the run ends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the events as JSON lines instead.")] = False,
    store: StoreOption = "",
    *,
    connection: Reach,
) -> None:
    """Print what a run has printed."""
    runner = runner_of(run_id, store, connection)
    if as_json:
        for event in runner.events(run_id, follow=follow):
            echo(event.model_dump_json())
    else:
        for text in runner.log(run_id, step, follow=follow):
            _print_log(text)


def cancel(run_id: IdArgument, as_json: JsonOption = False, store: StoreOption = "", *, connection: Reach) -> None:
    """End a run."""
    _print_run(runner_of(run_id, store, connection).cancel(run_id), as_json=as_json)


def retry(run_id: IdArgument, as_json: JsonOption = False, store: StoreOption = "", *, connection: Reach) -> None:
    """Go on with a run."""
    _print_run(runner_of(run_id, store, connection).retry(run_id), as_json=as_json)


def _print_run(run: "Run", *, as_json: bool) -> None:
    echo(run.model_dump_json(indent=1) if as_json else f"Run {run.id}: {run.state}")


def _print_log(text: bytes) -> None:
    """What a run printed, as it is; on a terminal as text alone."""
    if sys.stdout.isatty():
        text = plain(text.decode(errors="replace").replace("\r", "\n")).encode()
    typer.echo(text, nl=False)


def _facts(run: "Run", events: "list[Event]", steps: "list[StepTask]") -> "Table":
    from rich.table import Table

    table = Table("", "", show_header=False)
    table.columns[1].overflow = "fold"
    table.add_row("run", run.id)
    for name, value in (("name", run.name), (run.target.kind, run.target.name), ("version", run.version)):
        if value:
            table.add_row(name, value)
    table.add_row("state", run.state)
    table.add_row("started", run.created_at.astimezone().strftime(_TIME))
    if run.ended_at:
        table.add_row("ended", run.ended_at.astimezone().strftime(_TIME))
    if run.message:
        table.add_row("why", run.message)
    for setting, given in run.settings.items():
        table.add_row(f"setting: {setting}", str(given))
    _add_progress(table, run, events)
    for task in steps:
        table.add_row(task.step, _how_far(task))
    for made in run.artifacts:
        table.add_row(made.step, f"{made.uri} ({'found' if made.found else 'made'})")
    return table


def _add_progress(table: "Table", run: "Run", events: "list[Event]") -> None:
    if run.state != "running":
        return
    for step in _at_work(events):
        about = f" ({step.about})" if step.about else ""
        table.add_row(f"{step.step}{about}", f"at work for {time.time() - step.time:,.0f} s")
    for (what, about, _), figures in _latest(events).items():
        table.add_row(f"{what} ({about})" if about else what, figures)


def _how_far(task: "StepTask") -> str:
    if task.from_cache:
        return "taken from Kubeflow's cache"
    if task.started is None:
        return task.state
    seconds = (task.ended.timestamp() if task.ended else time.time()) - task.started.timestamp()
    why = f": {task.message}" if task.message else ""
    return f"{task.state}, {'after' if task.ended else 'for'} {seconds:,.0f} s{why}"


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
