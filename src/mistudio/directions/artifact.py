"""Directions: vectors at a hook point of a model, made from positive and negative examples, and kept as artifacts.

An artifact of kind ``direction`` says at which hook point of which model its vector is one. A vector without either
could be added anywhere, and would do nothing or something else; it is refused.

Shape legend: D width of the hook point.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, ValidationError

from mistudio.artifacts import Artifact, Store, find_reference, open_artifact
from mistudio.directions.config import Figure
from mistudio.errors import DamagedArtifact, InputError
from mistudio.settings import Settings, refused
from mistudio.subject import HookPoint, SubjectSource

if TYPE_CHECKING:
    from torch import Tensor

KIND = "direction"
VECTOR_NAME, RECORD_NAME = "direction.safetensors", "direction.json"
TENSOR_NAME = "vector"

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Record(Settings):
    """What an artifact says of its vector: the content of ``direction.json``."""

    hook: str = Field(description="hook point that it is a vector at")
    subject: str = Field(min_length=1, description="model that the hook point is of, for people")
    subject_digest: Digest = Field(description="of that model's content")
    width: int = Field(ge=1, description="components")
    norm: float = Field(gt=0, description="length of the vector")
    activation_norm: float = Field(gt=0, description="median length of the activations of the examples' tokens")
    auroc: Figure = Field(description="on held-out examples, with a bootstrap interval")
    random_auroc: Figure = Field(description="of random directions: mean, and the middle 95%")
    shuffled_auroc: Figure = Field(description="of directions made after labels were shuffled; likewise")


@dataclass(frozen=True, eq=False)
class Direction:
    """A vector at a hook point.

    Attributes:
        name: what it was asked for by: a name, or the prefix of its artifact.
        vector_D: float32, on the CPU.
        record: where it belongs, and its figures.
        uri: of its artifact.
        digest: of its artifact.
    """

    name: str
    vector_D: "Tensor"
    record: Record
    uri: str
    digest: str

    @property
    def hook(self) -> HookPoint:
        """The hook point that it is a vector at."""
        return HookPoint.parse(self.record.hook)

    def check_subject(self, source: SubjectSource | None) -> None:
        """Refuse a model other than the one that the direction was made in.

        Raises:
            InputError: it is another, or nothing says which it is.
        """
        if source is None or source.digest != self.record.subject_digest:
            other = "a model of unknown origin" if source is None else f"{source.uri}, which has other content"
            message = (
                f"Direction {self.name} was made in {self.record.subject}, not in {other}: it means nothing there."
            )
            raise InputError(message)


def open_direction(artifact: Artifact, name: str = "") -> Direction:
    """The direction of an artifact.

    Args:
        artifact: of kind ``direction``.
        name: what it was asked for by.

    Raises:
        InputError: it does not say at which hook point of which model it is a direction.
        DamagedArtifact: the vector is not the one that is described.
    """
    from safetensors.torch import load_file

    try:
        record = Record.model_validate_json(artifact.file(RECORD_NAME).read_bytes())
    except ValidationError as error:
        message = f"{artifact.uri} cannot be used as a direction: {refused(error)}"
        raise InputError(message) from error
    HookPoint.parse(record.hook)
    vector_D = load_file(artifact.file(VECTOR_NAME)).get(TENSOR_NAME)
    if vector_D is None or tuple(vector_D.shape) != (record.width,) or not bool(vector_D.isfinite().all()):
        message = f"{artifact.uri} is damaged: {VECTOR_NAME} holds no finite vector of {record.width:,} components."
        raise DamagedArtifact(message)
    return Direction(name or artifact.uri, vector_D, record, artifact.uri, artifact.digest)


def find_direction(store: Store, name: str) -> Direction:
    """The direction of a name (``mistudio artifacts name``), or of an artifact's prefix.

    Raises:
        NotFound: there is none.
        InputError: it does not say at which hook point of which model it is a direction.
        DamagedArtifact: a file differs from what was published.
    """
    if name.startswith(f"{KIND}/"):
        return open_direction(open_artifact(store, name, KIND))
    target = find_reference(store, KIND, name).target
    return open_direction(open_artifact(store, str(target.uri), KIND), name)
