"""``mistudio serve``: the model servers, which lie beside the library as the pipelines do."""

import os
import sys

import typer

from mistudio.runs.checkout import checkout

_HELP = (
    "Serve the newest model of a store over HTTP. OpenAI's API with steering, KServe's V1 and V2 (see serve --help)."
)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    passed_on = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command("serve", help=_HELP, context_settings=passed_on)(serve)


def serve(context: typer.Context) -> None:
    """Become the server: it has this process's number and its signals, and says itself what options it has."""
    folder = str(checkout())
    # Only the entry of a server may import KServe, so the library cannot.
    path = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
    sys.stdout.flush()
    os.execve(  # noqa: S606 - the same interpreter, without a shell
        sys.executable,
        [sys.executable, "-P", "-m", "model_servers", *context.args],
        {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
    )
