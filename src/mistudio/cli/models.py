"""``mistudio register``, ``promote`` and ``models``: which autoencoders are registered, and which of them serves."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mistudio.artifacts.models import ALIASES, CANDIDATE, CHAMPION
from mistudio.cli.options import AuthorOption, StoreOption, number, user_name
from mistudio.terminal import console, echo

if TYPE_CHECKING:
    from mistudio.steps.registering import Registered

_REGISTER_HELP = """Register an autoencoder as a version of a model.

It becomes the candidate. An autoencoder that is a version of the model already stays what it is. The store keeps who
registered what and when, and MLflow's registry shows it.

Example:

    mistudio register --sae sae/0123456789abcdef --name stories
"""
_PROMOTE_HELP = """Make a version of a model its champion.

That is the candidate, where no version is named. Every change stays on record. To roll back, promote the version from
before.

Examples:

    mistudio promote stories

    mistudio promote stories --version 1 --to champion
"""
_MODELS_HELP = """List registered autoencoders: versions, aliases, figures.

With a name, also who moved its aliases and when.

Examples:

    mistudio models

    mistudio models stories --json
"""
_FIGURES = ("ce_recovered", "explained_variance", "l0", "dead_fraction", "interpretable")
_DATE_CHARS, _DAY_CHARS = 16, 10

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the model.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("register", help=_REGISTER_HELP)(register_)
    app.command("promote", help=_PROMOTE_HELP)(promote)
    app.command("models", help=_MODELS_HELP)(models)


def register_(
    sae: Annotated[str, typer.Option("--sae", help="Trained autoencoder (sae/...).")],
    name: Annotated[str, typer.Option("--name", help="Name of the model that it becomes a version of.")],
    evaluation: Annotated[str, typer.Option(help="Evaluation of it, for its figures. [default: the newest]")] = "",
    scores: Annotated[str, typer.Option(help="Scores of its explanations. [default: the newest]")] = "",
    author: AuthorOption = "",
    store: StoreOption = "",
) -> None:
    """Register an autoencoder as a version of a model."""
    from mistudio import steps
    from mistudio.artifacts.models import check_model_name

    check_model_name(name)
    values = {"evaluation": evaluation or None, "scores": scores or None, "store": store or None}
    echo(steps.call("register", sae=sae, name=name, author=author or user_name(), **values))


def promote(
    name: NameArgument,
    version: Annotated[
        int | None, typer.Option(help=f"Number of the version. [default: the {CANDIDATE}]", **number("version", int))
    ] = None,
    to: Annotated[str, typer.Option("--to", metavar="|".join(ALIASES), help="Alias to move.")] = CHAMPION,
    author: AuthorOption = "",
    store: StoreOption = "",
) -> None:
    """Let an alias of a model stand for a version."""
    from mistudio.artifacts import open_store
    from mistudio.steps.registering import promote as promoted

    moved = promoted(open_store(store), name, version, to, author or user_name())
    before, after = moved.before, moved.after
    if before is not None and before.number == after.number:
        echo(f"{moved.alias} of {name} is version {after.number} ({after.sae.uri}) already.")
        return
    was = "there was none" if before is None else f"it was version {before.number} ({before.sae.uri})"
    echo(f"{moved.alias} of {name} is now version {after.number} ({after.sae.uri}); {was}.")


def models(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Only this model, with its history.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    store: StoreOption = "",
) -> None:
    """List registered autoencoders: versions, aliases, figures."""
    import json

    from mistudio.artifacts import open_to_read
    from mistudio.artifacts.models import alias_history, find_version
    from mistudio.steps.registering import registered

    opened = open_to_read(store)
    if name:
        find_version(opened, name, number=1)  # refuses a name that nothing is registered under
    rows = list(registered(opened, name))
    moves = alias_history(opened, name) if name else []
    history = [
        {"alias": move.kind, "version": of.number if of else None, **move.target.model_dump()} for move, of in moves
    ]
    if as_json:
        listed = [_row(each) for each in rows]
        echo(json.dumps({"versions": listed, "history": history} if name else listed, indent=1))
        return
    if not rows:
        echo(f"Nothing is registered in the store {opened.url}. See mistudio register.", err=True)
    _print(rows)
    for each in history:
        echo(f"{each['created_at'][:_DATE_CHARS]}  {each['alias']} is version {each['version']}, says {each['author']}")


def _row(each: "Registered") -> dict[str, Any]:
    version = each.version
    return {
        "name": version.name,
        "version": version.number,
        "aliases": list(each.aliases),
        "sae": version.sae.uri,
        "digest": version.sae.digest,
        "author": version.author,
        "created_at": version.created_at,
        "figures": dict(each.figures),
        "problem": each.problem,
    }


def _print(rows: "list[Registered]") -> None:
    """One line each; of a narrow terminal only the figures give way, as in the list of artifacts."""
    from rich.text import Text

    from mistudio.terminal import plain

    out = console()
    cells = [
        [str(row.version), ", ".join(row.aliases), row.version.sae.uri, row.version.created_at[:_DAY_CHARS]]
        for row in rows
    ]
    widths = [max((len(cell) for cell in column), default=0) for column in zip(*cells, strict=True)]
    for row, cell in zip(rows, cells, strict=True):
        shown = (f"{name.replace('_', ' ')} {row.figures[name]:.4g}" for name in _FIGURES if name in row.figures)
        padded = [text.ljust(width) for text, width in zip(cell, widths, strict=True)]
        line = "  ".join([*padded, row.version.author, row.problem or ", ".join(shown)])
        out.print(Text(plain(line)), no_wrap=True, overflow="ellipsis")
