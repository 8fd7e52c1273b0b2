"""``mistudio verify-method``: check the platform against subjects whose concepts are known."""

from typing import Annotated

import typer

from mistudio.cli.options import StoreOption, number
from mistudio.terminal import echo

_HELP = """Check what is found against what is known to be there.

Works offline. Plants concepts where they can be counted (in synthetic activations, a made-up language, Python code, a
backdoor), runs the platform's own steps, and prints what was found beside what was planted and beside controls. What is
trained is kept in the store, so that a second run, or one that goes on after a break, finds it.

Exit code 1 says that a figure does not reach what is asked of it.

Examples:

    mistudio verify-method --checks superposed,planted --seeds 2

    mistudio verify-method --json build/bench/verify_method.json
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("verify-method", help=_HELP)(verify_method)


def verify_method(
    checks: Annotated[
        str, typer.Option(help="Checks to run, with commas: superposed, planted, python, backdoor. [default: all]")
    ] = "",
    seeds: Annotated[
        int,
        typer.Option(help="Seeds to repeat each check with; figures are means over them.", **number("seeds", int)),
    ] = 5,
    json_path: Annotated[
        str, typer.Option("--json", metavar="FILE", help="Where the rows are written.")
    ] = "build/bench/verify_method.json",
    store: StoreOption = "",
) -> None:
    """Run the checks, print the table, and write its rows."""
    from pathlib import Path

    from mistudio.artifacts import open_store
    from mistudio.heap import keep_freed_memory
    from mistudio.verify.checks import CHECKS, falls_short, publish, run_checks

    keep_freed_memory()
    names = checks.replace(",", " ").split() or list(CHECKS)
    rows = run_checks(open_store(store), names, seeds)
    publish(rows, Path(json_path))
    short = falls_short(rows)
    asked = sum(row["holds"] is not None for row in rows)
    echo(f"{asked - len(short)} of {asked} figures reach what is asked. Rows: {json_path}")
    raise typer.Exit(1 if short else 0)
