"""Import an autoencoder into the store as an artifact of kind ``sae``, and export one from it.

An imported autoencoder takes captured activations as its input, as a trained one does: evaluation and search
go through them to the corpus and the model. They also tell at once whether it belongs there.

Shape legend: N rows, D width of the input, E width of the output.
"""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mistudio.activations import ActivationReader, OrderedRows
from mistudio.artifacts import Artifact, Draft, Produced, Recipe, Store, Summary, hash_file, produce
from mistudio.errors import ConfigError, InputError, NotFound
from mistudio.interchange import dictionary_learning, gemma_scope, onnx, saelens, sparsify
from mistudio.interchange.weights import Reading, centred_input
from mistudio.paths import given_path
from mistudio.plain_text import shortened
from mistudio.sae import SparseAutoencoder, config_json, hook_of, load_autoencoder, save_weights, target_hook_of
from mistudio.sae.files import CONFIG_NAME, WEIGHTS_NAME

logger = logging.getLogger(__name__)

_SAMPLED_ROWS = 16_384
_RUN_ROWS = 16


class Format(NamedTuple):
    """How one format is read and written."""

    files: tuple[str, ...]
    read: Callable[[Path], Reading]
    write: Callable[[SparseAutoencoder, Path, str, str | None], None]


FORMATS = {
    module.NAME: Format(module.FILES, module.read, module.write)
    for module in (saelens, sparsify, gemma_scope, dictionary_learning)
}


def import_sae(
    store: Store,
    folder: Path,
    format_name: str,
    activations: Artifact,
    hook: str | None = None,
    target_hook: str | None = None,
) -> Produced:
    """Publish the autoencoder in ``folder`` as an artifact of kind ``sae``.

    Args:
        store: where to publish.
        folder: holds the files of the format.
        format_name: one of ``FORMATS``.
        activations: artifact of kind ``activations`` with the hook points, from the same model.
        hook: where the autoencoder reads; what its files say if None.
        target_hook: what a transcoder predicts; what its files say if None.

    Raises:
        NotFound: there is no such folder, or a file is missing.
        ConfigError: the format is unknown, the hook point is not known, or the widths are not those captured.
        InputError: a file is damaged, or the activations lack the hook point.
    """
    chosen = _format(format_name)
    folder = given_path(folder, "The autoencoder")
    if not folder.is_dir():
        message = f"There is no folder {folder} to import from."
        raise NotFound(message)
    reading = chosen.read(folder)
    hook, target_hook = hook or reading.hook, target_hook or reading.target_hook
    if hook is None:
        message = f"{folder} does not say which hook point the autoencoder reads: name it, for example resid_post.3."
        raise ConfigError(message)
    inputs_ND, targets_NE = _samples(activations, reading.sae, hook, target_hook)
    if reading.centred:
        reading = _centred(reading, inputs_ND, targets_NE)
    content: dict[str, Any] = {
        "imported_from": format_name,
        "files": {name: hash_file(folder / name) for name in chosen.files},
        "hook": hook,
        "target_hook": target_hook,
        "sae": reading.sae.config.model_dump(mode="json"),
    }
    if reading.centred:
        content["centred"] = True
    recipe = Recipe(kind="sae", config=content, inputs={"activations": activations.ref})

    def build(draft: Draft) -> Summary:
        variance = float(targets_NE.var(dim=0, correction=0).mean())
        fit = _fit(reading.sae, inputs_ND, targets_NE, variance)
        with draft.stage(WEIGHTS_NAME) as path:
            save_weights(reading.sae, path)
        draft.write(CONFIG_NAME, config_json(reading.sae, hook, max(variance**0.5, 1e-8), target_hook))
        return {
            "architecture": reading.sae.config.architecture,
            "imported_from": format_name,
            "hook": hook,
            "target_hook": target_hook,
            "d_in": reading.sae.d_in,
            "width": reading.sae.width,
            **fit,
        }

    return produce(store, recipe, "import", build)


def export_sae(artifact: Artifact, folder: Path, format_name: str, features: Sequence[int] = ()) -> list[Path]:
    """Write the autoencoder of an artifact of kind ``sae`` into ``folder``; return the files.

    Args:
        artifact: the autoencoder.
        folder: where to write.
        format_name: one of ``FORMATS``, or onnx.
        features: for onnx, latents that get a small encoder of their own.

    Raises:
        ConfigError: the format is unknown or cannot hold this autoencoder, or the folder has such files already.
        DamagedArtifact: a file of the artifact is not what was published.
    """
    folder = given_path(folder, "The export")
    if format_name == onnx.NAME:
        _check_free(folder, (onnx.ENCODE, onnx.DECODE, onnx.ENCODE_FEATURES))
        return onnx.write(_without_limit(artifact), folder, features)
    chosen = _format(format_name, onnx.NAME)
    if features:
        message = f"An encoder of chosen latents is written in the format {onnx.NAME} alone, not {format_name}."
        raise ConfigError(message)
    _check_free(folder, chosen.files)
    chosen.write(_without_limit(artifact), folder, hook_of(artifact), target_hook_of(artifact))
    return [folder / name for name in chosen.files]


