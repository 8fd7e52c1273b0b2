"""``mistudio monitor``: traffic of any model, watched."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mistudio.cli import monitor_upkeep, rules
from mistudio.terminal import echo

if TYPE_CHECKING:
    from mistudio.monitor.records import Exchange, Sample
    from mistudio.monitor.traffic.parquet_source import RecordedTraffic

_READ_HELP = """Show what would be watched of recorded traffic.

WHERE is a file, a folder or s3://bucket/prefix with what KServe's payload logger wrote (Parquet, JSON or CSV), or with
CloudEvents, one a line (.jsonl), as the monitor records them. Prints a few of the texts, and how much could not be
read, by reason. A bucket is reached as a store is, with AWS_ENDPOINT_URL and keys in the environment.

Examples:

    mistudio monitor read s3://payloads/default/tinyllama

    mistudio monitor read recorded/ --lines 20 --fields fields.json
"""
_SHOWN_CHARACTERS = 100

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    monitor = typer.Typer(help="Watch the traffic of any model.", no_args_is_help=True)
    monitor.command("read", help=_READ_HELP)(read)
    rules.register(monitor)
    monitor_upkeep.add(monitor)
    app.add_typer(monitor, name="monitor")


def read(
    where: Annotated[str, typer.Argument(metavar="WHERE", help="File, folder or s3://bucket/prefix.")],
    lines: Annotated[int, typer.Option(min=0, max=100_000, help="Exchanges to show.")] = 5,
    fields: Annotated[
        Path | None, typer.Option(help="JSON file with what the models call the parts of their bodies.")
    ] = None,
    tenant_header: Annotated[str, typer.Option(help="Header, kept by the logger, that says who asks.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Show what would be watched of recorded traffic."""
    import json

    from mistudio.monitor.traffic.config import TrafficSettings
    from mistudio.monitor.traffic.parquet_source import RecordedTraffic
    from mistudio.settings import validated

    given = {"tenant_header": tenant_header, **({} if fields is None else {"fields": _object_in(fields)})}
    traffic = RecordedTraffic(where, validated(TrafficSettings, given))
    shown: list[Exchange] = []
    num_samples = 0
    for exchange in traffic.exchanges():
        num_samples += len(exchange.samples)
        if len(shown) < lines:
            shown.append(exchange)
            if not as_json:
                _show(exchange)
    counts = _counts(traffic, num_samples)
    if as_json:
        echo(json.dumps({**counts, "notes": traffic.notes, "shown": [_row(each) for each in shown]}, indent=1))
        return
    for name, values in counts.items():
        listed = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in sorted(values.items()))
        echo(f"{name.replace('_', ' ')}: {listed or 'nothing'}")
    for note in traffic.notes:
        echo(note, err=True)


def _counts(traffic: "RecordedTraffic", num_samples: int) -> dict[str, dict[str, int]]:
    return {
        "read": {**traffic.counts, "texts": num_samples},
        "joined": {str(outcome): count for outcome, count in traffic.joined.items()},
        "not_read": {reason.value: count for reason, count in traffic.problems.items()},
    }


def _show(exchange: "Exchange") -> None:
    origin = exchange.origin
    where = "/".join(filter(None, (origin.namespace, origin.model, origin.endpoint)))
    tenant = f" of {origin.tenant}" if origin.tenant else ""
    for sample in exchange.samples:
        before, after = map(_shortened, _texts(sample))
        echo(f"{exchange.id}  {where}{tenant}  {before}" + (f"  ->  {after}" if after else ""))


def _texts(sample: "Sample") -> tuple[str, str]:
    """A prompt and its answer for people."""
    content, at = sample.content, sample.reply_from
    at = len(content) if at is None else at
    if isinstance(content, str):
        return content[:at], content[at:]
    written = [each if isinstance(each, int) else f"{each.role}: {each.content}" for each in content]
    return " ".join(map(str, written[:at])), " ".join(map(str, written[at:]))


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]}…"


def _row(exchange: "Exchange") -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "id": exchange.id,
        "time": exchange.time,
        "origin": asdict(exchange.origin),
        "is_whole": exchange.is_whole,
        "samples": [_sample_row(each) for each in exchange.samples],
    }


def _sample_row(sample: "Sample") -> dict[str, Any]:
    content = sample.content
    plain = content if isinstance(content, str) else [each if isinstance(each, int) else dict(each) for each in content]
    return {"content": plain, "reply_from": sample.reply_from}


def _object_in(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: there is none.
    """
    from mistudio.errors import InputError
    from mistudio.guarded_json import RefusedJSON, parse_json_file
    from mistudio.paths import given_path
    from mistudio.plain_text import shortened

    try:
        content = parse_json_file(given_path(file, "names of fields"))
    except (RefusedJSON, OSError) as error:
        message = f"{shortened(str(file))} cannot be read as JSON: {error}."
        raise InputError(message) from error
    if not isinstance(content, dict):
        message = f"{shortened(str(file))} holds no object: write one such as {{'text': ['question']}}."
        raise InputError(message)
    return content
