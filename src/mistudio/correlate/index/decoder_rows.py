"""The weights of an autoencoder's artifact, mapped into memory: only what is looked at is read.

Shape legend: F features, D width of the decoder's rows, R rows of a block.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mistudio.artifacts import Artifact
from mistudio.errors import DamagedArtifact

_DECODER, _ENCODER = "W_dec", "W_enc"
_BLOCK_BYTES = 1 << 24


def mapped_decoder(sae: Artifact) -> NDArray[np.float32]:
    """The decoder's rows [F, D], as they lie in the file.

    Raises:
        DamagedArtifact: a file is not what was published, or holds no decoder.
    """
    return _mapped(sae, _DECODER)


def mapped_encoder(sae: Artifact) -> NDArray[np.float32]:
    """The encoder's rows [F, width of its input], as they lie in the file.

    Raises:
        DamagedArtifact: a file is not what was published, or holds no encoder.
    """
    return _mapped(sae, _ENCODER)


def unit_blocks(decoder_FD: NDArray[np.float32], scale_F: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """The rows in blocks [R, D], each row times its scale."""
    rows = max(_BLOCK_BYTES // (4 * decoder_FD.shape[1]), 1)
    for start in range(0, len(decoder_FD), rows):
        yield decoder_FD[start : start + rows] * scale_F[start : start + rows, None]


def scales(decoder_FD: NDArray[np.float32]) -> NDArray[np.float32]:
    """One divided by the length of each row [F]; 0 for a row that is zero.

    Raises:
        DamagedArtifact: a row holds a value that is no finite number.
    """
    rows = max(_BLOCK_BYTES // (4 * decoder_FD.shape[1]), 1)
    length_F = np.empty(len(decoder_FD))
    for start in range(0, len(decoder_FD), rows):
        length_F[start : start + rows] = np.linalg.norm(decoder_FD[start : start + rows].astype(np.float64), axis=1)
    if not np.isfinite(length_F).all():
        message = (
            f"Decoder row {int(np.flatnonzero(~np.isfinite(length_F))[0])} holds a value that is no finite number: the "
            "autoencoder cannot be searched. Train it again."
        )
        raise DamagedArtifact(message)
    with np.errstate(over="ignore"):
        scale_F = np.divide(1, length_F, out=np.zeros_like(length_F), where=length_F > 0).astype(np.float32)
    scale_F[~np.isfinite(scale_F)] = 0  # rows so short that they are as good as zero
    return scale_F


def _mapped(sae: Artifact, name: str) -> NDArray[np.float32]:
    from safetensors import SafetensorError, safe_open

    from mistudio.sae.files import WEIGHTS_NAME

    try:
        # With PyTorch tensors are views of the mapped file, which writing would not reach; with NumPy they are copies.
        with safe_open(sae.file(WEIGHTS_NAME), framework="pt") as weights:
            found: NDArray[np.float32] = weights.get_tensor(name).numpy()
    except SafetensorError as error:
        message = f"{sae.uri}/{WEIGHTS_NAME} holds no {name} that can be read: {error}"
        raise DamagedArtifact(message) from error
    if found.dtype != np.float32 or found.ndim != 2 or not found.size:
        message = f"{sae.uri}/{WEIGHTS_NAME} holds {name} as {found.dtype} {list(found.shape)}, not float32 in rows."
        raise DamagedArtifact(message)
    return found
