"""What typer refuses by itself: shown as it shows it, without repeating what nobody would read to its end."""

import io
import sys
from typing import Any

import typer

from mistudio.plain_text import without_long_words

# What can be wrong with a command line: newer versions of typer bring their own click, older ones use the library.
_UsageError: Any = typer.BadParameter.__mro__[1]
_MOST_CHARACTERS = 900


def run(app: typer.Typer) -> None:
    """Run the command line and end the process; errors that are ours come out of here.

    Raises:
        MistudioError: what was asked for cannot be done.
    """
    try:
        code = app(standalone_mode=False)
    except _UsageError as error:
        shown = io.StringIO()
        error.show(shown)
        typer.echo(_cut(shown.getvalue()), err=True, nl=False)
        sys.exit(error.exit_code)
    except typer.Abort:
        typer.echo("Aborted.", err=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _cut(text: str) -> str:
    usage, error, message = text.partition("Error: ")
    message = without_long_words(message)
    if len(message) > _MOST_CHARACTERS:
        message = f"{message[:_MOST_CHARACTERS]}…\n"
    return f"{without_long_words(usage)}{error}{message}"
