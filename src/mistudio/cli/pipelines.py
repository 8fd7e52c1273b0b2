"""``mistudio run``, ``compile`` and ``mlflow``: pipelines on this machine, and their compiled form."""

import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mistudio.cli.options import StoreOption, number
from mistudio.redaction import redact
from mistudio.terminal import echo

if TYPE_CHECKING:
    from mistudio.events import Finished

_RUN_HELP = """Run a pipeline on this machine, with KFP's local runner.

What was published before is found, so that running again after a crash goes on where it stopped. The parameter model
takes a folder, a GGUF file, an id on the model hub, demo, smollm2, or subject/... in the store.

Examples:

    mistudio run interpret

    mistudio run interpret --set model=smollm2

    mistudio run interpret --set model=./my-model --set corpus=stories.jsonl --set k=16

    mistudio run interpret --parameters

    mistudio run interpret --detach

    mistudio run sweep --set architectures=topk,jumprelu --set sparsities=8,16,32 --set seeds=0,1
"""
_COMPILE_HELP = """Compile pipelines to YAML, to be submitted to Kubeflow.

Where on a cluster each step runs, with how much memory and which GPUs, is the default or what a placement file says.

Examples:

    mistudio compile

    mistudio compile --placement cluster.yaml --model-size 7B

    mistudio compile --placement cluster.yaml --show-placement
"""
_MLFLOW_HELP = """Open MLflow's web interface on the runs of a store.

Example:

    mistudio mlflow --port 5000
"""
_SYNC_HELP = """Log what a store holds and MLflow does not.

That was published while MLflow could not be used. Each artifact gets a run of its own, with settings, figures, plots
and times. Nothing is logged twice.

Example:

    mistudio mlflow sync
"""
PIPELINES = "interpret|sweep|train_only"
PIPELINE_HELP = (
    "interpret: the main job, with one autoencoder; sweep: many autoencoders, compared; train_only: the "
    "autoencoder of interpret, trained on several hosts of a cluster."
)
_MOST_PORT = 65_535


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("run", help=_RUN_HELP)(run)
    app.command("compile", help=_COMPILE_HELP)(compile_pipelines)
    tracked = typer.Typer(help=_MLFLOW_HELP, invoke_without_command=True)
    tracked.callback()(mlflow)
    tracked.command("sync", help=_SYNC_HELP)(sync)
    app.add_typer(tracked, name="mlflow")


def run(
    pipeline: Annotated[str, typer.Argument(metavar=PIPELINES, help=PIPELINE_HELP)],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Set a parameter; may be repeated.")
    ] = None,
    store: StoreOption = "",
    summary: Annotated[
        Path | None, typer.Option(help="Write the closing table to this file, as JSON; also where a gate failed.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Print the run's id and return; mistudio runs follows and ends it.")
    ] = False,
    parameters: Annotated[bool, typer.Option("--parameters", help="List the pipeline's parameters and exit.")] = False,
) -> None:
    """Run a pipeline locally."""
    from mistudio.cli.summary import print_parameters
    from mistudio.errors import ConfigError
    from mistudio.runs import LocalRunner, Target
    from mistudio.runs.checkout import load_pipeline, parse_settings

    loaded = load_pipeline(pipeline)
    if parameters:
        print_parameters(loaded)
        return
    values = parse_settings(loaded, settings or [])
    store = store or str(values.pop("store", ""))
    if not detach:
        run_and_show(pipeline, values, store, summary)
        return
    if summary:
        message = "--summary is of a run that has ended: leave it out with --detach, and see mistudio runs show."
        raise ConfigError(message)
    # Refuses a folder that cannot be written, before anything starts.
    runner = LocalRunner(store, attached=False)
    echo(runner.start(Target(kind="pipeline", name=pipeline), values).id)


def run_and_show(pipeline: str, values: dict[str, Any], store: str, summary: Path | None) -> None:
    """Run a pipeline to its end, with a live view, and print its closing table.

    Raises:
        ConfigError: ``summary`` cannot be written.
        PipelineFailed: a step failed; where it was the gate, the table is printed all the same.
    """
    from mistudio.cli.running import run_locally
    from mistudio.runs import LocalRunner

    check_summary(summary)
    runner = LocalRunner(store, attached=True)
    show_closing(lambda: run_locally(runner, pipeline, values), runner.store, summary)


def show_closing(ended: "Callable[[], tuple[list[Finished], float | None]]", store: str, summary: Path | None) -> None:
    """Print the closing table of what a run ended with, and write it to a file.

    Raises:
        PipelineFailed: a step failed; where it was the gate, the table is printed all the same.
    """
    from mistudio.cli.running import PipelineFailed
    from mistudio.cli.summary import print_summary, summarise
    from mistudio.errors import GateFailed

    try:
        closing = summarise(*ended())
    except PipelineFailed as failure:
        if failure.exit_code == GateFailed.exit_code:  # the figures are what one wants to see
            closing = summarise(failure.finished, failure.seconds)
            _write_summary(summary, closing | {"failed": str(failure)})
            print_summary(closing, store)
        raise
    _write_summary(summary, closing)
    print_summary(closing, store)


def check_summary(summary: Path | None) -> None:
    """Refuse, before anything starts, a file that could not be written at the end."""
    from mistudio.errors import ConfigError
    from mistudio.paths import given_path

    if summary is None:
        return
    given_path(summary, "--summary")
    if summary.is_dir() or not os.access(_nearest_folder(summary), os.W_OK):
        message = f"--summary {summary} cannot be written: name a file in a folder that can."
        raise ConfigError(message)


