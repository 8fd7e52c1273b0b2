"""What requests may ask for: how strong, how many edits and features, and of which features.

Strengths are bounded as they act: with the largest factor of their schedule, and all edits of one feature, or along one
direction, together. Which autoencoder or direction an edit means can be written in several ways, so that lists and sums
are held against what is meant: ``canonical`` and ``direction`` turn every way to write it into one.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, Field

from mistudio.errors import ConfigError, InputError
from mistudio.instrument.edits import Ablate, Add, Cap, Clamp, Edits, Latent, Scale, features_of
from mistudio.plain_text import shortened
from mistudio.settings import Settings

if TYPE_CHECKING:
    from mistudio.instrument.compiled import Nameable

Canonical = Callable[[str | None], str]


class SteerLimits(Settings):
    """What requests may ask for."""

    max_absolute: float | None = Field(None, gt=0, description="strength or value in absolute units; None: any")
    max_relative: float | None = Field(2.0, gt=0, description="strength, in norms of the activation; None: any")
    max_feature_max: float | None = Field(
        20.0, gt=0, description="strength or value, in largest activations of the feature; None: any"
    )
    max_scale: float | None = Field(
        20.0, gt=0, description="change of a feature in multiples of its activation, 1 for ablate; None: any"
    )
    max_edits: int = Field(32, ge=0, description="edits of a request, those of its preset included")
    max_features: int = Field(512, ge=0, description="features that its edits and conditions name")
    allow: Mapping[str, tuple[Latent, ...]] | None = Field(
        None, description="features that may be changed, by autoencoder; None: all"
    )
    deny: Mapping[str, tuple[Latent, ...]] = Field(
        default={}, description="features that may not be changed, by autoencoder, whatever ``allow`` says"
    )
    directions: tuple[str, ...] | None = Field(None, description="directions that may be used; None: all")
    exempt_presets: bool = Field(False, description="the edits of presets are not held against any of this")


class _Dose(NamedTuple):
    """How strongly an edit acts in one unit."""

    unit: str  # name of its limit, without "max_"
    field: str  # of the edit
    value: float


class _Placed(NamedTuple):
    """An edit, and what it is called in messages."""

    name: str
    edit: Add | Clamp | Scale | Ablate | Cap


def canonical_in(nameable: "Nameable") -> Canonical:
    """Every way to write an autoencoder of a session as its URI; what none is called stays as it is."""

    def canonical(name: str | None) -> str:
        with suppress(InputError):
            return nameable.session.autoencoders[nameable.number(name)].uri
        return str(name)

    return canonical


def check(
    edits: Edits,
    limits: SteerLimits,
    canonical: Canonical,
    *,
    preset: Edits | None = None,
    direction: Callable[[str], str] = str,
) -> None:
    """Refuse edits beyond the limits.

    Args:
        edits: of the request itself.
        limits: what it may ask for.
        canonical: from what an edit or a list calls an autoencoder to the one name that is compared, see
            :func:`canonical_in`.
        preset: of the preset that it names.
        direction: from what an edit calls a direction to what is the same for all its names.

    Raises:
        ConfigError: a limit is passed; the message names the field, such as ``steering.edits[1].strength``.
    """
    placed = [_Placed(f"steering.edits[{number}]", edit) for number, edit in enumerate(edits.edits)]
    if preset is not None and not limits.exempt_presets:
        placed += [_Placed(f"steering.preset.edits[{number}]", edit) for number, edit in enumerate(preset.edits)]
    if len(placed) > limits.max_edits:
        message = f"steering.edits: there are {len(placed)} edits, and at most {limits.max_edits} are allowed."
        raise ConfigError(message)
    _check_number(placed, edits, limits, canonical)
    _check_lists(placed, limits, canonical)
    _check_strengths(placed, limits, canonical, cache(direction))


def _check_number(placed: list[_Placed], edits: Edits, limits: SteerLimits, canonical: Canonical) -> None:
    named: list[BaseModel] = [*(each.edit for each in placed), *edits.stop_when]
    number = len({(canonical(autoencoder), latent) for autoencoder, latent in features_of(named)})
    if number > limits.max_features:
        message = f"steering.edits: they name {number:,} features, and at most {limits.max_features:,} are allowed."
        raise ConfigError(message)


def _check_lists(placed: list[_Placed], limits: SteerLimits, canonical: Canonical) -> None:
    allowed = None if limits.allow is None else _by_canonical(limits.allow, canonical)
    denied = _by_canonical(limits.deny, canonical)
    for name, edit in placed:
        direction = getattr(edit, "direction", None)
        if direction is not None and limits.directions is not None and direction not in limits.directions:
            message = f"{name}.direction: {shortened(direction)} may not be used here."
            raise ConfigError(message)
        own = canonical(edit.autoencoder) if edit.latents else ""
        for latent in edit.latents:
            if latent in denied[own] or (allowed is not None and latent not in allowed[own]):
                field = "feature" if edit.features is None else "features"
                message = f"{name}.{field}: feature {latent} of {own} may not be changed here."
                raise ConfigError(message)


def _by_canonical(listed: Mapping[str, tuple[int, ...]], canonical: Canonical) -> defaultdict[str, set[int]]:
    found: defaultdict[str, set[int]] = defaultdict(set)
    for autoencoder, latents in listed.items():
        found[canonical(autoencoder)] |= set(latents)
    return found


def _check_strengths(
    placed: list[_Placed], limits: SteerLimits, canonical: Canonical, direction: Callable[[str], str]
) -> None:
    totals: defaultdict[tuple[str, object, str], float] = defaultdict(float)
    for name, edit in placed:
        for dose in _doses(edit):
            limit: float | None = getattr(limits, f"max_{dose.unit}")
            for target in _targets(edit, canonical, direction):
                before = totals[(*target, dose.unit)]
                totals[(*target, dose.unit)] = total = before + dose.value
                if limit is not None and total > limit:
                    together = f", together with the edits before it {total:g}" if before else ""
                    message = (
                        f"{name}.{dose.field}: it acts with {dose.value:g} ({dose.unit}){together}, and at most "
                        f"{limit:g} is allowed."
                    )
                    raise ConfigError(message)


def _targets(
    edit: Add | Clamp | Scale | Ablate | Cap, canonical: Canonical, direction: Callable[[str], str]
) -> Iterator[tuple[str, object]]:
    if edit.latents:
        own = canonical(edit.autoencoder)
        yield from ((own, latent) for latent in edit.latents)
    else:
        yield "direction", direction(str(getattr(edit, "direction", None)))


def _doses(edit: Add | Clamp | Scale | Ablate | Cap) -> Iterator[_Dose]:
    """How strongly an edit acts, at the largest factor of its schedule.

    An edit that sets a value also takes out what is there, as often as its schedule says: as scale does.
    """
    factor = 1.0 if edit.schedule is None else max(abs(edit.schedule.start), abs(edit.schedule.end))
    if isinstance(edit, Add):
        yield _Dose(edit.unit, "strength", abs(edit.strength) * factor)
    elif isinstance(edit, Scale):
        yield _Dose("scale", "factor", abs(edit.factor - 1) * factor)
    else:
        if isinstance(edit, Clamp | Cap):
            least = abs(edit.value) if isinstance(edit, Clamp) else max(-edit.value, 0.0)
            yield _Dose(edit.unit, "value", least * factor)
        yield _Dose("scale", "op" if edit.schedule is None else "schedule", factor)
