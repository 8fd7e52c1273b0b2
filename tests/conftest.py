"""What all tests share: no file that they write has to survive a loss of power."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _files_need_not_survive_a_power_cut() -> Iterator[None]:
    """Waiting for the disk takes as long as all the rest where a store has many small files.

    Processes that a test starts wait for it, as always.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        yield