def _nearest_folder(path: Path) -> Path:
    return next((folder for folder in path.absolute().parents if folder.exists()), Path("/"))


def _write_summary(path: Path | None, closing: dict[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(closing, indent=1) + "\n", encoding="utf-8")


def compile_pipelines(
    names: Annotated[list[str] | None, typer.Argument(help="Pipelines; all when none is given.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the YAML.",
            show_default="pipelines/compiled in a checkout; else, and for another placement, ./compiled",
        ),
    ] = None,
    placement: Annotated[
        Path | None,
        typer.Option(
            help="YAML file that says where on a cluster the steps run.",
            envvar="MISTUDIO_PLACEMENT",
            show_default="a plain cluster without GPUs",
        ),
    ] = None,
    model_size: Annotated[
        str | None,
        typer.Option(
            help="Have room for models of this size: tiny, small, medium, large, or as 7B.", show_default="small"
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Have room for this model: a folder, a GGUF file, or an id on the hub."),
    ] = None,
    show_placement: Annotated[
        bool, typer.Option("--show-placement", help="Print where each step would run, and compile nothing.")
    ] = False,
) -> None:
    """Compile pipelines to YAML."""
    from mistudio.paths import given_path
    from mistudio.runs.checkout import compiled_folder, kfp_functions, load_pipeline, pipeline_names
    from mistudio.runs.checkout import placement_functions as placements

    where = placements().load_placement(placement, model_size=model_size, model=model)
    if show_placement:
        echo(placements().table(where))
        return
    changed = any(given is not None for given in (placement, model_size, model))
    folder = given_path(output or (Path("compiled") if changed else compiled_folder()), "--output")
    pipelines = {name: load_pipeline(name) for name in names or pipeline_names()}
    texts = {name: kfp_functions().compiled(pipeline, where) for name, pipeline in pipelines.items()}
    _make_folder(folder)
    for name, text in texts.items():
        path = folder / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
        echo(str(path))


def _make_folder(folder: Path) -> None:
    from mistudio.errors import ConfigError
    from mistudio.plain_text import shortened

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"--output {shortened(str(folder))} cannot be a folder: {error.strerror}. Choose another."
        raise ConfigError(message) from error


def mlflow(
    context: typer.Context,
    store: StoreOption = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", **number("port", int))] = 5000,
) -> None:
    """Serve MLflow's web interface, unless another command is named."""
    if context.invoked_subcommand:
        context.obj = store
        return
    from mistudio.artifacts import scratch_folder
    from mistudio.errors import ConfigError
    from mistudio.tracking import is_tracking, tracking_uri
    from mistudio.tracking.where import is_server

    if not is_tracking():
        message = "MLflow is not installed, or MISTUDIO_TRACKING is off: pip install 'mistudio[tracking]'."
        raise ConfigError(message)
    if is_server(uri := tracking_uri(store)):
        message = f"MLFLOW_TRACKING_URI names a server that is there: open {redact(uri)} in a browser."
        raise ConfigError(message)
    _check_address(host, port)
    _tell_views(store, f"http://{host}:{port}")
    # One worker and no job runner: half a gigabyte instead of three. What the server starts takes no modules from the
    # working folder, and uvicorn, which would put it first on the path, gets a folder of ours instead.
    os.environ.update(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_DISABLE_TELEMETRY="true", PYTHONSAFEPATH="1")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # of libraries about each other
    own = ["--uvicorn-opts", shlex.join(["--app-dir", str(scratch_folder(store))])]
    where = ["--backend-store-uri", uri, "--host", host, "--port", str(port), "--workers", "1", *own]
    os.execv(sys.executable, [sys.executable, "-P", "-m", "mlflow", "server", *where])  # noqa: S606 -- no shell is meant


def _tell_views(store: str, address: str) -> None:
    """Say where the runs are to be seen, with the columns that tell them apart."""
    from mistudio.tracking.opening import experiment_if_any
    from mistudio.tracking.views import pages

    experiment = experiment_if_any(store)
    for what, path in pages(experiment).items() if experiment else ():
        echo(f"{what + ':':<14} {address}/{path}")


def sync(context: typer.Context, store: StoreOption = "") -> None:
    """Log what was not logged when it was made."""
    from mistudio.steps.catching_up import log_missing

    num_logged = 0
    for uri in log_missing(store or context.obj or ""):
        echo(f"Logged {uri}")
        num_logged += 1
    echo(f"{num_logged} artifacts logged." if num_logged else "MLflow has everything that the store holds.")


def _check_address(host: str, port: int) -> None:
    """Refuse what nothing can listen on, before a server is started that says so in a traceback.

    Raises:
        ConfigError: there is no such port, or this machine has no such address.
    """
    import socket

    from mistudio.errors import ConfigError
    from mistudio.plain_text import shortened

    if not 1 <= port <= _MOST_PORT:
        message = f"port {shortened(port)} is out of range: give one from 1 to {_MOST_PORT:,}."
        raise ConfigError(message)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except (OSError, ValueError) as error:
        message = f"Nothing can listen on host {shortened(host)}, port {port}: {error}. Choose others."
        raise ConfigError(message) from error
