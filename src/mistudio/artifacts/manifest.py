"""What an artifact says of itself: its recipe, its files and their hashes.

A *recipe* is everything that determines an artifact's bytes; its key names the prefix that the
artifact lives under, so that the same work is found instead of done again. A *manifest* is written
last, and makes a prefix an artifact.
"""

import hashlib
import json
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mistudio.artifacts.kinds import schema_version, split_kind
from mistudio.artifacts.names import MAX_NAME_CHARS, NAME_PATTERN
from mistudio.errors import DamagedArtifact
from mistudio.plain_text import shortened

MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.hmac"  # beside the manifest, so that its digest does not depend on who signs
WORK = "work"  # folder of what a step needs to go on after a crash

JsonScalar = str | int | float | bool | None


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InputRef(_Frozen):
    """What an artifact was made from: where it was found, and the digest of its content."""

    uri: str = Field(description="store-relative prefix, or scheme:name of something outside the store")
    digest: str = Field(description="sha256 of the content, in hex")


class FileEntry(_Frozen):
    """One file of an artifact."""

    path: str = Field(
        pattern=f"^{NAME_PATTERN}$", max_length=MAX_NAME_CHARS, description="relative to the artifact's prefix"
    )
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Producer(_Frozen):
    """Who made an artifact; not part of its digest."""

    step: str
    version: str = Field(description="version of the mistudio library")
    git_commit: str | None = None
    image: str | None = None
    seconds: float | None = Field(default=None, description="wall-clock time the step took, in seconds")


class Recipe(_Frozen):
    """Everything that determines an artifact's bytes."""

    kind: str = Field(pattern=r"^[a-z][a-z-]*$")
    schema_version: int = Field(
        default_factory=lambda data: schema_version(str(data.get("kind", ""))), ge=1, description="of the kind"
    )
    config: dict[str, Any]
    inputs: dict[str, InputRef] = Field(default_factory=dict)
    seed: int = 0

    @property
    def key(self) -> str:
        """First 16 hex digits of the hash of kind, schema version, config, input digests and seed."""
        content = {
            "kind": self.kind,
            "schema_version": self.schema_version,
            "config": self.config,
            "inputs": {name: ref.digest for name, ref in self.inputs.items()},
            "seed": self.seed,
        }
        return hashlib.sha256(canonical_json(content)).hexdigest()[:16]

    @property
    def prefix(self) -> str:
        """Where in a store the artifact of this recipe lives."""
        return f"{self.kind}/{self.key}"


class Manifest(_Frozen):
    """The content of ``manifest.json``."""

    kind: str = Field(pattern=r"^[^/]+/\d{1,9}$", description="kind and version, for example mistudio.activations/1")
    config: dict[str, Any]
    seed: int
    inputs: dict[str, InputRef]
    files: tuple[FileEntry, ...]
    summary: dict[str, JsonScalar] = Field(description="a few figures for people; no timings")
    producer: Producer
    created_at: str = Field(description="UTC, ISO 8601")

    @cached_property
    def digest(self) -> str:
        """sha256 of the canonical JSON without ``created_at`` and ``producer``."""
        content = self.model_dump(mode="json", exclude={"created_at", "producer"})
        return hashlib.sha256(canonical_json(content)).hexdigest()

    @property
    def short_kind(self) -> str:
        """The kind without namespace and schema version, for example ``activations``."""
        return split_kind(self.kind)[0]

    @property
    def num_bytes(self) -> int:
        """Sum of the sizes of all files, without the manifest itself."""
        return sum(entry.bytes for entry in self.files)

    def to_json(self) -> bytes:
        """The bytes of ``manifest.json``: readable, with sorted keys."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, origin: str) -> "Manifest":
        """Parse a manifest; ``origin`` names it in the error.

        Raises:
            DamagedArtifact: the bytes are not a manifest.
        """
        try:
            manifest = cls.model_validate_json(data)
            canonical_json(manifest.config)  # settings may hold numbers that JSON does not have
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(shortened(str(part))[1:-1] for part in first["loc"]) or "content"
            raise DamagedArtifact(_invalid(origin, f"{where}: {first['msg']}")) from error
        except (ValueError, RecursionError) as error:
            raise DamagedArtifact(_invalid(origin, f"{error}")) from error
        return manifest


def is_reserved(path: str) -> bool:
    """Whether a name below an artifact's prefix has another use than that of a file of its."""
    return path in (MANIFEST_NAME, SIGNATURE_NAME) or path.startswith(f"{WORK}/")


def _invalid(origin: str, why: str) -> str:
    return (
        f"{origin} is not a valid manifest ({why}). Run mistudio artifacts remove {origin.rpartition('/')[0]}, then "
        "run the step again."
    )


def canonical_json(value: object) -> bytes:
    """One byte string per value: sorted keys, no white space, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
