"""``mistudio artifacts``: what the store holds, what it was made from, and whether it is still whole."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal

from mistudio.artifacts.kinds import KINDS
from mistudio.cli.options import AuthorOption, StoreOption, user_name
from mistudio.terminal import console, echo, plain

if TYPE_CHECKING:
    from rich.table import Table
    from rich.tree import Tree

    from mistudio.artifacts import Artifact, Entry, Store
    from mistudio.errors import DamagedArtifact

_LATEST_HELP = f"""Print the prefix of the newest artifact of a kind.

Kinds are {", ".join(KINDS)}.

Examples:

    mistudio evaluate --sae $(mistudio artifacts latest sae)

    ls $(mistudio artifacts latest report --path)
"""
_VERIFY_HELP = """Check artifacts: hash every file again, name what is damaged.

Named is each that is not what was published. Checked are also links and files that no manifest lists, the settings
against the prefix, and the digest against what was made from the artifact and the names that it was given. Figures of
an artifact that nothing was made from can be edited without a trace, unless manifests are signed: with a key in
MISTUDIO_SIGNING_KEY, steps sign what they publish, and verify wants each signature.

Exits with 0 if all is well, and with 2 and what is wrong if not.

Examples:

    mistudio artifacts verify

    mistudio artifacts verify sae/0123456789abcdef
"""
_SIGN_HELP = """Sign artifacts with the key in MISTUDIO_SIGNING_KEY.

Those are artifacts that no step signed. Each is checked first. Give the prefixes of those that you trust: a signature
says that you do.

Example: mistudio artifacts sign sae/0123456789abcdef
"""
_CLEAN_HELP = """Drop what killed processes left and nothing goes on with.

That is what published artifacts were made with, and files that were half written. What an unfinished step has done
stays: running it again goes on.

