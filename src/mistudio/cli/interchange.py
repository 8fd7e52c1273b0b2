"""``mistudio import`` and ``mistudio export``: autoencoders in other libraries' formats."""

from pathlib import Path
from typing import Annotated

import typer

_IMPORT_HELP = """Bring an autoencoder of another library into the store.

The formats are saelens, sparsify, gemma_scope and dictionary_learning. The captured activations have to come
from the model that the autoencoder was trained on, and to hold its hook point.

Examples:

    mistudio import sae downloads/sae --from saelens --activations activations/0123456789abcdef

    mistudio import sae layers.3 --from sparsify --activations activations/0123456789abcdef --hook resid_post.3
"""

_EXPORT_HELP = """Write an autoencoder of the store in the format of another library.

The formats are saelens, sparsify, gemma_scope, dictionary_learning and, for devices without PyTorch, onnx.

Examples:

    mistudio export sae sae/0123456789abcdef shared/sae --to saelens

    mistudio export sae sae/0123456789abcdef device/sae --to onnx --features 17,2048
"""

FromOption = Annotated[str, typer.Option("--from", help="One of the formats above.")]
ToOption = Annotated[str, typer.Option("--to", help="One of the formats above.")]
StoreOption = Annotated[
    str, typer.Option("--store", help="Folder of the store. [default: MISTUDIO_STORE, or the user's data folder]")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    importing = typer.Typer(help="Bring in what other libraries made.", no_args_is_help=True)
    importing.command("sae", help=_IMPORT_HELP)(import_)
    exporting = typer.Typer(help="Write for other libraries.", no_args_is_help=True)
    exporting.command("sae", help=_EXPORT_HELP)(export)
    app.add_typer(importing, name="import")
    app.add_typer(exporting, name="export")


def import_(
    folder: Annotated[Path, typer.Argument(help="Folder with the files of the autoencoder.")],
    format_name: FromOption,
    activations: Annotated[str, typer.Option(help="Captured activations, activations/...")],
    hook: Annotated[
        str, typer.Option(help="Hook point that it reads, for example resid_post.3. [default: what its files say]")
    ] = "",
    target_hook: Annotated[
        str, typer.Option(help="Hook point that a transcoder predicts. [default: what its files say]")
    ] = "",
    store: StoreOption = "",
) -> None:
    """Import an autoencoder."""
    from mistudio.artifacts import open_artifact, open_store
    from mistudio.interchange import import_sae

    opened = open_store(store)
    captured = open_artifact(opened, activations, "activations")
    artifact, found = import_sae(opened, folder, format_name, captured, hook or None, target_hook or None)
    summary = artifact.manifest.summary
    typer.echo(
        f"{'Found' if found else 'Imported'} {artifact.uri}: {summary['architecture']} of width {summary['width']:,} "
        f"at {summary['hook']}; on a sample of the activations FVU {summary['sample_fvu']:.3f}, "
        f"L0 {summary['sample_l0']:.1f}."
    )


def export(
    sae: Annotated[str, typer.Argument(help="The autoencoder, sae/...")],
    folder: Annotated[Path, typer.Argument(help="Folder to write to.")],
    format_name: ToOption,
    features: Annotated[
        str, typer.Option(help="For onnx: latents that get a small encoder of their own, for example 17,2048.")
    ] = "",
    store: StoreOption = "",
) -> None:
    """Export an autoencoder."""
    from mistudio.artifacts import open_artifact, open_store
    from mistudio.interchange import export_sae

    numbers = _numbers(features)
    paths = export_sae(open_artifact(open_store(store), sae, "sae"), folder, format_name, numbers)
    typer.echo(f"Wrote {', '.join(map(str, paths))}.")


def _numbers(text: str) -> list[int]:
    from mistudio.errors import ConfigError

    try:
        return [int(number) for number in text.split(",") if number.strip()]
    except ValueError as error:
        message = f"--features {text!r} are not numbers of latents: write them like 17,2048."
        raise ConfigError(message) from error
