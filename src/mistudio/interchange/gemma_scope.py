"""Gemma Scope: ``params.npz`` with W_enc [D, F], b_enc, W_dec [F, E], b_dec and threshold [F].

All are jumprelu, and nothing is subtracted from the input. A ReLU is a jumprelu with thresholds of 0, and
BatchTopK in use is one with equal thresholds, so these go out too. The hook point is found in the names of
the folders: ``gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71``.

Shape legend: D width of the input, E width of the output, F features (latents).
"""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mistudio.interchange.tensors import read_npz
from mistudio.interchange.weights import (
    Reading,
    build,
    file_in,
    log_thresholds,
    refuse,
    take,
    thresholds,
    weights_of,
)
from mistudio.sae import SparseAutoencoder

NAME = "gemma_scope"
WEIGHTS_NAME = "params.npz"
FILES = (WEIGHTS_NAME,)

_NAMES = {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec", "threshold": "log_threshold"}
_KINDS = {"res": "resid_post", "mlp": "mlp_out"}


def read(folder: Path) -> Reading:
    """The autoencoder in ``folder``.

    Raises:
        NotFound: there is no params.npz.
        InputError: it is damaged, or holds other arrays.
    """
    path = file_in(folder, WEIGHTS_NAME, NAME)
    weights = take(read_npz(path, _NAMES), _NAMES, path, transposed="W_enc")
    weights["log_threshold"] = log_thresholds(weights["log_threshold"])
    return Reading(build("jumprelu", {}, weights, path), _hook(folder))


def write(sae: SparseAutoencoder, folder: Path, hook: str, target_hook: str | None = None) -> None:
    """Write ``params.npz``.

    Raises:
        ConfigError: it is not a jumprelu, and cannot be written as one; or it has a skip.
    """
    refuse(sae, NAME, target_hook, transcoder=True, linear_skip=False)
    weights = {**weights_of(sae), "log_threshold": thresholds(sae, NAME)}
    weights["W_enc"] = weights["W_enc"].T.contiguous()
    arrays: dict[str, NDArray[np.float32]] = {theirs: weights[ours].numpy() for theirs, ours in _NAMES.items()}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / WEIGHTS_NAME).open("wb") as handle:
        np.savez(handle, allow_pickle=False, **arrays)


def _hook(folder: Path) -> str | None:
    """The hook point that the last folders name: what lies above a release may have any name."""
    found = re.search(r".*-(res|mlp)(?:/.*?layer_(\d+)|$)", folder.resolve().as_posix())
    return f"{_KINDS[found[1]]}.{found[2]}" if found and found[2] else None
