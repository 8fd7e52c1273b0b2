"""``mistudio monitor try``, ``check`` and ``schema``: rules and watch lists before they are switched on."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mistudio.cli.options import StoreOption
from mistudio.terminal import echo

if TYPE_CHECKING:
    from pydantic import BaseModel

    from mistudio.monitor.rules.rules import Rules
    from mistudio.monitor.trying import RuleTrial, Trial

_TRY_HELP = """Say how often rules would have fired on recorded traffic.

WHERE is what mistudio monitor read takes: a file, a folder or s3://bucket/prefix. Prints ids of requests, never text.
Nothing is acted on. Where thresholds are calibrated, what false alarms are below on clean traffic stands beside it.

Examples:

    mistudio monitor try rules.yaml --watch-list watch.yaml --on recorded/

    mistudio monitor try rules.yaml --watch-list watch.yaml --on s3://payloads/default/llama --line sae/0123456789abcdef
"""
_CHECK_HELP = """Check a file of rules and a watch list.

Exit status 2 where one is refused. With --store the model is loaded, and names, thresholds and calibrations are looked
up.

Examples:

    mistudio monitor check rules.yaml --watch-list watch.yaml

    mistudio monitor check rules.yaml --watch-list watch.yaml --store ./store
"""
_SCHEMA_HELP = """Print the JSON schema of watch lists or of rules.

For editors and CI.

