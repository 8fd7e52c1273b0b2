"""What look-ups are tried on: a tiny model with two autoencoders, opened once for all tests that only read."""

from collections.abc import Iterator

import pytest

from mistudio.correlate.correlator import Correlator
from mistudio.instrument.served import Served
from tests.support.looked_up import LookedUp, looked_up


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> LookedUp:
    return looked_up(tmp_path_factory)


@pytest.fixture(scope="session")
def served(line: LookedUp) -> Iterator[Served]:
    with line.open() as opened:
        yield opened


@pytest.fixture(scope="session")
def correlator(served: Served) -> Correlator:
    return Correlator(served)


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> LookedUp:
    """A store to change."""
    return looked_up(tmp_path_factory)