def _without_limit(artifact: Artifact) -> SparseAutoencoder:
    """The autoencoder as other formats can hold it."""
    sae = load_autoencoder(artifact)
    filtered = artifact.manifest.summary.get("filtered_tokens")
    if filtered:
        logger.warning(
            "%s was trained without %s tokens beyond a norm limit (max_norm_ratio), which other formats cannot hold: "
            "what is written encodes such tokens too.",
            *(artifact.uri, f"{filtered:,}"),
        )
    sae.norm_limit = None
    return sae


def _check_free(folder: Path, names: Sequence[str]) -> None:
    """Refuse to write over what is there.

    Raises:
        ConfigError: there is something.
    """
    paths = [folder / name for name in names]
    taken = [path.name for path in paths if path.exists()]
    if taken or (folder.exists() and not folder.is_dir()):
        message = f"{folder} already has {', '.join(taken) or 'another use'}: choose an empty folder."
        raise ConfigError(message)


def _format(name: str, *others: str) -> Format:
    """The format of that name; ``others`` could have been named too."""
    if name not in FORMATS:
        message = f"Format {shortened(name)} is unknown: use one of {', '.join([*FORMATS, *others])}."
        raise ConfigError(message)
    return FORMATS[name]


def _samples(
    activations: Artifact, sae: SparseAutoencoder, hook: str, target_hook: str | None
) -> tuple[Tensor, Tensor]:
    """Rows of what the autoencoder reads and of what it reconstructs; the widths agree.

    They are of the training documents, or where only those held out are stored, of these: the model is not needed.
    """
    split = "train" if activations.manifest.config.get("stored", "all") == "all" else "heldout"
    rows = []
    for name, width in ((hook, sae.d_in), (target_hook or hook, sae.d_out)):
        reader = ActivationReader(activations, name, split)
        if reader.width != width:
            message = (
                f"The autoencoder is {width} wide where {activations.uri} has {reader.width} at {name}: "
                "it belongs to another model or hook point."
            )
            raise ConfigError(message)
        rows.append(_evenly_spaced(reader))
    return rows[0], rows[1]


def _evenly_spaced(reader: OrderedRows) -> Tensor:
    run = min(_RUN_ROWS, len(reader))
    places = min(_SAMPLED_ROWS, len(reader)) // run
    starts = [place * len(reader) // places for place in range(places)]
    return torch.cat([reader.acts(start, min(start + run, len(reader))) for start in starts]).float()


def _centred(reading: Reading, inputs_ND: Tensor, targets_NE: Tensor) -> Reading:
    """The autoencoder for the plain model, where the one that it was trained on may have been centred.

    TransformerLens centres models with LayerNorm alone and leaves others as they are, whatever it was told; which it
    was shows on the activations. The norm takes the mean out again, so that the model's predictions never depend on it.
    """
    variance = float(targets_NE.var(dim=0, correction=0).mean())
    folded = centred_input(reading.sae, keeps_mean=reading.target_hook is None)
    fits = (_fit(sae, inputs_ND, targets_NE, variance)["sample_fvu"] for sae in (reading.sae, folded))
    return reading._replace(sae=min(zip(fits, (reading.sae, folded), strict=True), key=lambda fit: fit[0])[1])


def _fit(sae: SparseAutoencoder, inputs_ND: Tensor, targets_NE: Tensor, variance: float) -> dict[str, float]:
    """How well it reconstructs a sample of what was captured; badly, if it belongs elsewhere.

    Raises:
        InputError: the reconstructions are not finite.
    """
    active = sae.encode_active(inputs_ND)
    error_NE = targets_NE - sae.decode_active(active, len(inputs_ND), inputs_ND)
    fvu = float(error_NE.square().mean()) / max(variance, 1e-12)
    if not math.isfinite(fvu):
        message = "The autoencoder's reconstructions are not finite: its weights are too large for these activations."
        raise InputError(message)
    if fvu > 1:
        logger.warning(
            "The autoencoder reconstructs these activations worse than their mean does (FVU %.2f): check that the "
            "model, the hook point and the scale of the activations are those that it was trained on",
            fvu,
        )
    return {"sample_fvu": round(fvu, 6), "sample_l0": round(len(active.value_A) / len(inputs_ND), 3)}
