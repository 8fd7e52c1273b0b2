"""The ``mistudio`` command."""

import os
import sys

import typer
from rich.console import Console
from rich.markup import escape

from mistudio.cli import artifacts, corpus, demo, interchange, pipelines, runs, steps, subject, usage, verify
from mistudio.errors import MistudioError
from mistudio.version import __version__

_HELP = """Interpretability of language models: capture, train, find, inspect.

The main job, offline, from text to a feature dashboard:

    mistudio run interpret
"""

app = typer.Typer(
    name="mistudio",
    help=_HELP,
    no_args_is_help=True,
    rich_markup_mode=None,  # help texts say [default: ...], which is no markup
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True)) -> None:
    if version:
        typer.echo(f"mistudio {__version__}")
        raise typer.Exit


for part in (pipelines, runs, demo, steps, corpus, artifacts, subject, interchange, verify):
    part.register(app)


def main() -> None:
    """Run the command line; an error that miStudio raises on purpose becomes one message and exit code 2."""
    # Before torch is loaded, here and in the steps: threads that spin while they wait make every small
    # operation many times slower as soon as another process wants a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        usage.run(app)
    except MistudioError as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False)
        sys.exit(error.exit_code)
