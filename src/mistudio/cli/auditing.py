"""``mistudio audit``: who did what to a store, and whether records and the log of interventions are as written."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mistudio.cli.options import StoreOption
from mistudio.plain_text import shortened
from mistudio.terminal import console, echo, plain

if TYPE_CHECKING:
    from mistudio.artifacts import Action
    from mistudio.steer.audit_verify import Verdict

_LIST_HELP = """List who did what to a store.

That is what was published, removed, named, signed, registered, promoted, deployed.

Each line is one action: when, who, with which service account, what, to which artifact. Commands and steps write them;
figures and settings are in the manifests and in MLflow.

Examples:

    mistudio audit list

    mistudio audit list --since 2026-01-31 --action remove --json
"""
_VERIFY_HELP = """Check the record of a store, or a log of interventions.

Without FILE it is the record of the store, with FILE the log that a server writes to (--audit-log), all of its files.
Each line holds a hash over the line before it and itself, so that no line can be changed, put in or taken out unseen.
That lines at the end are gone shows only where the hash of a later one was noted: give that as --head.

Exits with 0 if all is as it was written; with 3 and the first line that is not; with 4 where the last line of a log has
no end, as a kill leaves it and the next writer mends it; with 5 where no line has the hash that was given; with 6 where
earlier files of a log are missing and the others are intact.

Examples:

    mistudio audit verify

    mistudio audit verify audit.jsonl

    mistudio audit verify audit.jsonl --head 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
"""
_EXIT_CODES = {"intact": 0, "broken": 3, "torn": 4, "cut": 5, "headless": 6}
_TIME_CHARS = 19
_DIGITS_SHOWN = 12

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    audit = typer.Typer(help="List who did what to a store, and check that.", no_args_is_help=True)
    audit.command("list", help=_LIST_HELP)(list_)
    audit.command("verify", help=_VERIFY_HELP)(verify)
    app.add_typer(audit, name="audit")


def list_(
    since: Annotated[str, typer.Option(metavar="DAY", help="From this day on, for example 2026-01-31.")] = "",
    action: Annotated[str, typer.Option(help="Only this, for example remove.")] = "",
    as_json: JsonOption = False,
    store: StoreOption = "",
) -> None:
    """List who did what to a store."""
    import json

    from rich.text import Text

    from mistudio.artifacts import actions, open_to_read

    opened = open_to_read(store)
    recorded = list(actions(opened, since))
    found = [each for each in recorded if not action or each.record["action"] == action]
    if as_json:
        echo(json.dumps([{**each.record, "hash": each.hash} for each in found], indent=1))
        return
    if not found:
        echo(_nothing(opened.url, action, since, recorded), err=True)
    for each in found:
        console().print(Text(plain(_line(each))), no_wrap=True, overflow="ellipsis")


def verify(
    file: Annotated[
        Path | None,
        typer.Argument(help="Log of interventions; older files lie beside it. [default: the store's record]"),
    ] = None,
    head: Annotated[str, typer.Option(metavar="HASH", help="Hash of a line that has to be there.")] = "",
    as_json: JsonOption = False,
    store: StoreOption = "",
) -> None:
    """Check the record of actions of a store, or a log of interventions."""
    import json

    from mistudio.errors import ConfigError
    from mistudio.paths import given_path
    from mistudio.steer.audit_verify import verify_log

    wanted = head.strip().lower() or None
    if file is None:
        _verify_store(store, wanted, as_json=as_json)
        return
    if store:
        message = "--store is for the record of a store: leave it out, or the file."
        raise ConfigError(message)
    verdict = verify_log(given_path(file, "an audit log"), wanted)
    echo(json.dumps(verdict._asdict(), indent=1) if as_json else _said(verdict))
    raise typer.Exit(_EXIT_CODES[verdict.state])


def _verify_store(store: str, head: str | None, *, as_json: bool) -> None:
    import json

    from mistudio.artifacts import Catalog, actions, open_to_read, verify_actions

    opened = open_to_read(store)
    verdict = verify_actions(opened, head)
    unknown: list[str] = []
    if not verdict.problems:
        recorded = {each.record["digest"] for each in actions(opened)}
        with Catalog(opened) as catalog:
            unknown = [entry.uri for entry in catalog.entries() if entry.digest not in recorded]
    if as_json:
        echo(json.dumps({**verdict._asdict(), "not_recorded": unknown}, indent=1))
    else:
        echo("\n".join(verdict.problems) or "Intact: every record is as it was written.")
        echo(f"{verdict.actions:,} records{_about_signatures(verdict.unsigned)}.\nHead: {verdict.head}")
        if unknown:
            echo(f"Of {len(unknown)} artifacts nothing is on record, such as {unknown[0]}: not made by these commands.")
    missing_head = head is not None and verdict.problems and "is not there" in verdict.problems[0]
    raise typer.Exit(_EXIT_CODES["cut" if missing_head else "broken" if verdict.problems else "intact"])


def _nothing(store: str, action: str, since: str, recorded: "list[Action]") -> str:
    """That nothing was found, and which other actions are there: a word may be misspelt."""
    asked = "".join((f" of action {shortened(action)}" if action else "", f" since {since}" if since else ""))
    others = ", ".join(sorted({each.record["action"] for each in recorded}))
    return f"The store {store} has nothing{asked} on record{others and f'; there is {others}'}."


def _about_signatures(unsigned: int | None) -> str:
    if unsigned is None:
        return "; signatures were not looked at, for MISTUDIO_SIGNING_KEY is not set"
    return f", {unsigned:,} of them without a signature"


def _line(action: "Action") -> str:
    record: dict[str, Any] = action.record
    actor = record["actor"]
    who = " ".join(filter(None, (actor["user"], actor["account"], actor["key"], actor["host"] and f"@{actor['host']}")))
    detail = ", ".join(f"{name} {value}" for name, value in record["detail"].items() if value not in (None, ""))
    digest = (record["digest"] or "")[:_DIGITS_SHOWN]
    shown = (
        record["time"][:_TIME_CHARS],
        record["action"],
        record["target"],
        digest,
        detail,
        f"by {who or 'nobody known'}",
    )
    return "  ".join(filter(None, shown))


def _said(verdict: "Verdict") -> str:
    """The verdict for people."""
    found = f"{verdict.lines:,} lines in {verdict.files:,} {'file' if verdict.files == 1 else 'files'}"
    torn = f" Lines that say that one was cut off, written in part: {verdict.recovered:,}." if verdict.recovered else ""
    since = f" {verdict.since:,} lines were written since the hash that was given." if verdict.since is not None else ""
    if verdict.state == "intact":
        unknown = (
            "" if verdict.since is not None else " Whether lines at its end are gone cannot be seen without --head."
        )
        return f"Intact: {found}.{torn}{since}{unknown}\nHead: {verdict.head}"
    problem = f"{verdict.state.capitalize()}: {verdict.problem}"
    return f"{problem}\nIntact before that: {found}.{torn}{since}\nHead: {verdict.head}"
