"""What tests of manifests need."""

import pytest

from checks.outcome import Skipped
from checks.rendering import rendered
from checks.tools import find


def needs_rendering() -> None:
    """Skip where there is no kubectl."""
    try:
        rendered()
    except Skipped as reason:
        pytest.skip(str(reason))


def needed(*programs: str) -> str:
    """The path of the last program; skip where one is missing."""
    try:
        return [find(name, "install it") for name in programs][-1]
    except Skipped as reason:
        pytest.skip(str(reason))
