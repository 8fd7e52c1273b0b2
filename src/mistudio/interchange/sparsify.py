"""sparsify (EleutherAI): ``cfg.json`` beside ``sae.safetensors``.

It has TopK alone. Its autoencoders subtract the decoder's bias from the input; its transcoders do not. Inputs
are as wide as outputs. The hook point is the name of the folder, as in ``layers.3`` or ``layers.3.mlp``.

Shape legend: D width, F features (latents).
"""

import json
import re
from pathlib import Path

from safetensors.torch import save_file

from mistudio.errors import ConfigError
from mistudio.interchange.weights import (
    Reading,
    build,
    file_in,
    flag,
    read_json,
    read_safetensors,
    read_with_bias_subtracted,
    refuse,
    refuse_unknown,
    take,
    weights_of,
    written_with_bias_subtracted,
)
from mistudio.plain_text import shortened
from mistudio.sae import SparseAutoencoder

NAME = "sparsify"
CONFIG_NAME, WEIGHTS_NAME = "cfg.json", "sae.safetensors"
FILES = (CONFIG_NAME, WEIGHTS_NAME)

_NAMES = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
_SKIP = {"W_skip": "W_skip"}
_KNOWN = (
    *("activation", "d_in", "k", "num_latents", "skip_connection", "transcode"),
    *("expansion_factor", "multi_topk", "normalize_decoder"),  # of training alone
)


def read(folder: Path) -> Reading:
    """The autoencoder in ``folder``.

    Raises:
        NotFound: a file is missing.
        InputError: a file is damaged.
        ConfigError: it is something that miStudio cannot hold.
    """
    config = read_json(file_in(folder, CONFIG_NAME, NAME))
    path = file_in(folder, WEIGHTS_NAME, NAME)
    activation = config.get("activation", "topk")
    if activation != "topk":
        message = f"{folder} holds an autoencoder with the activation {shortened(activation)}; miStudio has topk alone."
        raise ConfigError(message)
    refuse_unknown(config, _KNOWN, f"{folder}/{CONFIG_NAME}")
    has_skip = flag(config, "skip_connection", default=False, where=folder / CONFIG_NAME)
    weights = take(read_safetensors(path), _NAMES | _SKIP if has_skip else _NAMES, path, transposed="W_skip")
    settings = {"k": config.get("k", 32), "skip": "linear" if has_skip else "none"}
    sae = build("topk", settings, weights, path)
    if flag(config, "transcode", default=False, where=folder / CONFIG_NAME):
        return Reading(sae)
    return Reading(read_with_bias_subtracted(sae), _hook(folder))


def write(sae: SparseAutoencoder, folder: Path, hook: str, target_hook: str | None = None) -> None:
    """Write the files that ``SparseCoder.load_from_disk`` reads.

    Raises:
        ConfigError: sparsify has nothing of this kind.
    """
    form = sae.exported_as()
    if form is None or form.computes != "topk":
        message = f"The format {NAME} holds topk autoencoders alone, not {sae.config.architecture}."
        raise ConfigError(message)
    refuse(sae, NAME, target_hook, transcoder=sae.d_in == sae.d_out, linear_skip=True)
    transcode = target_hook is not None
    weights = weights_of(sae) if transcode else written_with_bias_subtracted(sae)
    has_skip = "W_skip" in weights
    if has_skip:
        weights["W_skip"] = weights["W_skip"].T.contiguous()
    names = _NAMES | _SKIP if has_skip else _NAMES
    config = {
        "activation": "topk",
        "d_in": sae.d_in,
        "k": sae.config.model_dump()["k"],
        "multi_topk": False,
        "normalize_decoder": True,  # as training holds them; reading changes nothing
        "num_latents": sae.width,
        "skip_connection": has_skip,
        "transcode": transcode,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file({theirs: weights[ours] for theirs, ours in names.items()}, folder / WEIGHTS_NAME)
    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _hook(folder: Path) -> str | None:
    """The hook point that a folder is named after: what a block, or its MLP, puts out."""
    match = re.fullmatch(r"(?:[\w.]*\.)?(?:layers|h)\.(\d+)(\.mlp)?", folder.resolve().name)
    return match and f"{'mlp_out' if match[2] else 'resid_post'}.{match[1]}"
