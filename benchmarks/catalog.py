"""How long the newest line of a store of 10,000 artifacts takes to find, before and after they were once seen.

Run as ``python -m benchmarks.catalog`` in the root of the checkout. Each question is asked by a new process, which
imports, opens the store and its catalogue and asks; the time is that of the opening and asking. Cold is without an
index, warm with it, and changed with ten artifacts more than the index knows; the worst of several tries counts.
Prints a table and writes ``build/bench/catalog.json``.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.reporting import Row, describe_machine, publish, row, versions
from mistudio.artifacts import open_store, scratch_folder
from mistudio.artifacts.index import INDEX_NAME
from tests.unit.artifacts.test_catalog import made, write_many

LINES = 1667  # of six artifacts each
EXTRA = 10
TRIES = 3
ASK = """
import sys, time
from mistudio.artifacts import Catalog, open_store
started = time.perf_counter()
line = Catalog(open_store(sys.argv[1])).newest_line()
print(time.perf_counter() - started)
assert line.artifact.uri.startswith("scores/")
"""


def ask(folder: Path) -> float:
    """Seconds that one question takes."""
    command = [sys.executable, "-c", ASK, str(folder)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def worst_of(tries: int, folder: Path, before: Callable[[int], object]) -> float:
    """The most seconds that a question took, with something done before each."""
    seconds = []
    for number in range(tries):
        before(number)
        seconds.append(ask(folder))
    return max(seconds)


def measure(folder: Path) -> list[Row]:
    """The three states of the index."""
    store = open_store(str(folder / "store"))
    write_many(store, LINES)
    index = scratch_folder(store) / INDEX_NAME

    def forget(_number: int) -> None:
        index.unlink(missing_ok=True)

    def add(number: int) -> None:
        for extra in range(EXTRA):
            made(store, f"probing/{number:08x}{extra:08x}", 0)

    root = Path(store.url)
    states = {"cold": (forget, 5.0), "warm": (lambda _number: None, 1.0), "changed": (add, 1.0)}
    rows = []
    for name, (before, to_reach) in states.items():
        seconds = round(worst_of(TRIES, root, before), 3)
        what = f"newest line of {6 * LINES:,} artifacts, {name}, worst of {TRIES}"
        rows.append(row(what, seconds, "s", "", to_reach, seconds < to_reach))
    return rows


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        rows = measure(Path(name))
    publish("catalog", "Catalogue", rows, describe_machine(), versions("pydantic"))


if __name__ == "__main__":
    main()
