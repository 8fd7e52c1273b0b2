"""Presets in a store: artifacts of kind ``preset`` under names that are only ever added to.

``refs/preset/<name>/<n>`` says what a name stands for since the n-th change; the newest counts. A preset that is saved
again as it is changes nothing.
"""

import json
from collections.abc import Iterator
from typing import NamedTuple

from mistudio.artifacts import (
    Artifact,
    Catalog,
    Draft,
    InputRef,
    Recipe,
    Reference,
    Store,
    Summary,
    add_reference,
    find_reference,
    open_artifact,
    produce,
    reference_history,
    references,
)
from mistudio.errors import InputError, NotFound
from mistudio.steer.presets import Preset, read_preset

KIND = "preset"
PRESET_NAME = "preset.json"


class SavedPreset(NamedTuple):
    """A preset, and where it is."""

    reference: Reference
    artifact: Artifact
    preset: Preset
    is_new: bool  # the name stands for it since this moment


def save_preset(store: Store, preset: Preset) -> SavedPreset:
    """Publish a preset, and let its name stand for it.

    Raises:
        InputError: its name cannot be a name in the store.
        StorageError: the store cannot be written.
    """
    if preset.name.startswith(f"{KIND}/"):
        message = f"name: {preset.name} reads like the prefix of an artifact; choose another."
        raise InputError(message)
    recipe = Recipe(kind=KIND, config=preset.content(), inputs=_inputs(store, preset))

    def build(draft: Draft) -> Summary:
        draft.write(PRESET_NAME, json.dumps(preset.content(), indent=1).encode() + b"\n")
        hooks = ", ".join(dict.fromkeys(each.hook for each in preset.placed))
        return {"name": preset.name, "author": preset.author, "edits": len(preset.placed), "hooks": hooks}

    before = _current(store, preset.name)
    artifact = produce(store, recipe, "preset", build).artifact
    if before is not None and before.target.digest == artifact.digest:
        return SavedPreset(before, artifact, preset, is_new=False)
    return SavedPreset(add_reference(store, KIND, preset.name, artifact, preset.author), artifact, preset, is_new=True)


def open_preset(store: Store, name: str) -> Preset:
    """The preset of a name, or of an artifact's prefix.

    Raises:
        NotFound: there is none.
        ConfigError: it lacks something.
        DamagedArtifact: it is not what was published.
    """
    uri = name if name.startswith(f"{KIND}/") else str(find_reference(store, KIND, name).target.uri)
    return preset_of(open_artifact(store, uri, KIND))


def preset_of(artifact: Artifact) -> Preset:
    """The preset of an artifact of that kind.

    Raises:
        ConfigError: it lacks something.
        DamagedArtifact: it is not what was published.
    """
    return read_preset(artifact.file(PRESET_NAME).read_bytes(), artifact.uri)


def list_presets(store: Store) -> Iterator[SavedPreset]:
    """What every name of a preset stands for now, by name."""
    for reference in sorted(references(store, KIND), key=lambda each: each.name):
        artifact = open_artifact(store, str(reference.target.uri), KIND)
        yield SavedPreset(reference, artifact, preset_of(artifact), is_new=False)


def preset_history(store: Store, name: str) -> list[Reference]:
    """All that a name has stood for, the first first; ``target.uri`` is None from where it was removed.

    Raises:
        NotFound: there never was such a name.
    """
    found = reference_history(store, KIND, name)
    if not found:
        find_reference(store, KIND, name)  # says so
    return found


def remove_preset(store: Store, name: str, author: str) -> Reference:
    """Let a name stand for nothing any more; what it stood for stays in the store, and on record.

    Raises:
        NotFound: there is no such name.
        StorageError: the store cannot be written.
    """
    find_reference(store, KIND, name)
    return add_reference(store, KIND, name, None, author)


def _current(store: Store, name: str) -> Reference | None:
    try:
        return find_reference(store, KIND, name)
    except NotFound:
        return None


def _inputs(store: Store, preset: Preset) -> dict[str, InputRef]:
    """What a preset is of, each where it lies in this store, or named as outside of it."""
    digests = {"subject": preset.subject}
    for what, named in (("autoencoder", preset.autoencoders), ("direction", preset.directions)):
        digests |= {f"{what}.{number}": digest for number, digest in enumerate(sorted(set(named.values())))}
    if preset.evaluation is not None:
        digests["evaluation"] = preset.evaluation.digest
    with Catalog(store) as catalog:
        return {role: _ref(catalog, role.partition(".")[0], digest) for role, digest in digests.items()}


def _ref(catalog: Catalog, what: str, digest: str) -> InputRef:
    try:
        return catalog.by_digest(digest).ref
    except NotFound:
        return InputRef(uri=f"{what}:{digest[:16]}", digest=digest)
