"""Which decoder directions point where a vector does: what look-ups ask, by an index or by brute force."""

from mistudio.artifacts import Artifact, open_input
from mistudio.correlate.decoder_rows import mapped_decoder
from mistudio.correlate.exact_index import ExactIndex
from mistudio.correlate.nearest import DirectionIndex, Nearest

KIND = "index"

__all__ = ["KIND", "DirectionIndex", "ExactIndex", "Nearest", "open_index"]


def open_index(artifact: Artifact) -> DirectionIndex:
    """The index of an artifact of kind ``index``, memory-mapped; every file is checked against the artifact's hashes.

    Raises:
        InputError: it is of another kind or version.
        NotFound: the autoencoder that it is an index of is gone.
        DamagedArtifact: a file is not what was published, or the autoencoder is another by now.
    """
    sae = open_input(artifact.store, artifact.manifest.inputs["sae"], "sae")
    return ExactIndex(mapped_decoder(sae))
