"""Names for artifacts: presets, labels, collections, which autoencoder is the champion and which the candidate.

``refs/<kind>/<name>/<n>`` is a small file that says what the name stands for, who said so and when. It is written once
and never changed: to let the name stand for something else, the next number is written. So every change is on record,
and of two people who change a name at once one comes second and neither is lost.
"""

import datetime
from collections.abc import Iterator
from typing import NamedTuple, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mistudio.artifacts.artifact import Artifact
from mistudio.artifacts.names import check_name
from mistudio.artifacts.store import Store
from mistudio.errors import DamagedArtifact, InputError, NotFound
from mistudio.plain_text import shortened

REFS = "refs"
RUNS = "runs"  # what the steps of runs on a cluster ended with
_DIGITS = 8
_PARTS = 4  # refs, the kind, the name, the number


class Target(BaseModel):
    """What a name stands for: the content of one file of references."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str | None = Field(description="prefix of the artifact; None: the name stands for nothing any more")
    digest: str | None = Field(description="of its manifest")
    author: str = Field(min_length=1, description="who said so")
    created_at: str = Field(description="UTC, ISO 8601")


class Reference(NamedTuple):
    """A name, and what it stands for."""

    kind: str
    name: str
    number: int  # from 1, for each name
    target: Target


@overload
def add_reference(store: Store, kind: str, name: str, artifact: Artifact | None, author: str) -> Reference: ...


@overload
def add_reference(
    store: Store, kind: str, name: str, artifact: Artifact | None, author: str, number: int
) -> Reference | None: ...


def add_reference(
    store: Store, kind: str, name: str, artifact: Artifact | None, author: str, number: int | None = None
) -> Reference | None:
    """Let a name stand for ``artifact`` from now on, or for nothing.

    Args:
        store: where the artifact is.
        kind: of name, for example preset, label or champion; names of different kinds do not meet.
        name: without "/".
        artifact: what it stands for.
        author: who says so.
        number: the one that it has to get; then None is returned where another was first. Not given: the next.

    Raises:
        InputError: kind or name cannot be a name in the store.
        StorageError: the store cannot be written.
    """
    prefix = check_reference(kind, name)
    target = Target(
        uri=artifact.uri if artifact else None,
        digest=artifact.digest if artifact else None,
        author=author,
        created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    given, number = number, number or max(_numbers(store, prefix), default=0) + 1
    while not store.create(f"{prefix}/{number:0{_DIGITS}d}", target.model_dump_json(indent=1).encode() + b"\n"):
        if given is not None:
            return None
        number += 1  # another was first
    return Reference(kind, name, number, target)


def find_reference(store: Store, kind: str, name: str) -> Reference:
    """What a name stands for now.

    Raises:
        NotFound: there is no such name, or it stands for nothing any more.
    """
    numbers = _numbers(store, check_reference(kind, name))
    found = _read(store, kind, name, numbers[-1]) if numbers else None
    if found is None or found.target.uri is None:
        message = f"There is no {kind} called {shortened(name)} in the store {store.url}. See mistudio artifacts refs."
        raise NotFound(message)
    return found


def reference_history(store: Store, kind: str, name: str) -> list[Reference]:
    """All that a name has stood for, the first first."""
    return [_read(store, kind, name, number) for number in _numbers(store, check_reference(kind, name))]


def references(store: Store, kind: str | None = None) -> Iterator[Reference]:
    """What every name stands for now, of one kind or of all; names that stand for nothing are left out."""
    newest: dict[tuple[str, str], int] = {}
    for file in store.stat(f"{REFS}/{check_name(kind)}" if kind else REFS):
        parts = file.name.split("/")
        if len(parts) == _PARTS and _is_number(parts[-1]):  # anything else was put there by hand
            newest[parts[1], parts[2]] = int(parts[-1])
    for (its_kind, its_name), last in newest.items():
        found = _read(store, its_kind, its_name, last)
        if found.target.uri is not None:
            yield found


def check_reference(kind: str, name: str) -> str:
    """Where the files of a name lie.

    Raises:
        InputError: kind or name cannot be a name in the store.
    """
    if "/" in kind or "/" in name:
        message = f"{kind}/{name}: neither the kind of a name nor the name itself may have '/' in it."
        raise InputError(message)
    return check_name(f"{REFS}/{kind}/{name}")


def _numbers(store: Store, prefix: str) -> list[int]:
    lasts = [name.removeprefix(f"{prefix}/") for name in store.list(prefix)]
    return [int(last) for last in lasts if _is_number(last)]


def _is_number(last: str) -> bool:
    return last.isdecimal() and last == f"{int(last):0{_DIGITS}d}"


def _read(store: Store, kind: str, name: str, number: int) -> Reference:
    file = f"{check_reference(kind, name)}/{number:0{_DIGITS}d}"
    try:
        return Reference(kind, name, number, Target.model_validate_json(store.read(file)))
    except ValidationError as error:
        message = f"{file} is damaged: it is no reference. Remove the file, and name the artifact anew."
        raise DamagedArtifact(message) from error
