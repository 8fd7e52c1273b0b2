"""Which decoder directions point where a vector does: what look-ups ask, by an index or by brute force."""

from mistudio.artifacts import Artifact, open_input
from mistudio.correlate.index.decoder_rows import mapped_decoder
from mistudio.correlate.index.exact_index import ExactIndex
from mistudio.correlate.index.files import FAISS_NAME, KIND, read_record, read_scales
from mistudio.correlate.index.nearest import DirectionIndex, Nearest
from mistudio.errors import DamagedArtifact, InputError

__all__ = ["KIND", "DirectionIndex", "ExactIndex", "Nearest", "open_index"]


def open_index(artifact: Artifact) -> DirectionIndex:
    """The index of an artifact of kind ``index``; every file is checked against the artifact's hashes.

    The decoder is mapped into memory, and so is what a graph has. Codes are read: a sixteenth of the decoder's bytes.

    Raises:
        InputError: it is no index.
        NotFound: the autoencoder that it is an index of is gone.
        DamagedArtifact: a file is not what was published, or the autoencoder is another by now.
        ConfigError: it is not flat, and faiss is not installed.
    """
    ref = artifact.manifest.inputs.get("sae")
    if artifact.manifest.short_kind != KIND or ref is None:
        message = f"{artifact.uri} is of kind {artifact.manifest.kind}, and no index of directions."
        raise InputError(message)
    record = read_record(artifact)
    decoder_FD = mapped_decoder(open_input(artifact.store, ref, "sae"))
    if decoder_FD.shape != (record.num_features, record.width):
        shapes = (record.num_features, record.width), decoder_FD.shape
        asked, there = (f"{num_features:,} features of {width}" for num_features, width in shapes)
        message = f"{artifact.uri} is an index of {asked}, and the decoder has {there}."
        raise DamagedArtifact(message)
    exact = ExactIndex(decoder_FD, read_scales(artifact, record.num_features))
    if record.kind == "flat":
        return exact
    from mistudio.correlate.index.faiss_index import FaissIndex
    from mistudio.correlate.index.kinds import open_faiss

    name = f"{artifact.uri}/{FAISS_NAME}"
    index = open_faiss(record.kind, artifact.file(FAISS_NAME), record.num_features, record.width, name)
    return FaissIndex(index, exact, record.candidates, record.breadth)
