"""``mistudio preset``: edits under names."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mistudio.cli.options import AuthorOption, StoreOption, user_name
from mistudio.terminal import echo

if TYPE_CHECKING:
    from mistudio.artifacts import Store
    from mistudio.steer.preset_store import SavedPreset
    from mistudio.steer.presets import Preset

_SAVE_HELP = """Keep edits under a name that requests can use.

FILE is a preset: JSON that states of each edit its hook point, operation and unit, and the digests of the model and of
each autoencoder and direction. With --sae or --direction it is the steering part of a request, and what a preset states
beyond that is filled in from them. A name that stands for something already stands for this from now on; what it stood
for stays on record.

Examples:

    mistudio preset save calm.json

    mistudio preset save steering.json --name calm --sae sae/0123456789abcdef --notes "Less excitement."
"""
_DATE_CHARS = 10

NameArgument = Annotated[str, typer.Argument(help="Name of the preset.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    preset = typer.Typer(help="Keep edits under names, and list them.", no_args_is_help=True)
    preset.command("save", help=_SAVE_HELP)(save)
    preset.command("list")(list_)
    preset.command("show")(show)
    preset.command("history")(history)
    preset.command("remove")(remove)
    app.add_typer(preset, name="preset")


def save(
    file: Annotated[Path, typer.Argument(help="JSON file with the preset, or with the steering part of a request.")],
    name: Annotated[str, typer.Option(help="What to call it. [default: as the file says, else its name]")] = "",
    author: AuthorOption = "",
    notes: Annotated[str, typer.Option(help="What it is for, and what it does beside.")] = "",
    sae: Annotated[
        list[str] | None, typer.Option(help="Autoencoder that edits name, sae/...; may be repeated.")
    ] = None,
    direction: Annotated[
        list[str] | None, typer.Option(help="Direction that edits name, by name or direction/...; may be repeated.")
    ] = None,
    store: StoreOption = "",
) -> None:
    """Keep edits under a name."""
    from mistudio.artifacts import open_store, record_action
    from mistudio.steer.preset_store import save_preset

    opened = open_store(store)
    content = _object_in(file)
    if sae or direction:
        preset = _made(opened, content, name or file.stem, author, notes, (sae or [], direction or []))
    else:
        preset = _as_given(content, str(file), {"name": name, "author": author, "notes": notes})
    saved = save_preset(opened, preset)
    if saved.is_new:
        record_action(
            opened, "preset", saved.artifact.uri, saved.artifact.digest, name=preset.name, author=preset.author
        )
    is_new = "is" if saved.is_new else "was already"
    echo(f"preset {preset.name} {is_new} {saved.artifact.uri} ({saved.reference.number}).")


def list_(as_json: JsonOption = False, store: StoreOption = "") -> None:
    """List the presets.

    Example: mistudio preset list
    """
    import json

    from mistudio.artifacts import open_to_read
    from mistudio.steer.preset_store import list_presets

    opened = open_to_read(store)
    found = list(list_presets(opened))
    if as_json:
        echo(json.dumps([_row(each) for each in found], indent=1))
        return
    if not found:
        echo(f"The store {opened.url} holds no preset yet.", err=True)
    for row in map(_row, found):
        date = row["created_at"][:_DATE_CHARS]
        echo(f"{row['name']}  {row['uri']}  {date}  {row['author']}  {row['edits']} edits at {', '.join(row['hooks'])}")


def show(name: NameArgument, store: StoreOption = "") -> None:
    """Print a preset as its file has it.

    Example: mistudio preset show calm
    """
    import json

    from mistudio.artifacts import open_to_read
    from mistudio.steer.preset_store import open_preset

    echo(json.dumps(open_preset(open_to_read(store), name).content(), indent=1))


def history(name: NameArgument, as_json: JsonOption = False, store: StoreOption = "") -> None:
    """List all that a preset's name has stood for.

    Example: mistudio preset history calm
    """
    import json

    from mistudio.artifacts import open_to_read
    from mistudio.steer.preset_store import preset_history

    found = preset_history(open_to_read(store), name)
    if as_json:
        echo(json.dumps([{"number": each.number, **each.target.model_dump()} for each in found], indent=1))
        return
    for each in found:
        target = each.target
        echo(f"{each.number}  {target.created_at[:_DATE_CHARS]}  {target.author}  {target.uri or 'removed'}")


def remove(name: NameArgument, author: AuthorOption = "", store: StoreOption = "") -> None:
    """Let a name stand for no preset any more.

    What it stood for stays in the store, and on record.

    Example: mistudio preset remove calm
    """
    from mistudio.artifacts import open_store, record_action
    from mistudio.steer.preset_store import remove_preset

    opened = open_store(store)
    removed = remove_preset(opened, name, author or user_name())
    record_action(opened, "remove", name, what="preset", author=removed.target.author)
    echo(f"preset {name} stands for nothing any more ({removed.number}).")


def _object_in(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: there is none.
    """
    from mistudio.errors import InputError
    from mistudio.guarded_json import RefusedJSON, parse_json_file
    from mistudio.paths import given_path
    from mistudio.plain_text import shortened

    path = given_path(file, "a preset")
    if not path.is_file():
        message = f"There is no file {shortened(str(file))}."
        raise InputError(message)
    try:
        content = parse_json_file(path)
    except (RefusedJSON, OSError) as error:
        message = f"{shortened(str(file))} cannot be read as JSON: {error}."
        raise InputError(message) from error
    if not isinstance(content, dict):
        message = f"{shortened(str(file))} holds no object: write a preset, or the steering part of a request."
        raise InputError(message)
    return content


def _as_given(content: dict[str, Any], origin: str, changed: dict[str, str]) -> "Preset":
    from mistudio.steer.presets import checked_preset

    return checked_preset({**content, **{name: value for name, value in changed.items() if value}}, origin)


def _made(
    store: "Store", content: dict[str, Any], name: str, author: str, notes: str, given: tuple[list[str], list[str]]
) -> "Preset":
    """The preset of a request's edits, with the autoencoders and directions that were given."""
    from mistudio.artifacts import open_artifact
    from mistudio.directions.artifact import find_direction
    from mistudio.errors import ConfigError
    from mistudio.instrument.edits import Edits
    from mistudio.settings import validated
    from mistudio.steer.preset_use import make_preset, parts_in_store
    from mistudio.steer.requests import Steering

    asked = validated(Steering, content)
    if asked.preset is not None:
        message = f"preset: no preset stands on another: write out the edits of {asked.preset}."
        raise ConfigError(message)
    saes, directions = given
    parts = parts_in_store(
        [open_artifact(store, uri, "sae") for uri in saes], [find_direction(store, each) for each in directions]
    )
    edits = Edits(edits=asked.edits, stop_when=asked.stop_when)
    return make_preset(name, author or user_name(), edits, parts, notes)


def _row(saved: "SavedPreset") -> dict[str, Any]:
    """One line of the list."""
    preset, reference = saved.preset, saved.reference
    return {
        "name": reference.name,
        "number": reference.number,
        "uri": saved.artifact.uri,
        "digest": saved.artifact.digest,
        "author": reference.target.author,
        "created_at": reference.target.created_at,
        "edits": len(preset.placed),
        "hooks": list(dict.fromkeys(each.hook for each in preset.placed)),
        "notes": preset.notes,
        "ship_range": preset.ship_range,
    }
