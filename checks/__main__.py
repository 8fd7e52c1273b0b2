"""``python -m checks [NAME ...]``: run the checks, print a table, and fail when one of them does."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from checks.outcome import Check, Outcome
from checks.registry import CHECKS

_COLOURS = {"holds": "green", "failed": "red", "skipped": "yellow"}
_MOST = 20  # problems of a check that are printed


def main(names: Sequence[str]) -> int:
    """Run the checks that are named, or all; the status is 1 where one failed."""
    unknown = set(names) - {check.name for check in CHECKS}
    if unknown:
        sys.stderr.write(f"There is no check {min(unknown)}: {', '.join(check.name for check in CHECKS)}.\n")
        return 2
    console = Console(width=None if sys.stdout.isatty() else 160)
    outcomes = [(check, check.run()) for check in CHECKS if not names or check.name in names]
    console.print(_table(outcomes))
    for check, outcome in outcomes:
        for problem in outcome.problems[:_MOST]:
            console.print(f"[red]{check.name}[/]: {escape(problem)}", soft_wrap=True, highlight=False)
        if len(outcome.problems) > _MOST:
            console.print(f"[red]{check.name}[/]: and {len(outcome.problems) - _MOST} more")
    return int(any(outcome.problems for _, outcome in outcomes))


def _table(outcomes: Sequence[tuple[Check, Outcome]]) -> Table:
    table = Table(title="What a cluster is given", title_justify="left")
    for column in ("check", "what holds", "looked at", "result"):
        table.add_column(column)
    for check, outcome in outcomes:
        seen = outcome.skipped or outcome.seen
        word = f"{len(outcome.problems)} problems" if outcome.problems else outcome.word
        table.add_row(check.name, check.about, escape(seen), f"[{_COLOURS[outcome.word]}]{word}[/]")
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
