"""The decoder of an autoencoder's artifact, mapped into memory and not read.

Shape legend: F features, D width of the decoder's rows.
"""

import numpy as np
from numpy.typing import NDArray

from mistudio.artifacts import Artifact
from mistudio.errors import DamagedArtifact

_DECODER = "W_dec"


def mapped_decoder(sae: Artifact) -> NDArray[np.float32]:
    """The decoder's rows [F, D], as they lie in the file: only what is looked at is read.

    Raises:
        DamagedArtifact: a file is not what was published, or holds no decoder.
    """
    return mapped_weights(sae, _DECODER)


def mapped_weights(sae: Artifact, name: str) -> NDArray[np.float32]:
    """One matrix of an autoencoder's weights, mapped.

    Raises:
        DamagedArtifact: a file is not what was published, or holds no such matrix in float32.
    """
    from safetensors import SafetensorError, safe_open

    from mistudio.sae.files import WEIGHTS_NAME

    try:
        # With PyTorch tensors are views of the mapped file; with NumPy they would be copies.
        with safe_open(sae.file(WEIGHTS_NAME), framework="pt") as weights:
            found: NDArray[np.float32] = weights.get_tensor(name).numpy()
    except SafetensorError as error:
        message = f"{sae.uri}/{WEIGHTS_NAME} holds no {name} that can be read: {error}"
        raise DamagedArtifact(message) from error
    if found.dtype != np.float32 or found.ndim != 2:
        message = f"{sae.uri}/{WEIGHTS_NAME} holds {name} as {found.dtype} {list(found.shape)}, not float32 in rows."
        raise DamagedArtifact(message)
    found.flags.writeable = False
    return found
