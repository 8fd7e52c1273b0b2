"""Small inputs that went wrong elsewhere, which lie beside the checkout; tests are skipped where they do not."""

from pathlib import Path

import pytest

_FOLDER = Path(__file__).parents[3] / "shared" / "cases"


def case(name: str) -> Path:
    """The file or folder of a case."""
    path = _FOLDER / name
    if not path.exists():
        pytest.skip(f"there is no {path}")
    return path
