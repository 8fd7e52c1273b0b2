"""What an artifact of kind ``index`` holds, how it is written, and how it is opened.

Beside the record (``index.json``) and the lengths of the rows there is what faiss wrote, but for a flat index. The
decoder's rows are not in it: they are read from the autoencoder that the artifact names as its input.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from mistudio.artifacts import Artifact, Draft
from mistudio.correlate.index.nearest import Vectors
from mistudio.errors import DamagedArtifact
from mistudio.settings import Settings, refused

KIND = "index"
RECORD_NAME, SCALES_NAME, FAISS_NAME = "index.json", "scales.safetensors", "directions.faiss"
_SCALE = "scale"


class Record(Settings):
    """What an artifact says of its index: the content of ``index.json``."""

    kind: Literal["flat", "codes", "ivfpq", "hnsw"] = Field(description="of the index")
    made: str = Field(description="what it is, as faiss's index factory reads it; empty for a flat one")
    num_features: int = Field(ge=1, description="rows of the decoder")
    width: int = Field(ge=1, description="components of a row")
    candidates: int = Field(ge=0, description="candidates of a query that are compared exactly; 0 for a flat one: all")
    breadth: int = Field(ge=0, description="lists, or candidates in a graph, that a search looks at; 0 for all")


def write_record(draft: Draft, record: Record, scale_F: Vectors) -> None:
    """Write what every index has."""
    from safetensors.numpy import save_file

    with draft.stage(SCALES_NAME) as path:
        save_file({_SCALE: scale_F}, path)
    draft.write(RECORD_NAME, record.model_dump_json(indent=1).encode() + b"\n")


def read_record(artifact: Artifact) -> Record:
    """What an artifact says of its index.

    Raises:
        DamagedArtifact: it cannot be read.
    """
    try:
        return Record.model_validate_json(artifact.file(RECORD_NAME).read_bytes())
    except ValidationError as error:
        message = f"{artifact.uri}/{RECORD_NAME} describes no index: {refused(error)}"
        raise DamagedArtifact(message) from error


def read_scales(artifact: Artifact, num_features: int) -> NDArray[np.float32]:
    """One divided by the length of each decoder row [F]; 0 for rows that are zero.

    Raises:
        DamagedArtifact: they are not there.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path: Path = artifact.file(SCALES_NAME)
    try:
        scale_F: NDArray[np.float32] | None = load_file(path).get(_SCALE)
    except SafetensorError as error:
        message = f"{artifact.uri}/{SCALES_NAME} is no safetensors file: {error}"
        raise DamagedArtifact(message) from error
    if scale_F is None or scale_F.shape != (num_features,) or not np.isfinite(scale_F).all():
        message = f"{artifact.uri}/{SCALES_NAME} holds no finite scales of {num_features:,} features."
        raise DamagedArtifact(message)
    return scale_F
