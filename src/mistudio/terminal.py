"""Showing data as data: names, texts and messages of others are neither markup nor commands to a terminal."""

import logging
import re
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the steps of a pipeline draw nothing
    from rich.console import Console

# Controls, of which ESC and CSI begin commands to a terminal; line ends that are none; what turns the direction of
# writing; and halves of characters, which no output can encode. Line breaks and tabs stay.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    r"""The text with what is not to be seen written out, such as ``\x1b``; JSON stays the same JSON."""
    return _UNSEEN.sub(_written_out, text)


def echo(text: str, *, err: bool = False) -> None:
    """Print a line for people or programs."""
    print(plain(text), file=sys.stderr if err else sys.stdout, flush=True)


def console(*, stderr: bool = False, **options: Any) -> "Console":
    """A console whose texts and cells are data: what is to look otherwise is given with its style."""
    return _console_class()(stderr=stderr, markup=False, emoji=False, highlight=False, **options)


@cache
def _console_class() -> "type[Console]":
    from rich.console import Console
    from rich.text import Text

    class DataConsole(Console):
        """Every text that is printed, and every cell of a table, comes through here."""

        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(plain(text), **options)

    return DataConsole


class LineHandler(logging.Handler):
    """Prints what the library logs to standard error, wherever that leads at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        try:
            echo(self.format(record), err=True)
        except OSError:  # nobody is there any more to read it
            pass
        except Exception:
            self.handleError(record)


def _written_out(found: "re.Match[str]") -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x20 else f"\\u{number:04x}"
