"""``mistudio submit``: a pipeline as a run on Kubeflow."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mistudio.cli.pipelines import PIPELINE_HELP, PIPELINES
from mistudio.cli.places import reaching_kubeflow
from mistudio.terminal import echo

if TYPE_CHECKING:
    from mistudio.runs.connection import Connection

_SUBMIT_HELP = """Submit a pipeline to Kubeflow.

It is uploaded, a run is started, and its id printed.

The pipeline is uploaded as a version named by the git commit, and found where that is there already. Of a checkout with
changes that were not committed the version's name says so. Settings are checked as those of mistudio run.

Examples:

    mistudio submit interpret --set model=EleutherAI/pythia-70m --namespace mistudio-data

    mistudio submit interpret --set corpus=stories --wait --summary result.json

    mistudio submit interpret --host https://kf.example.org/pipeline --token-command 'gcloud auth print-access-token'

    mistudio submit interpret --upload-only

    mistudio submit interpret --cron '0 0 2 * * *' --name nightly
"""
_STORE = "Store of the run, such as s3://bucket/prefix. [default: MISTUDIO_STORE of its pods]"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("submit", help=_SUBMIT_HELP)(reaching_kubeflow(submit))


def submit(
    pipeline: Annotated[str, typer.Argument(metavar=PIPELINES, help=PIPELINE_HELP)],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Set a parameter; may be repeated.")
    ] = None,
    store: Annotated[str, typer.Option("--store", help=_STORE, show_default=False)] = "",
    experiment: Annotated[str, typer.Option(help="Experiment of the run; made where there is none.")] = "mistudio",
    name: Annotated[str, typer.Option(help="Name of the run. [default: pipeline and time]", show_default=False)] = "",
    version: Annotated[
        str, typer.Option(help="Name of the pipeline's version. [default: the git commit]", show_default=False)
    ] = "",
    service_account: Annotated[
        str, typer.Option(help="Service account of the run's pods. [default: Kubeflow's]", show_default=False)
    ] = "",
    placement: Annotated[
        Path | None, typer.Option(help="File that says on which machines the steps run, with which resources.")
    ] = None,
    cache: Annotated[
        bool | None,
        typer.Option(
            "--cache/--no-cache",
            help="Take outputs of earlier runs from Kubeflow's cache. [default: as placed]",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show how it goes, and end as the run does: with 3 where its gate failed.")
    ] = False,
    summary: Annotated[
        Path | None, typer.Option(help="With --wait, write the closing table to this file, as JSON.")
    ] = None,
    cron: Annotated[
        str,
        typer.Option(
            help="Run it again and again instead, by six fields: seconds, minutes, hours, days, months, days "
            "of the week.",
            show_default=False,
        ),
    ] = "",
    upload_only: Annotated[bool, typer.Option("--upload-only", help="Upload the version, and start no run.")] = False,
    *,
    connection: "Callable[[], Connection]",
) -> None:
    """Submit a pipeline."""
    from mistudio.cli.pipelines import check_summary, show_closing
    from mistudio.cli.running import follow
    from mistudio.errors import ConfigError
    from mistudio.paths import given_path
    from mistudio.runs import KubeflowRunner, Submission, Target
    from mistudio.runs.checkout import load_pipeline, parse_settings
    from mistudio.runs.submitting import upload

    if wait and (cron or upload_only):
        message = "--wait is of one run, and there is none with --cron or --upload-only: leave one out."
        raise ConfigError(message)
    if summary and not wait:
        message = "--summary is of a run that has ended: give --wait too, or see mistudio result."
        raise ConfigError(message)
    check_summary(summary)
    values = parse_settings(load_pipeline(pipeline), settings or [])
    store = store or str(values.pop("store", ""))
    how = Submission(
        experiment=experiment,
        name=name,
        version=version,
        service_account=service_account,
        cache=cache,
        placement=None if placement is None else given_path(placement, "--placement"),
    )
    runner = KubeflowRunner(connection(), store, how)
    if upload_only:
        uploaded = upload(runner.cluster, pipeline, how)
        echo(f"Version {uploaded.name}: {uploaded.id}")
        return
    target = Target(kind="pipeline", name=pipeline)
    if cron:
        echo(runner.schedule(target, values, cron))
        return
    run = runner.start(target, values)
    echo(run.id)
    if run.link:
        echo(f"Dashboard: {run.link}", err=True)
    if wait:
        show_closing(lambda: follow(runner, run), run.store, summary)
