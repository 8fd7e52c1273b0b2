"""Presets held against what is loaded: made of a request's edits, and turned into edits of a session.

What edits call an autoencoder may stand for another one tomorrow; digests do not.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from pydantic import BaseModel

from mistudio.artifacts import Artifact, Line
from mistudio.directions.artifact import Direction
from mistudio.errors import InputError, NotFound
from mistudio.instrument.edits import Edit, Edits, When
from mistudio.plain_text import shortened
from mistudio.steer.presets import Preset, checked_preset

if TYPE_CHECKING:
    from mistudio.instrument.compiled import Nameable

_Model = TypeVar("_Model", bound=BaseModel)
_Rename = Callable[[str | None], str]


class Part(NamedTuple):
    """An autoencoder or a direction that is there.

    Attributes:
        name: the one that presets are made with: for an autoencoder its URI.
        digest: of its artifact.
        hooks: where it reads and where its edits act, or the one place of both.
        aliases: other names that edits may call it by.
    """

    name: str
    digest: str
    hooks: tuple[str, ...]
    aliases: tuple[str, ...] = ()


class NamedEdits(NamedTuple):
    """The edits of a preset, and the factors on them between which text stays coherent; None: nobody measured that."""

    edits: Edits
    ship_range: tuple[float, float] | None = None


class Parts(NamedTuple):
    """A model and what is there beside it: all that a preset can be of."""

    subject: str  # digest
    autoencoders: Sequence[Part] = ()
    directions: Sequence[Part] = ()


def parts_of(nameable: "Nameable", directions: Iterable[str] = ()) -> Parts:
    """What edits can name in a session, and those directions that are asked for by name.

    Raises:
        NotFound: there is no such direction.
        InputError: nothing says which model it is.
    """
    session = nameable.session
    if session.source is None:
        message = "The model is of unknown origin: presets belong to a model of a known one."
        raise InputError(message)
    autoencoders = [
        Part(one.uri, one.digest, tuple(one.ends.hooks), tuple(nameable.names[number : number + 1]))
        for number, one in enumerate(session.autoencoders)
    ]
    along = [Part(name, one.digest, (str(one.hook.point),)) for name in directions if (one := nameable.direction(name))]
    return Parts(session.source.digest, autoencoders, along)


def parts_in_store(saes: Sequence[Artifact], directions: Sequence[Direction]) -> Parts:
    """Autoencoders and directions that are not loaded, with the model that they are all of.

    Raises:
        InputError: there is nothing, they are of several models, or one does not say of which.
    """
    from mistudio.sae import hook_of, target_hook_of

    autoencoders = []
    for sae in saes:
        hooks = (hook_of(sae), target_hook_of(sae))
        autoencoders.append(Part(sae.uri, sae.digest, tuple(dict.fromkeys(hook for hook in hooks if hook))))
    along = [Part(one.name, one.digest, (one.record.hook,)) for one in directions]
    subjects = {*map(_subject_digest, saes), *(one.record.subject_digest for one in directions)}
    if len(subjects) != 1:
        message = f"A preset is of one model: what is given is of {len(subjects)}."
        raise InputError(message)
    return Parts(subjects.pop(), autoencoders, along)


def make_preset(name: str, author: str, edits: Edits, parts: Parts, notes: str = "") -> Preset:
    """The preset of a request's edits: what they leave to the moment is stated.

    Raises:
        ConfigError: there is nothing to keep, or no name.
        NotFound: edits name what is not there.
        InputError: what they name stands for several.
    """

    def autoencoder(called: str | None) -> str:
        return _called(called, parts.autoencoders, "autoencoder").name

    stated = _renamed(edits, autoencoder, lambda called: _called(called, parts.directions, "direction").name)
    known = {one.name: one for one in (*parts.directions, *parts.autoencoders)}
    named = [_named(edit) for edit in stated.edits]
    read = [str(when.autoencoder) for when in _conditions(stated)]
    content = {
        "name": name,
        "author": author,
        "notes": notes,
        "subject": parts.subject,
        "autoencoders": {one.name: one.digest for one in parts.autoencoders if one.name in {*named, *read}},
        "directions": {one.name: one.digest for one in parts.directions if one.name in named},
        "edits": [
            {"hook": known[own].hooks[-1], **edit.model_dump(mode="json")}
            for own, edit in zip(named, stated.edits, strict=True)
        ],
        "stop_when": [when.model_dump(mode="json") for when in stated.stop_when],
    }
    return checked_preset(content, f"preset {name}")


def edits_of_preset(preset: Preset, parts: Parts) -> Edits:
    """The edits of a preset, with the names under which what is there is found.

    Raises:
        InputError: the model, an autoencoder or a direction is not the one that the preset is of, or an edit would not
            act at the hook point that the preset states.
    """
    if preset.subject != parts.subject:
        message = f"Preset {preset.name} is of another model: its subject has the digest {preset.subject[:12]}."
        raise InputError(message)
    autoencoders = {
        name: _of_digest(preset, name, digest, parts.autoencoders) for name, digest in preset.autoencoders.items()
    }
    directions = {
        name: _of_digest(preset, name, digest, parts.directions) for name, digest in preset.directions.items()
    }
    for number, placed in enumerate(preset.placed):
        part = (autoencoders if placed.edit.latents else directions)[_named(placed.edit)]
        if part.hooks[-1] != placed.hook:
            message = (
                f"Preset {preset.name}, edits[{number}].hook: it states {placed.hook}, and {part.name} acts at "
                f"{part.hooks[-1]}."
            )
            raise InputError(message)
    return _renamed(preset.edits, lambda own: autoencoders[str(own)].name, lambda own: directions[str(own)].name)


def _subject_digest(sae: Artifact) -> str:
    activations = Line(sae.store, sae).find("activations")
    if activations is None or "subject" not in activations.manifest.inputs:
        message = f"{sae.uri} does not say which model its activations came from: its store has not got them."
        raise InputError(message)
    return activations.manifest.inputs["subject"].digest


def _of_digest(preset: Preset, name: str, digest: str, there: Sequence[Part]) -> Part:
    found = next((one for one in there if one.digest == digest), None)
    if found is None:
        message = (
            f"Preset {preset.name} is of {shortened(name)} with the digest {digest[:12]}, which is not loaded: serve "
            "it, or make the preset anew."
        )
        raise InputError(message)
    return found


def _called(name: str | None, there: Sequence[Part], what: str) -> Part:
    """What an edit means, as when it is carried out: without a name the first."""
    if name is None and there:
        return there[0]
    found = [one for one in there if name in (one.name, *one.aliases)] or [one for one in there if name in one.hooks]
    if len(found) == 1:
        return found[0]
    if found:
        message = f"{shortened(name)} stands for {len(found)} of what is there: name one by its URI."
        raise InputError(message)
    known = ", ".join(one.name for one in there) or "none"
    message = f"There is no {what} {shortened(name)} here; there is {known}."
    raise NotFound(message)


def _named(edit: Edit) -> str:
    """What an edit names: an autoencoder or a direction."""
    return str(edit.autoencoder if edit.latents else getattr(edit, "direction", None))


def _conditions(edits: Edits) -> list[When]:
    return [*(edit.when for edit in edits.edits if edit.when is not None), *edits.stop_when]


def _renamed(edits: Edits, autoencoder: _Rename, direction: _Rename) -> Edits:
    """The edits with other names of what they name."""

    def of_edit(edit: Edit) -> Edit:
        when = edit.when and _with(edit.when, autoencoder=autoencoder(edit.when.autoencoder))
        if edit.latents:
            return _with(edit, when=when, autoencoder=autoencoder(edit.autoencoder))
        return _with(edit, when=when, direction=direction(_named(edit)))

    stops = tuple(_with(when, autoencoder=autoencoder(when.autoencoder)) for when in edits.stop_when)
    return Edits(edits=tuple(map(of_edit, edits.edits)), stop_when=stops)


def _with(model: _Model, **changed: object) -> _Model:
    return model.model_copy(update=changed)