Example: mistudio monitor schema rules > rules.schema.json
"""

RulesArgument = Annotated[Path, typer.Argument(metavar="RULES", help="File of rules (YAML or JSON).")]
WatchListOption = Annotated[Path, typer.Option("--watch-list", help="File of the watch list (YAML or JSON).")]
LineOption = Annotated[
    list[str] | None, typer.Option(help="What to load: scores, explanations, features or sae/...; the newest.")
]
ModelOption = Annotated[str, typer.Option(help="The language model, where it is not found as the capture says.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")]


def register(monitor: typer.Typer) -> None:
    """Add the commands to those of the monitor."""
    monitor.command("try", help=_TRY_HELP)(try_)
    monitor.command("check", help=_CHECK_HELP)(check)
    monitor.command("schema", help=_SCHEMA_HELP)(schema)


def try_(
    rules: RulesArgument,
    watch_list: WatchListOption,
    on: Annotated[str, typer.Option("--on", metavar="WHERE", help="File, folder or s3://bucket/prefix.")],
    examples: Annotated[int, typer.Option(min=0, max=1000, help="Ids of requests to print for each rule.")] = 5,
    max_exchanges: Annotated[int | None, typer.Option(min=1, help="Read no more than this. [default: all]")] = None,
    tenant_header: Annotated[str, typer.Option(help="Header, kept by the logger, that says who asks.")] = "",
    line: LineOption = None,
    model: ModelOption = "",
    as_json: JsonOption = False,
    store: StoreOption = "",
) -> None:
    """Load, read, judge, print."""
    import json
    from dataclasses import asdict
    from itertools import islice

    from mistudio.artifacts import default_store_url, open_to_read
    from mistudio.instrument.served import open_served
    from mistudio.monitor.calibrate.calibration import calibrated
    from mistudio.monitor.rules.rules import read_rules
    from mistudio.monitor.traffic.config import TrafficSettings
    from mistudio.monitor.traffic.parquet_source import RecordedTraffic
    from mistudio.monitor.trying import try_rules
    from mistudio.monitor.watch.realigned import accepted_versions
    from mistudio.monitor.watch.watch_list import read_watch_list
    from mistudio.monitor.watch.watching import Watcher
    from mistudio.settings import validated
    from mistudio.subject import resolve_source

    asked, listed = read_rules(rules), read_watch_list(watch_list)
    traffic = RecordedTraffic(on, validated(TrafficSettings, {"tenant_header": tenant_header}))
    source = resolve_source(model) if model else None
    opened = open_to_read(store or default_store_url())
    with open_served(opened, line or (), source, versions=accepted_versions(opened, listed)) as served:
        watcher = Watcher(served, listed)
        known = calibrated(listed, watcher.columns, served.store)
        whole = listed.with_thresholds({name: each.threshold for name, each in known.items()})
        trial = try_rules(asked, whole, watcher, islice(traffic.exchanges(), max_exchanges), known, examples)
    if as_json:
        echo(json.dumps({**asdict(trial), "notes": traffic.notes}, indent=1))
        return
    _show(trial)
    for note in traffic.notes:
        echo(note, err=True)


def check(
    rules: RulesArgument,
    watch_list: WatchListOption,
    line: LineOption = None,
    model: ModelOption = "",
    store: StoreOption = "",
) -> None:
    """Read, compare, say."""
    from mistudio.artifacts import open_to_read
    from mistudio.instrument.served import open_served
    from mistudio.monitor.calibrate.calibration import with_calibration
    from mistudio.monitor.rules.rule_book import RuleBook
    from mistudio.monitor.rules.rules import read_rules
    from mistudio.monitor.watch.realigned import accepted_versions
    from mistudio.monitor.watch.watch_list import read_watch_list
    from mistudio.monitor.watch.watching import Watcher
    from mistudio.subject import resolve_source

    asked, listed = read_rules(rules), read_watch_list(watch_list)
    if store:
        source = resolve_source(model) if model else None
        opened = open_to_read(store)
        with open_served(opened, line or (), source, versions=accepted_versions(opened, listed)) as served:
            listed = with_calibration(listed, Watcher(served, listed).columns, served.store)
    else:
        # A threshold that a calibration has is there, for all that can be told without the store.
        waiting = {one.name: 0.0 for one in listed.watched if one.threshold is None and _is_calibrated(listed, one)}
        listed = listed.with_thresholds(waiting)
    RuleBook(asked, listed)
    for message in _unset(asked):
        echo(message, err=True)
    names = ", ".join(rule.name for rule in asked.rules[:10]) or "none"
    echo(f"{len(listed.watched):,} watched, {len(asked.rules):,} rules ({names}): nothing is wrong with them.")


def schema(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="watch-list or rules.")] = "watch-list",
) -> None:
    """Print a schema."""
    import json

    from mistudio.errors import ConfigError
    from mistudio.monitor.rules.rules import Rules
    from mistudio.monitor.watch.watch_list import WatchList
    from mistudio.plain_text import shortened

    known: dict[str, type[BaseModel]] = {"watch-list": WatchList, "rules": Rules}
    if what not in known:
        message = f"There is no schema of {shortened(what)}: name {' or '.join(known)}."
        raise ConfigError(message)
    echo(json.dumps(known[what].model_json_schema(), indent=1))


def _unset(asked: "Rules") -> Iterator[str]:
    """What actions take from the environment and is not there: here, which need not be where they are served."""
    for name, action in asked.actions.items():
        variable = getattr(action, "url_env", None)
        if variable and not os.environ.get(variable):
            yield f"Action {name} takes its address from {variable}, which is not set here: set it for mistudio serve."


def _is_calibrated(listed: Any, one: Any) -> bool:
    return one.is_calibrated or listed.calibration is not None


def _show(trial: "Trial") -> None:
    unread = f", {trial.unreadable:,} could not be read" if trial.unreadable else ""
    hours = f"{trial.seconds / 3600:,.1f} hours of traffic"
    echo(f"{trial.exchanges:,} exchanges with {trial.samples:,} texts{unread}, of {hours}.")
    for one in trial.rules:
        _show_rule(one)


def _show_rule(one: "RuleTrial") -> None:
    if not one.exchanges:
        echo(f"{one.rule} ({one.kind}): no exchange is of the traffic that it is for")
        return
    share, low, high = one.share
    kept = f", {one.kept_back:,} kept back by the cool-down" if one.kept_back else ""
    echo(f"{one.rule} ({one.kind}): {one.alerts:,} alerts{kept}; met in {one.hits:,} of {one.exchanges:,} exchanges")
    echo(f"    {share:.3%} (95% {low:.3%} to {high:.3%}): were this traffic clean, all of it would be false")
    if one.false_bound is None:
        echo("    on clean traffic: not known, for not all of its thresholds are calibrated per text")
    else:
        unit = "windows" if one.kind == "rate" else "exchanges"
        echo(f"    on clean traffic: below {one.false_bound:.3g} of {unit}, by the calibration")
    if one.examples:
        echo(f"    first: {', '.join(map(_plain, one.examples))}")


def _plain(request: str) -> str:
    from mistudio.plain_text import shortened

    return shortened(request)
