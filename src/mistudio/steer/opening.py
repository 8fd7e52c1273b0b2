"""What edits can name in a model that is served: features of its autoencoders, directions and presets of its store."""

from functools import partial

from mistudio.directions.artifact import find_direction
from mistudio.instrument.compiled import Maximum, Nameable, NamedDirection
from mistudio.instrument.served import Served
from mistudio.steer.preset_store import open_preset
from mistudio.steer.preset_use import NamedEdits, edits_of_preset, parts_of
from mistudio.subject import resolve_hooks


def nameable(served: Served) -> Nameable:
    """What edits can name."""
    maxima: list[Maximum | None] = [one.maximum if one.features is not None else None for one in served.features]
    return Nameable(served.session, [one.name for one in served.features], maxima, partial(named_direction, served))


def named_direction(served: Served, name: str) -> NamedDirection:
    """A direction of the store, by its name or its artifact; what is saved while the model is served is found too.

    Raises:
        NotFound: there is none.
        InputError: it is of another model.
        DamagedArtifact: a file differs from what was published.
    """
    found = find_direction(served.store, name)
    found.check_subject(served.session.source)
    (hook,) = resolve_hooks(served.session.subject, [found.hook])
    return NamedDirection(hook, found.vector_D.to(served.session.subject.device), found.digest)


def named_edits(served: Served, preset: str) -> NamedEdits:
    """The edits of a preset of the store, for what is loaded.

    Raises:
        NotFound: there is none.
        InputError: it is of another model or autoencoder.
        DamagedArtifact: a file differs from what was published.
    """
    found = open_preset(served.store, preset)
    return NamedEdits(edits_of_preset(found, parts_of(nameable(served), found.directions)), found.ship_range)
