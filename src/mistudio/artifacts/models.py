"""Registered autoencoders: versions under a name, and which of them is the candidate and which the champion.

All of it is names in the store (:mod:`mistudio.artifacts.refs`): ``refs/model/<name>/<n>`` is version n of a model,
``refs/candidate/<name>/<n>`` and ``refs/champion/<name>/<n>`` say what an alias has stood for. Each is written once. So
who registered and promoted what, and when, stays on record, and promoting an older version is how one rolls back.
"""

from typing import NamedTuple

from mistudio.artifacts.artifact import Artifact, open_artifact
from mistudio.artifacts.manifest import InputRef
from mistudio.artifacts.refs import (
    Reference,
    add_reference,
    check_reference,
    reference_history,
    references,
)
from mistudio.artifacts.store import Store
from mistudio.errors import DamagedArtifact, InputError, NotFound
from mistudio.plain_text import shortened

MODEL = "model"
CANDIDATE, CHAMPION = "candidate", "champion"
ALIASES = (CANDIDATE, CHAMPION)


class Version(NamedTuple):
    """A version of a registered model.

    Attributes:
        name: of the model.
        number: of the version, from 1.
        sae: the autoencoder.
        author: who registered it.
        created_at: when, UTC, ISO 8601.
    """

    name: str
    number: int
    sae: InputRef
    author: str
    created_at: str

    def __str__(self) -> str:
        return f"{self.name}/{self.number}"


class Moved(NamedTuple):
    """An alias that stands for another version now, or for the same as before."""

    alias: str
    before: Version | None
    after: Version


def check_model_name(name: str) -> None:
    """Refuse what cannot be the name of a model.

    Raises:
        InputError: it cannot.
    """
    check_reference(MODEL, name)


def register_version(store: Store, name: str, sae: Artifact, author: str) -> tuple[Version, bool]:
    """Register an autoencoder under a name; the version, and whether it is new: one digest has one.

    Raises:
        InputError: the name cannot be one.
        StorageError: the store cannot be written.
    """
    while True:
        known = model_versions(store, name)
        found = next((each for each in known if each.sae.digest == sae.digest), None)
        if found is not None:
            return found, False
        number = max((each.number for each in known), default=0) + 1
        made = add_reference(store, MODEL, name, sae, author, number)
        if made is not None:  # else another has registered one meanwhile: perhaps this
            return _version(made), True


def model_versions(store: Store, name: str) -> list[Version]:
    """All versions of a model, the first first; none where nothing is registered under the name."""
    return [_version(each) for each in reference_history(store, MODEL, name)]


def model_names(store: Store) -> list[str]:
    """The names under which autoencoders are registered."""
    return sorted(each.name for each in references(store, MODEL))


def find_version(store: Store, name: str, number: int | None = None, alias: str = CANDIDATE) -> Version:
    """A version of a model: by its number, or what an alias stands for.

    Raises:
        NotFound: there is no such model, version or alias.
    """
    known = {each.number: each for each in model_versions(store, name)}
    if not known:
        names = ", ".join(model_names(store)) or "none"
        message = f"No autoencoder is registered as {shortened(name)} in the store {store.url}; there is {names}."
        raise NotFound(message)
    if number is None:
        aliased = model_aliases(store, name)
        if alias not in aliased:
            message = f"{name} has no {alias}: name a version, one of {', '.join(map(str, known))}."
            raise NotFound(message)
        return aliased[alias]
    if number not in known:
        message = f"{name} has no version {number}; it has {', '.join(map(str, known))}."
        raise NotFound(message)
    return known[number]


def model_aliases(store: Store, name: str) -> dict[str, Version]:
    """What the aliases of a model stand for; one that was never set is left out."""
    # The versions after the aliases: one that is registered meanwhile, and promoted, would else be none of them.
    histories = {alias: reference_history(store, alias, name) for alias in ALIASES}
    versions = {each.sae.digest: each for each in model_versions(store, name)}
    current = {alias: history[-1].target.digest for alias, history in histories.items() if history}
    return {alias: versions[digest] for alias, digest in current.items() if digest in versions}


def alias_history(store: Store, name: str) -> list[tuple[Reference, Version | None]]:
    """Each time that an alias of a model was moved, with the version that it has stood for since, by time."""
    moves = [each for alias in ALIASES for each in reference_history(store, alias, name)]
    versions = {each.sae.digest: each for each in model_versions(store, name)}
    ordered = sorted(moves, key=lambda move: (move.target.created_at, move.kind, move.number))
    return [(move, versions.get(move.target.digest or "")) for move in ordered]


def move_alias(store: Store, version: Version, alias: str, author: str) -> Moved:
    """Let an alias stand for a version; nothing is written where it does already.

    Raises:
        InputError: there is no such alias.
        DamagedArtifact: the autoencoder is no longer what was registered.
        NotFound: it is no longer in the store.
    """
    if alias not in ALIASES:
        message = f"There is no alias {shortened(alias)}; there is {' and '.join(ALIASES)}."
        raise InputError(message)
    before = model_aliases(store, version.name).get(alias)
    if before is None or before.number != version.number:
        sae = open_artifact(store, version.sae.uri)
        if sae.digest != version.sae.digest:
            message = (
                f"{version.sae.uri} is not what was registered as {version}: its digest is {sae.digest[:12]} instead "
                f"of {version.sae.digest[:12]}."
            )
            raise DamagedArtifact(message)
        add_reference(store, alias, version.name, sae, author)
    return Moved(alias, before, version)


def _version(reference: Reference) -> Version:
    target = reference.target
    sae = InputRef(uri=target.uri or "", digest=target.digest or "")
    return Version(reference.name, reference.number, sae, target.author, target.created_at)
