"""``mistudio corpus``: keep corpora in the store."""

from pathlib import Path
from typing import Annotated

import typer

from mistudio.cli.options import StoreOption
from mistudio.terminal import console, echo

_ADD_HELP = """Copy a corpus into the store, after reading it to its end.

A corpus is a file, or a folder of files: .txt, .csv, .json, .jsonl or .parquet, one document a record.
The text column is found by its name (text, content, story, ...), or named by --text-column.

Examples:

    mistudio corpus add stories.jsonl

    mistudio corpus add reviews.csv --name films --text-column review --label-column stars
"""


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    corpus = typer.Typer(help="Keep corpora in the store, and list them.", no_args_is_help=True)
    corpus.command("add", help=_ADD_HELP)(add)
    corpus.command("list")(list_)
    corpus.command("remove")(remove)
    app.add_typer(corpus, name="corpus")


def add(
    path: Annotated[Path, typer.Argument(help="The file or folder to keep.")],
    name: Annotated[
        str | None, typer.Option(help="What to call it. [default: the file's name without its suffix]")
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="Column with the text.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column with the label of a document.")] = None,
    task_column: Annotated[str | None, typer.Option(help="Column with the task of a document.")] = None,
    store: StoreOption = "",
) -> None:
    """Copy a corpus into the store."""
    from mistudio.artifacts import open_store, record_action
    from mistudio.corpus.documents import Columns
    from mistudio.corpus.uploads import add_corpus, upload_name

    columns = Columns(text=text_column, label=label_column, task=task_column)
    opened = open_store(store)
    artifact, found = add_corpus(opened, path, name, columns)
    if not found:
        record_action(opened, "publish", artifact.uri, artifact.digest, step="corpus add")
    summary, added = artifact.manifest.summary, upload_name(artifact)
    echo(
        f"{'Found' if found else 'Added'} corpus {added}: {summary['documents']:,} documents, "
        f"{summary['text_bytes']:,} bytes of text. Use it by its name, for example --set corpus={added}."
    )


def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    store: StoreOption = "",
) -> None:
    """List the corpora in the store, and those that are built in.

    Example: mistudio corpus list --json
    """
    import json

    from rich.table import Table

    from mistudio.artifacts import open_if_there
    from mistudio.corpus.documents import BUILTIN_NAMES
    from mistudio.corpus.uploads import list_corpora, upload_name

    opened = open_if_there(store)
    uploads = list(list_corpora(opened)) if opened is not None else []
    if as_json:
        rows = [
            {"name": upload_name(upload), "uri": upload.uri, "digest": upload.digest, **upload.manifest.summary}
            for upload in uploads
        ]
        echo(json.dumps(rows, indent=1))
        return
    table = Table("Name", "Where", "Documents", "Text", "Size", "Added")
    for name in BUILTIN_NAMES:
        table.add_row(name, "built in", "", "", "", "")
    for upload in uploads:
        summary = upload.manifest.summary
        table.add_row(
            upload_name(upload),
            upload.uri,
            f"{summary['documents']:,}",
            f"{summary['text_bytes']:,} bytes",
            f"{upload.manifest.num_bytes:,} bytes",
            upload.manifest.created_at[:16].replace("T", " "),
        )
    console().print(table)


def remove(
    name: Annotated[str, typer.Argument(help="The name that it was added under.")],
    store: StoreOption = "",
) -> None:
    """Remove a corpus from the store; what was made from it stays.

    Example: mistudio corpus remove films
    """
    from mistudio.artifacts import open_store, record_action
    from mistudio.corpus.uploads import remove_corpus

    opened = open_store(store)
    remove_corpus(opened, name)
    record_action(opened, "remove", name, what="corpus")
    echo(f"Removed corpus {name}.")
