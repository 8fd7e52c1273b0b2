"""The ``mistudio`` command."""

import io
import logging
import os
import sys

import typer

from mistudio.cli import (
    artifacts,
    auditing,
    corpus,
    correlating,
    demo,
    interchange,
    models,
    monitoring,
    pipelines,
    runs,
    serving,
    steering,
    steps,
    subject,
    submitting,
    usage,
    verify,
)
from mistudio.errors import MistudioError
from mistudio.stopping import Stopped, stoppable
from mistudio.terminal import LineHandler, console, echo, plain
from mistudio.version import provenance

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
        echo(provenance())
        raise typer.Exit


for part in (
    pipelines,
    submitting,
    runs,
    demo,
    steps,
    corpus,
    artifacts,
    subject,
    interchange,
    models,
    verify,
    serving,
    steering,
    correlating,
    monitoring,
    auditing,
):
    part.register(app)


def main() -> None:
    """Run the command line; an error that miStudio raises on purpose becomes one message and exit code 2.

    Ctrl-C and SIGTERM end it alike: what is open is closed, what it started is ended, and a line says how to go on.
    """
    # Before torch is loaded, here and in the steps: threads that spin while they wait make every small
    # operation many times slower as soon as another process wants a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["PYTHONSAFEPATH"] = "1"  # what is started from here takes no modules from the working folder
    _show_what_is_logged()
    try:
        with stoppable(interrupts=True):
            usage.run(app)
    except Stopped as stopped:
        notes: list[str] = getattr(stopped, "__notes__", [])
        echo(" ".join([f"Ended by {stopped.signal_name}.", *notes]), err=True)
        sys.exit(stopped.code)
    except MistudioError as error:
        from rich.text import Text

        message = Text.assemble(("Error:", "bold red"), " ", plain(str(error)))
        console(stderr=True, soft_wrap=True).print(message)
        sys.exit(error.exit_code)


def _show_what_is_logged() -> None:
    """Progress where there is no terminal for bars, what is waited for, and warnings, as lines."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a name is no error
    logger = logging.getLogger("mistudio")
    logger.addHandler(LineHandler())
    logger.setLevel(logging.INFO)
    logger.propagate = False
