"""Paths that people give, checked before they are used: what no file system takes is refused with a reason."""

import os
from os import PathLike
from pathlib import Path

from mistudio.errors import InputError
from mistudio.plain_text import shortened


def given_path(path: str | PathLike[str], what: str) -> Path:
    """The path with ``~`` as the user's home; it need not exist.

    Args:
        path: as it was given.
        what: what it is of, for the message.

    Raises:
        InputError: no file can be there: there is no such user, a name is too long, a link leads to itself.
    """
    try:
        expanded = Path(path).expanduser()
        os.stat(expanded)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return expanded
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        message = f"{what} cannot be at {shortened(os.fspath(path))}: {reason}. Choose another path."
        raise InputError(message) from error
    return expanded
