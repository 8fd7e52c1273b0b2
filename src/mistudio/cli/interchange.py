"""``mistudio import`` and ``mistudio export``: autoencoders, features and explanations in other tools' formats."""

from pathlib import Path
from typing import Annotated

import typer

from mistudio.cli.options import StoreOption
from mistudio.terminal import echo

_IMPORT_HELP = """Bring an autoencoder of another library into the store.

The formats are saelens, sparsify, gemma_scope and dictionary_learning. The captured activations have to come
from the model that the autoencoder was trained on, and to hold its hook point.

Examples:

    mistudio import sae downloads/sae --from saelens --activations activations/0123456789abcdef

    mistudio import sae layers.3 --from sparsify --activations activations/0123456789abcdef --hook resid_post.3
"""

_EXPORT_HELP = """Write an autoencoder in the format of another library.

The formats are saelens, sparsify, gemma_scope, dictionary_learning and, for devices without PyTorch, onnx.

Examples:

    mistudio export sae sae/0123456789abcdef shared/sae --to saelens

    mistudio export sae sae/0123456789abcdef device/sae --to onnx --features 17,2048
"""

_EXPORT_FEATURES_HELP = """Write found features in the format of another tool.

Their explanations and scores go with them. neuronpedia is the tree that Neuronpedia imports: FOLDER/v1/MODEL/SOURCE,
with explanations. neuronpedia-batch is what SAEDashboard writes for an upload: batches without explanations. jsonl and
parquet are our own tables: features, and explanations, labels and scores where they are given. Scores bring the
explanations that they are of. What features do in the model stands in the table of features.

Examples:

    mistudio export features shared --to neuronpedia --features features/01234567 --explanations explanations/89abcdef

    mistudio export features batches --to neuronpedia-batch --features features/01234567 --model-id pythia-70m

    mistudio export features tables --to jsonl --features features/01234567 --scores scores/89abcdef
"""

_IMPORT_EXPLANATIONS_HELP = """Bring explanations of others into the store.

They become those of found features. FILE is an export of Neuronpedia: .jsonl.gz, .jsonl or .json, or the folder
explanations of its tree. It has to be of the same autoencoder (mistudio import sae brings that). Score them as any
others, by scorers that ask a language model.

Examples:

    mistudio import explanations batch-0.jsonl.gz --from neuronpedia --features features/0123456789abcdef

    mistudio import explanations v1/gpt2-small/0-res-jb/explanations --features features/0123456789abcdef
"""

FromOption = Annotated[str, typer.Option("--from", help="One of the formats above.")]
FeaturesOption = Annotated[str, typer.Option(help="Found features, features/...")]
ToOption = Annotated[str, typer.Option("--to", help="One of the formats above.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    importing = typer.Typer(help="Bring in what other libraries made.", no_args_is_help=True)
    importing.command("sae", help=_IMPORT_HELP)(import_)
    importing.command("explanations", help=_IMPORT_EXPLANATIONS_HELP)(import_explanations)
    exporting = typer.Typer(help="Write for other libraries.", no_args_is_help=True)
    exporting.command("sae", help=_EXPORT_HELP)(export)
    exporting.command("features", help=_EXPORT_FEATURES_HELP)(export_features)
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
    from mistudio.artifacts import open_artifact, open_store, record_action
    from mistudio.interchange import import_sae

    opened = open_store(store)
    captured = open_artifact(opened, activations, "activations")
    artifact, found = import_sae(opened, folder, format_name, captured, hook or None, target_hook or None)
    if not found:
        record_action(opened, "publish", artifact.uri, artifact.digest, step="import sae")
    summary = artifact.manifest.summary
    echo(
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
    from mistudio.artifacts import open_artifact, open_to_read
    from mistudio.interchange import export_sae

    numbers = _numbers(features)
    paths = export_sae(open_artifact(open_to_read(store), sae, "sae"), folder, format_name, numbers)
    echo(f"Wrote {', '.join(map(str, paths))}.")


def import_explanations(
    file: Annotated[Path, typer.Argument(help="File of the export, or a folder of its files.")],
    features: FeaturesOption,
    format_name: FromOption = "neuronpedia",
    skip_unknown: Annotated[
        bool, typer.Option("--skip-unknown", help="Count explanations of features that there are not; do not refuse.")
    ] = False,
    store: StoreOption = "",
) -> None:
    """Import explanations."""
    from mistudio.artifacts import open_artifact, open_store, record_action
    from mistudio.exchange import import_explanations as publish

    opened = open_store(store)
    found = open_artifact(opened, features, "features")
    artifact, there = publish(opened, file, found, format_name, skip_unknown=skip_unknown)
    if not there:
        record_action(opened, "publish", artifact.uri, artifact.digest, step="import explanations")
    summary = artifact.manifest.summary
    echo(
        f"{'Found' if there else 'Imported'} {artifact.uri}: {summary['explained']:,} of {summary['features']:,} "
        f"features explained by {summary['explainers']}; {summary['unknown']} explanations of other features left out."
    )


def export_features(
    folder: Annotated[Path, typer.Argument(help="Folder to write to.")],
    features: FeaturesOption,
    format_name: ToOption,
    explanations: Annotated[str, typer.Option(help="Explanations of them, explanations/...")] = "",
    scores: Annotated[str, typer.Option(help="Scores of the explanations, scores/...")] = "",
    trials: Annotated[
        str,
        typer.Option(
            help="For jsonl and parquet: features tried after find, trials/...; none: what find has tried. [default: "
            "those of most features with find's settings]"
        ),
    ] = "",
    model_id: Annotated[
        str, typer.Option(help="Name of the model at Neuronpedia, for example gpt2-small. [default: its name here]")
    ] = "",
    source_set: Annotated[
        str, typer.Option(help="Name of the set of autoencoders, for example res-jb. [default: one of its own]")
    ] = "",
    creator: Annotated[str, typer.Option(help="Who made it.")] = "miStudio",
    store: StoreOption = "",
) -> None:
    """Export features."""
    from mistudio.artifacts import open_artifact, open_to_read
    from mistudio.exchange import export_features as write
    from mistudio.exchange import names_of
    from mistudio.exchange.export import WITH_EFFECTS
    from mistudio.features import fullest_trials

    opened = open_to_read(store)
    found = open_artifact(opened, features, "features")
    tried = open_artifact(opened, trials, "trials") if trials not in ("", "none") else None
    if not trials and format_name in WITH_EFFECTS:
        tried = fullest_trials(opened, found)
    exported = write(
        opened,
        found,
        folder,
        format_name,
        open_artifact(opened, explanations, "explanations") if explanations else None,
        open_artifact(opened, scores, "scores") if scores else None,
        names_of(model_id=model_id, source_set=source_set, creator=creator),
        tried,
    )
    counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in exported.rows.items())
    tried_in = "" if tried is None else f", with {tried.uri}"
    echo(f"Wrote {exported.folder}, {exported.num_files} files: {counts}{tried_in}.")


def _numbers(text: str) -> list[int]:
    from mistudio.errors import ConfigError
    from mistudio.plain_text import shortened

    try:
        return [int(number) for number in text.split(",") if number.strip()]
    except ValueError as error:
        message = f"--features {shortened(text)} are not numbers of latents: write them like 17,2048."
        raise ConfigError(message) from error