Example: mistudio artifacts clean
"""
_FIGURES_SHOWN = 3
# Of a summary's numbers, those that tell artifacts apart, the most telling first; all others come after them.
_TELLING = (
    *("ce_recovered", "explained_variance", "l0", "interpretable", "explained", "features", "width"),
    *("train_fvu", "train_l0", "tokens", "train_tokens", "documents"),
)
_UNPROVED_SHOWN = 10
_FILES_SHOWN = 30
_DIGITS_SHOWN = 12
_DATE_CHARS = 10
_STATES = {
    "stored": "in the store",
    "outside": "outside the store",
    "gone": "no longer in the store",
    "damaged": "damaged",
    "replaced": "replaced by another",
}

UriArgument = Annotated[str, typer.Argument(help="Prefix of the artifact, as list shows it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    artifacts = typer.Typer(help="List, show, name, verify and remove what was published.", no_args_is_help=True)
    artifacts.command("list")(list_)
    artifacts.command("latest", help=_LATEST_HELP)(latest)
    artifacts.command("show")(show)
    artifacts.command("verify", help=_VERIFY_HELP)(verify)
    artifacts.command("sign", help=_SIGN_HELP)(sign)
    artifacts.command("remove")(remove)
    artifacts.command("clean", help=_CLEAN_HELP)(clean)
    artifacts.command("name")(name_)
    artifacts.command("refs")(refs)
    app.add_typer(artifacts, name="artifacts")


def list_(
    kind: Annotated[str | None, typer.Option(help="Only artifacts of this kind, for example sae.")] = None,
    as_json: JsonOption = False,
    store: StoreOption = "",
) -> None:
    """List the artifacts in the store.

    Example: mistudio artifacts list --kind sae
    """
    import json

    from rich.text import Text

    from mistudio.artifacts import Catalog, open_to_read

    out = console()
    opened = open_to_read(store)
    rows = [_row(entry) for entry in Catalog(opened).entries(kind)]
    if as_json:
        echo(json.dumps(rows, indent=1))
        return
    if not rows:
        echo(f"The store {opened.url} holds {f'nothing of kind {kind}' if kind else 'nothing yet'}.", err=True)
    # Of a narrow terminal, only the figures give way: the rest is there to be copied.
    width = max((len(row["uri"]) for row in rows), default=0)
    for row in rows:
        figures = row["damage"] or _figures(row["summary"])
        line = f"{row['uri']:<{width}}  {row['created_at'][:_DATE_CHARS]}  {decimal(row['bytes']):>10}  {figures}"
        out.print(Text(plain(line)), no_wrap=True, overflow="ellipsis")


def latest(
    kind: Annotated[str, typer.Argument(help="Kind of artifact, for example sae.")],
    as_json: JsonOption = False,
    as_path: Annotated[bool, typer.Option("--path", help="Print the folder that it lies in instead.")] = False,
    store: StoreOption = "",
) -> None:
    """Print the prefix of the newest artifact of a kind."""
    import json

    from mistudio.artifacts import Catalog, Entry, open_to_read
    from mistudio.errors import NotFound
    from mistudio.plain_text import shortened

    try:
        newest = Catalog(open_to_read(store)).latest(kind)
    except NotFound as error:
        if kind in KINDS:
            raise
        message = f"There is no kind {shortened(kind)}; there is {', '.join(KINDS)}."
        raise NotFound(message) from error
    if as_json:
        echo(json.dumps(_row(Entry.of(newest.uri, newest.manifest)), indent=1))
    else:
        echo(str(newest.folder()) if as_path else newest.uri)


def show(uri: UriArgument, as_json: JsonOption = False, store: StoreOption = "") -> None:
    """Show an artifact: manifest, what it was made from, and files.

    Example: mistudio artifacts show sae/0123456789abcdef
    """
    import json

    from mistudio.artifacts import open_artifact, open_to_read

    opened = open_to_read(store)
    artifact = open_artifact(opened, uri)
    lineage = _lineage(opened, artifact)
    if as_json:
        content = artifact.manifest.model_dump(mode="json")
        echo(json.dumps({"uri": artifact.uri, "digest": artifact.digest, **content, "lineage": lineage}, indent=1))
        return
    _print(_facts(artifact))
    _print(_tree(artifact.uri, lineage))
    _print(_files(artifact))


def verify(
    uris: Annotated[list[str] | None, typer.Argument(help="Prefixes to verify. [default: all artifacts]")] = None,
    store: StoreOption = "",
) -> None:
    """Check artifacts: hash every file again, and name each that is not what was published."""
    from mistudio.artifacts import open_to_read
    from mistudio.artifacts import verify as verified
    from mistudio.errors import DamagedArtifact

    verdicts = []
    for verdict in verified(open_to_read(store), uris or None):
        state = "damaged" if verdict.problems else "unsigned" if verdict.is_unsigned else "ok"
        echo(f"{state:<8} {verdict.uri}")
        verdicts.append(verdict)
    damaged = [verdict for verdict in verdicts if verdict.problems]
    if damaged:
        listed = "".join(f"\n  {problem}" for verdict in damaged for problem in verdict.problems)
        message = (
            f"{len(damaged)} of {len(verdicts)} artifacts are damaged:{listed}\n"
            "Remove each (mistudio artifacts remove URI), then run its step again."
        )
        raise DamagedArtifact(message)
    unsigned = [verdict.uri for verdict in verdicts if verdict.is_unsigned]
    if unsigned:
        message = (
            f"{len(unsigned)} of {len(verdicts)} artifacts are not signed, which this process has a key for. "
            "Sign those that you trust all the same (mistudio artifacts sign URI)."
        )
        raise DamagedArtifact(message)
    echo(f"All {len(verdicts)} artifacts are whole: files, prefixes and digests fit together.")
    _tell_unproved([verdict.uri for verdict in verdicts if verdict.proof == "none"])


def sign(uris: Annotated[list[str], typer.Argument(help="Prefixes to sign.")], store: StoreOption = "") -> None:
    """Sign artifacts with the key in MISTUDIO_SIGNING_KEY."""
    from mistudio.artifacts import open_artifact, open_store, record_action
    from mistudio.artifacts import sign as sign_artifact

    opened = open_store(store)
    for uri in uris:
        sign_artifact(opened, uri)
        record_action(opened, "sign", uri.strip("/"), open_artifact(opened, uri).digest)
        echo(f"signed   {uri.strip('/')}")


def clean(store: StoreOption = "") -> None:
    """Drop what killed processes left and nothing goes on with."""
    from mistudio.artifacts import open_store, tidy_store

    num_files = tidy_store(open_store(store))
    echo(f"Removed {num_files:,} file{'' if num_files == 1 else 's'} that nothing needs.")


def _tell_unproved(uris: list[str]) -> None:
    """Say of which artifacts nothing but their own manifest says what it says."""
    if not uris:
        return
    more = f" and {len(uris) - _UNPROVED_SHOWN} more" if len(uris) > _UNPROVED_SHOWN else ""
    echo(
        f"Of {len(uris)} nothing proves that the figures are those that were published, since nothing was made from "
        f"them and no signature was checked: {', '.join(uris[:_UNPROVED_SHOWN])}{more}."
    )


def remove(
    uri: UriArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Remove it although others were made from it.")] = False,
    store: StoreOption = "",
) -> None:
    """Remove an artifact from the store, whole or damaged.

    Example: mistudio artifacts remove sae/0123456789abcdef
    """
    from mistudio.artifacts import Catalog, open_store, record_action, remove_artifact
    from mistudio.errors import DamagedArtifact, InputError

    opened = open_store(store)
    artifact = _open(opened, uri)
    uri = uri.strip("/")
    users = Catalog(opened).dependents(uri)
    if users and not force:
        message = f"{uri} is an input of {', '.join(users)}. Remove those first, or add --force."
        raise InputError(message)
    what = "damaged" if isinstance(artifact, DamagedArtifact) else decimal(artifact.manifest.num_bytes)
    if not yes:
        typer.confirm(f"Remove {uri} ({what})?", abort=True)
    remove_artifact(opened, uri)
    record_action(opened, "remove", uri, None if isinstance(artifact, DamagedArtifact) else artifact.digest)
    echo(f"Removed {uri} ({what}).")


def name_(
    uri: UriArgument,
    name: Annotated[str, typer.Argument(help="What to call it, for example champion.")],
    author: AuthorOption = "",
    store: StoreOption = "",
) -> None:
    """Give an artifact a name, such as champion.

    It may have stood for another of its kind before; every change is kept.

    Example: mistudio artifacts name sae/0123456789abcdef champion
    """
    from mistudio.artifacts import add_reference, open_artifact, open_store, record_action

    opened = open_store(store)
    artifact = open_artifact(opened, uri)
    added = add_reference(opened, artifact.manifest.short_kind, name, artifact, author or user_name())
    record_action(opened, "name", artifact.uri, artifact.digest, name=name, author=added.target.author)
    echo(f"{added.kind} {added.name} is {artifact.uri} ({added.number}).")


def refs(
    kind: Annotated[str | None, typer.Option(help="Only names of this kind, for example sae.")] = None,
    as_json: JsonOption = False,
    store: StoreOption = "",
) -> None:
    """List the names that were given, and what each stands for.

    Example: mistudio artifacts refs --kind sae
    """
    import json

    from mistudio.artifacts import open_to_read, references

    rows = [
        {"kind": each.kind, "name": each.name, "number": each.number, **each.target.model_dump()}
        for each in references(open_to_read(store), kind)
    ]
    if as_json:
        echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        echo(f"{row['kind']}  {row['name']}  {row['uri']}  {row['created_at'][:_DATE_CHARS]}  {row['author']}")


def _open(store: "Store", uri: str) -> "Artifact | DamagedArtifact":
    """The artifact, or the error that says why its manifest cannot be read."""
    from mistudio.artifacts import open_artifact
    from mistudio.errors import DamagedArtifact

    try:
        return open_artifact(store, uri)
    except DamagedArtifact as error:
        return error


def _row(entry: "Entry") -> dict[str, Any]:
    """One line of the list; of a damaged manifest nothing is known but where it is."""
    return {
        "uri": entry.uri,
        "kind": entry.short_kind,
        **({"digest": entry.digest} if entry.damage is None else {}),
        "created_at": entry.created_at,
        "bytes": entry.num_bytes,
        "summary": entry.summary,
        "damage": entry.damage,
    }


def _figures(summary: dict[str, Any]) -> str:
    """The few most telling numbers of a summary."""
    numbers = {name: value for name, value in summary.items() if isinstance(value, int | float)}
    telling = [name for name in _TELLING if name in numbers]
    shown = [*telling, *(name for name in numbers if name not in telling)][:_FIGURES_SHOWN]
    return ", ".join(f"{name.replace('_', ' ')} {_shown(numbers[name])}" for name in shown)


def _facts(artifact: "Artifact") -> "Table":
    manifest, producer = artifact.manifest, artifact.manifest.producer
    table = _table(artifact.uri, "")
    table.add_row("kind", manifest.kind)
    table.add_row("digest", artifact.digest)
    table.add_row("created", f"{manifest.created_at} by {producer.step}, mistudio {producer.version}")
    if producer.git_commit or producer.image:
        table.add_row("code", " ".join(filter(None, (producer.git_commit, producer.image))))
    if producer.seconds is not None:
        table.add_row("took", f"{producer.seconds:,.1f} s")
    table.add_row("size", f"{decimal(manifest.num_bytes)} in {len(manifest.files):,} files")
    for title, rows in (("summary", manifest.summary), ("config", {**manifest.config, "seed": manifest.seed})):
        table.add_section()
        for name, value in rows.items():
            table.add_row(f"{title}: {name}", _shown(value) if title == "summary" else str(value))
    return table


def _lineage(store: "Store", artifact: "Artifact") -> dict[str, Any]:
    """Each input by its role: where it is, whether it is still there, and its own inputs."""
    from mistudio.artifacts import ancestry

    graph = ancestry(store, {"": artifact})

    def inputs(key: str) -> dict[str, Any]:
        return {
            role: {
                "uri": node.ref.uri,
                "digest": node.ref.digest,
                "state": _STATES[node.state],
                "inputs": inputs(node.key),
            }
            for role, node in graph.inputs(key)
        }

    return inputs(next(reversed(graph.nodes)))


def _tree(title: str, lineage: dict[str, Any]) -> "Tree":
    from rich.tree import Tree

    def grow(branch: Tree, inputs: dict[str, Any]) -> None:
        for role, node in inputs.items():
            text = f"{role}: {node['uri']}  {node['digest'][:_DIGITS_SHOWN]}  {node['state']}"
            grow(branch.add(text), node["inputs"])

    tree = Tree(f"What {title} was made from")
    grow(tree, lineage)
    return tree


def _files(artifact: "Artifact") -> "Table":
    files = artifact.manifest.files
    table = _table("File", "Size", "sha256")
    for entry in files[:_FILES_SHOWN]:
        table.add_row(entry.path, decimal(entry.bytes), entry.sha256[:_DIGITS_SHOWN])
    if len(files) > _FILES_SHOWN:
        table.add_row(f"and {len(files) - _FILES_SHOWN:,} more; --json lists all", "", "")
    return table


def _table(*columns: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    *short, last = columns
    for column in short:
        table.add_column(column, no_wrap=True)
    table.add_column(last, overflow="fold")
    return table


def _print(shown: "Table | Tree") -> None:
    console().print(shown)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
