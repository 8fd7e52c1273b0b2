"""``mistudio demo``: make the demo subject, or find it."""

from typing import Annotated

import typer

from mistudio.cli.going_on import goes_on
from mistudio.cli.options import number
from mistudio.terminal import console, echo

_HELP = """Train a small language model on the spot, on text that Python brings along.

Works offline and takes about two minutes on two CPU cores. The model is kept in the store: the same
command finds it the next time. The budget is in tokens, and more tokens give a better model.

Examples:

    mistudio demo

    mistudio demo --tokens 8_000_000 --json
"""

StoreOption = Annotated[
    str, typer.Option("--store", help="Folder of the store. [default: MISTUDIO_STORE, or the user's data folder]")
]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("demo", help=_HELP)(demo)


def demo(
    tokens: Annotated[
        int | None, typer.Option(help="Tokens to train on. [default: 1_950_000]", **number("tokens", int))
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of the first weights and the order of the text.", **number("seed", int))
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    store: StoreOption = "",
) -> None:
    """Train or find the demo subject, and say where it is."""
    import json

    from rich.table import Table

    from mistudio.artifacts import open_store
    from mistudio.demo import DemoConfig, train_demo
    from mistudio.heap import keep_freed_memory
    from mistudio.settings import validated

    keep_freed_memory()
    config = DemoConfig() if tokens is None else validated(DemoConfig, {"tokens": tokens})
    with goes_on():
        artifact, found = train_demo(open_store(store), config, seed)
    producer, summary = artifact.manifest.producer, artifact.manifest.summary
    row = {"uri": artifact.uri, "digest": artifact.digest, "found": found, "seconds": producer.seconds, **summary}
    if as_json:
        echo(json.dumps(row, indent=1))
        return
    table = Table("Demo subject", artifact.uri)
    table.add_row("Trained on", f"{summary['tokens']:,} tokens of python-docs, in {producer.seconds or 0:,.0f} s")
    table.add_row("Parameters", f"{summary['parameters']:,}")
    table.add_row("Bits per byte", f"{summary['bits_per_byte']} on {summary['held_out_bytes']:,} held-out bytes")
    table.add_row("This run", "found it published" if found else "trained it")
    console().print(table)
    is_default = config == DemoConfig() and seed == 0
    echo("Next: mistudio run interpret" + ("" if is_default else f" --set model={artifact.uri}"))
