"""Says at the end how many cases ran."""

import pytest

from tests.fuzz.examples import COUNTS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for what, number in sorted(COUNTS.items()):
        terminalreporter.write_line(f"{what}: {number:,}")
