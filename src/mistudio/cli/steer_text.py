"""``mistudio steer text``: an answer under edits beside the one without, in the terminal."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mistudio.cli.options import StoreOption, number
from mistudio.errors import ConfigError
from mistudio.guarded_json import RefusedJSON, parse_json
from mistudio.plain_text import shortened
from mistudio.terminal import echo

if TYPE_CHECKING:
    from mistudio.steer.requests import Comparison, Event

HELP = """Write an answer under edits, and the one without them beside it.

Loads the newest model and autoencoder of the store, which takes a few seconds; mistudio serve keeps them loaded.

Examples:

    mistudio steer text "Once upon a time" --add 12=2

    mistudio steer text "How are you?" --chat --ablate 3,77 --preset calm --json

    mistudio steer text "Once" --edit '{"op": "clamp", "feature": 12, "value": 5, "where": "prompt"}'
"""


def text(
    prompt: Annotated[str, typer.Argument(help="What is to be gone on with.")],
    chat: Annotated[bool, typer.Option("--chat", help="The prompt is a message of a chat.")] = False,
    add: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FEATURE=STRENGTH",
            help="Add a feature to each generated token, in parts of its largest activation; may be repeated.",
        ),
    ] = None,
    ablate: Annotated[str, typer.Option(metavar="FEATURES", help="Take features out: 3,77.")] = "",
    edit: Annotated[
        list[str] | None, typer.Option(metavar="JSON", help="An edit as requests have it; may be repeated.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Name of a preset, whose edits act too.")] = "",
    max_tokens: Annotated[int, typer.Option(help="Tokens to generate.", **number("max_tokens", int))] = 64,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest.", **number("temperature", float))] = 0.0,
    seed: Annotated[int, typer.Option(help="Of what is drawn.", **number("seed", int))] = 0,
    line: Annotated[
        list[str] | None, typer.Option(help="What to load: scores, explanations, features or sae/...; the newest.")
    ] = None,
    model: Annotated[str, typer.Option(help="The language model, where it is not found as the capture says.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with all figures.")] = False,
    store: StoreOption = "",
) -> None:
    """Load, write, print."""
    from mistudio.artifacts import default_store_url, open_to_read
    from mistudio.instrument.served import open_served
    from mistudio.settings import validated
    from mistudio.steer.config import ServiceConfig
    from mistudio.steer.opening import nameable, named_edits
    from mistudio.steer.requests import GenerationRequest
    from mistudio.steer.service import SteerService
    from mistudio.subject import resolve_source

    content = {
        **({"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}),
        "max_tokens": max_tokens,
        "sampling": {"temperature": temperature, "seed": seed},
        "steering": {"edits": _edits(add or [], ablate, edit or []), "preset": preset or None, "compare": True},
    }
    request = validated(GenerationRequest, content)
    source = resolve_source(model) if model else None
    with open_served(open_to_read(store or default_store_url()), line or (), source) as served:
        config = ServiceConfig(rows=2)
        with SteerService(
            nameable(served), served.name, config, presets=lambda name: named_edits(served, name)
        ) as service:
            events = list(service.events(service.prepare(request)))
    _show(events, as_json=as_json)


def _edits(add: list[str], ablate: str, others: list[str]) -> list[dict[str, Any]]:
    edits: list[dict[str, Any]] = []
    for given in add:
        feature, sign, strength = given.partition("=")
        if not sign:
            message = f"--add {shortened(given)}: write FEATURE=STRENGTH, for example 12=2."
            raise ConfigError(message)
        how = {"strength": _number(strength, "--add"), "unit": "feature_max", "where": "generated"}
        edits.append({"op": "add", "feature": int(_number(feature, "--add")), **how})
    features = [int(_number(one, "--ablate")) for one in ablate.replace(",", " ").split()]
    if features:
        edits.append({"op": "ablate", "features": features})
    for given in others:
        try:
            parsed = parse_json(given)
        except RefusedJSON as error:
            message = f"--edit {shortened(given)} is no JSON: {error}"
            raise ConfigError(message) from error
        if not isinstance(parsed, dict):
            message = f"--edit {shortened(given)} is no edit: write an object."
            raise ConfigError(message)
        edits.append(parsed)
    return edits


def _number(value: str, option: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        message = f"{option} {shortened(value)} is no number."
        raise ConfigError(message) from error


def _show(events: "list[Event]", *, as_json: bool) -> None:
    from mistudio.steer.requests import Delta, Done, Failed, Finished

    steered = "".join(event.text for event in events if isinstance(event, Delta))
    finished = next((event for event in events if isinstance(event, Finished)), None)
    last = events[-1]
    if isinstance(last, Failed):
        raise last.error
    compared = last.comparison if isinstance(last, Done) else None
    if as_json:
        ended = asdict(finished) if finished is not None else None
        found = {"text": steered, "finished": ended, "comparison": asdict(compared) if compared is not None else None}
        echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    if finished is not None and (finished.detail or finished.warnings):
        echo("; ".join(filter(None, [finished.detail, *finished.warnings])), err=True)
    if compared is not None:
        _show_both(steered, compared)


def _show_both(steered: str, compared: "Comparison") -> None:
    from rich.table import Table

    from mistudio.terminal import console, plain

    doses = ", ".join(f"{dose:.2f} at {hook}" for hook, dose in compared.dose.items()) or "none"
    kl = sum(compared.kl) / max(len(compared.kl), 1)
    table = Table(show_lines=True)
    table.add_column("as it is")
    table.add_column("steered")
    table.add_row(plain(compared.plain_text), plain(steered))
    table.add_row(f"perplexity {compared.plain_perplexity:.2f}", f"perplexity {compared.perplexity:.2f}")
    table.add_row("", f"KL {kl:.3f} nats a token; dose {doses}")
    console().print(table)
