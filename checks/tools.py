"""Programs that checks call: where they are, and how they are run."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from checks.outcome import Skipped

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / "build" / "checks"  # the environment that `make check-tools` makes
_TIMEOUT_S = 600


def find(name: str, install: str) -> str:
    """The path of a program, of the project's own tools first.

    Args:
        name: of the program.
        install: what to do where it is missing.

    Raises:
        Skipped: it is nowhere.
    """
    own = TOOLS / "bin" / name
    found = str(own) if own.is_file() else shutil.which(name)
    if found is None:
        message = f"{name} is missing: {install}"
        raise Skipped(message)
    return found


def run(
    command: Sequence[str | Path],
    *,
    given: str | None = None,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end.

    Args:
        command: program and arguments.
        given: its standard input.
        folder: that it runs in.
        environment: variables besides those of this process.

    Returns:
        what it said; a status other than 0 is no error here.
    """
    return subprocess.run(  # noqa: S603 -- no shell; programs by `find`
        [str(part) for part in command],
        input=given,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )


def shared(*parts: str) -> Path:
    """A file or folder of the data beside the checkout.

    Raises:
        Skipped: it is not there.
    """
    path = ROOT.parent / "shared" / Path(*parts)
    for folder in (ROOT.parent, *ROOT.parent.parents):
        if (found := folder / "shared" / Path(*parts)).exists():
            return found
    message = f"{path} is missing: it is not part of the project"
    raise Skipped(message)
