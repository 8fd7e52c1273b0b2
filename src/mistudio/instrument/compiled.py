"""Edits made ready for a loaded model: each becomes terms, one for each vector that is written at a hook point.

A term changes a token's activation by a coefficient times a vector. What edits do differs in the coefficient alone:

    constant     amount
    relative     amount x norm of the activation, for a unit vector
    column       clip(gain x value) - value, where value is read off the activation: a latent or a projection

so that a batch in which every row is edited otherwise is a few products of tensors (:mod:`mistudio.instrument.table`).
What is compiled says nothing of a prompt, and may be shared by any number of requests.

Shape legend: D width of a hook point.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypedDict

from torch import Tensor

from mistudio.errors import ConfigError, InputError, NotFound
from mistudio.instrument.edits import Ablate, Add, Cap, Clamp, Edit, Edits, Scale, Schedule, When, Where
from mistudio.instrument.session import PlacedAutoencoder, Session
from mistudio.plain_text import shortened
from mistudio.subject import HookPoint, ResolvedHook

Maximum = Callable[[int], float | None]  # of a feature's activation, where it is known


@dataclass(frozen=True, eq=False)
class NamedDirection:
    """A direction at a hook point of the model.

    Attributes:
        hook: where it belongs.
        vector_D: as it was saved.
        digest: of its artifact, or of its content.
    """

    hook: ResolvedHook
    vector_D: Tensor
    digest: str


@dataclass(frozen=True)
class Gate:
    """A latent of an autoencoder, and the activation above which it counts as firing."""

    autoencoder: int  # number in the session
    latent: int
    above: float


@dataclass(frozen=True)
class Column:
    """A value that is read off an activation: a latent, or the projection on a direction."""

    autoencoder: int | None  # number in the session; None: a projection
    name: int | str  # number of the latent, or digest of the direction


@dataclass(frozen=True, eq=False)
class Term:
    """One vector at one hook point.

    Attributes:
        hook: where it is written.
        vector_D: what is written, in float32.
        amount: coefficient; 0 where the term has a column.
        relative: whether the amount is times the activation's norm.
        column: what is read, for terms that change a value.
        gain: what the value is multiplied by.
        low: the least that the value becomes.
        high: the most.
        where: tokens on which it acts.
        schedule: factor by generated token.
        gate: latent that has to fire on the token itself.
        latch: latent that has to have fired on an earlier token.
    """

    hook: ResolvedHook
    vector_D: Tensor
    amount: float = 0.0
    relative: bool = False
    column: Column | None = None
    gain: float = 1.0
    low: float = -math.inf
    high: float = math.inf
    where: Where = Where()
    schedule: Schedule | None = None
    gate: Gate | None = None
    latch: Gate | None = None

    @cached_property
    def is_everywhere(self) -> bool:
        """Whether it acts alike on all tokens that are not exempt."""
        return self.where == Where() and self.schedule is None and self.latch is None


@dataclass(frozen=True, eq=False)
class CompiledEdits:
    """Edits of one request, ready for the model.

    Attributes:
        terms: all that is written.
        stops: latents that end the answer.
        digest: of all that decides what is done: the same for equal edits of the same autoencoders.
    """

    terms: tuple[Term, ...]
    stops: tuple[Gate, ...]
    digest: str

    @cached_property
    def hooks(self) -> tuple[HookPoint, ...]:
        """Where something is written."""
        return tuple(dict.fromkeys(term.hook.point for term in self.terms))

    @cached_property
    def latches(self) -> tuple[Gate, ...]:
        """Latents whose firing switches something on."""
        return tuple(dict.fromkeys(term.latch for term in self.terms if term.latch is not None))


Directions = Callable[[str], NamedDirection]


class Nameable:
    """What edits can name in a session: autoencoders, their features, directions.

    Args:
        session: the model with its autoencoders.
        names: what to call the autoencoders, beside their URIs and hook points; as many as there are.
        maxima: of each autoencoder, largest activations of features, where they are known.
        directions: finds a direction by its name; None: there are none.
    """

    def __init__(
        self,
        session: Session,
        names: Sequence[str] = (),
        maxima: Sequence[Maximum | None] = (),
        directions: Directions | None = None,
    ) -> None:
        self.session, self.names, self._maxima = session, tuple(names), tuple(maxima)
        self._directions = directions

    def number(self, name: str | None) -> int:
        """The number of an autoencoder in the session.

        Raises:
            NotFound: none is called so.
            InputError: several are.
        """
        placed = self.session.autoencoders
        if not placed:
            message = "No autoencoder is loaded: edits of features need one."
            raise NotFound(message)
        if name is None:
            return 0
        called = [number for number, one in enumerate(placed) if name in (*self.names[number : number + 1], one.uri)]
        called = called or [number for number, one in enumerate(placed) if name in one.ends.hooks]
        if len(called) > 1:
            message = f"{shortened(name)} stands for {len(called)} autoencoders: name one by its URI."
            raise InputError(message)
        if not called:
            known = ", ".join(self.names or [one.uri for one in placed])
            message = f"There is no autoencoder {shortened(name)} here; there is {known}."
            raise NotFound(message)
        return called[0]

    def latent(self, autoencoder: int, latent: int) -> int:
        """The latent, if there is one of that number.

        Raises:
            NotFound: there is none.
        """
        width = self.session.autoencoders[autoencoder].sae.width
        if latent >= width:
            message = f"There is no feature {latent}: this autoencoder has {width:,}, numbered from 0."
            raise NotFound(message)
        return latent

    def maximum(self, autoencoder: int, latent: int) -> float:
        """The largest activation of a feature that was found.

        Raises:
            InputError: it is not known.
        """
        known = self._maxima[autoencoder] if autoencoder < len(self._maxima) else None
        value = known(latent) if known is not None else None
        if value is None or value <= 0:
            message = (
                f"The largest activation of feature {latent} is not known (find has not met it): give the strength "
                "as absolute or relative."
            )
            raise InputError(message)
        return value

    def direction(self, name: str) -> NamedDirection:
        """A direction by its name.

        Raises:
            NotFound: there is none.
        """
        if self._directions is None:
            message = f"There is no direction {shortened(name)} here: no directions are served."
            raise NotFound(message)
        return self._directions(name)

    def holding(self, edits: Edits) -> "Nameable":
        """The same, with the directions that edits name as they are now: one may be saved anew at any time.

        Raises:
            NotFound: there is no such direction.
        """
        named = dict.fromkeys(name for edit in edits.edits if (name := getattr(edit, "direction", None)) is not None)
        held = {name: self.direction(name) for name in named}
        return Nameable(self.session, self.names, self._maxima, held.__getitem__) if held else self


def compile_edits(edits: Edits, nameable: Nameable) -> CompiledEdits:
    """Look up all that edits name, and make terms of them.

    Raises:
        NotFound: an autoencoder, feature or direction is not there.
        InputError: a feature's maximum is asked for and not known; or a condition is read later than its edit acts.
    """
    nameable = nameable.holding(edits)
    terms = tuple(term for edit in edits.edits for term in _terms(edit, nameable))
    stops = tuple(_gate(when, nameable) for when in edits.stop_when)
    placed = nameable.session.autoencoders
    used = {term.column.autoencoder for term in terms if term.column is not None}
    known = [placed[number].digest for number in sorted(number for number in used if number is not None)]
    known += [nameable.direction(name).digest for edit in edits.edits if (name := getattr(edit, "direction", None))]
    # A number of an autoencoder is only good within a session, so all digests belong to what is hashed.
    known += [one.digest for one in placed]
    content = "\n".join([edits.model_dump_json(), *known, *(str(term.hook.point) for term in terms)])
    return CompiledEdits(terms, stops, hashlib.sha256(content.encode()).hexdigest())


def _terms(edit: Edit, nameable: Nameable) -> Iterator[Term]:
    direction = getattr(edit, "direction", None)
    if direction is not None:
        named = nameable.direction(direction)
        yield _of_direction(edit, named, nameable)
        return
    assert not isinstance(edit, Add | Cap) or edit.latents  # noqa: S101 - what pydantic checked
    number = nameable.number(edit.autoencoder)
    placed = nameable.session.autoencoders[number]
    for latent in edit.latents:
        yield _of_latent(edit, number, nameable.latent(number, latent), placed, nameable)


def _of_direction(edit: Edit, named: NamedDirection, nameable: Nameable) -> Term:
    norm = float(named.vector_D.float().norm())
    if not norm or not math.isfinite(norm):
        message = f"The direction {getattr(edit, 'direction', '')} has the length {norm}: nothing can be done with it."
        raise InputError(message)
    shared = _shared(edit, named.hook, nameable)
    if isinstance(edit, Add):
        unit = edit.unit == "relative"
        vector_D = named.vector_D.float() / norm if unit else named.vector_D.float()
        return Term(named.hook, vector_D, amount=edit.strength, relative=unit, **shared)
    if isinstance(edit, Cap):
        column = Column(None, named.digest)
        return Term(named.hook, named.vector_D.float() / norm, column=column, high=edit.value, **shared)
    message = f"{edit.op} is for features; a direction can be added or capped."
    raise ConfigError(message)


def _of_latent(edit: Edit, number: int, latent: int, placed: PlacedAutoencoder, nameable: Nameable) -> Term:
    hook, vector_D = placed.ends.write, placed.sae.W_dec.detach()[latent].float()
    shared = _shared(edit, hook, nameable)

    def in_unit(value: float, unit: str) -> float:
        return value * nameable.maximum(number, latent) if unit == "feature_max" else value

    match edit:
        case Add(unit="relative"):
            norm = float(vector_D.norm())
            if not norm:
                message = f"Feature {latent} writes nothing: its decoder direction is zero."
                raise InputError(message)
            return Term(hook, vector_D / norm, amount=edit.strength, relative=True, **shared)
        case Add():
            return Term(hook, vector_D, amount=in_unit(edit.strength, edit.unit), **shared)
    column = Column(number, latent)
    match edit:
        case Clamp():
            value = in_unit(edit.value, edit.unit)
            return Term(hook, vector_D, column=column, low=value, high=value, **shared)
        case Scale():
            return Term(hook, vector_D, column=column, gain=edit.factor, **shared)
        case Ablate():
            return Term(hook, vector_D, column=column, gain=0.0, **shared)
        case Cap():
            return Term(hook, vector_D, column=column, high=in_unit(edit.value, edit.unit), **shared)
    raise AssertionError(edit)


class _Shared(TypedDict):
    """What all terms of an edit have."""

    where: Where
    schedule: Schedule | None
    gate: Gate | None
    latch: Gate | None


def _shared(edit: Edit, hook: ResolvedHook, nameable: Nameable) -> _Shared:
    """Where and when a term acts."""
    found = _Shared(where=edit.where, schedule=edit.schedule, gate=None, latch=None)
    if edit.when is None:
        return found
    gate = _gate(edit.when, nameable)
    if edit.when.lasting:
        return {**found, "latch": gate}
    read = nameable.session.autoencoders[gate.autoencoder].ends.read.point
    if not _no_later(read, hook.point):
        message = (
            f"Feature {gate.latent} is read at {read}, later than {hook.point}, where its edit acts: "
            "only a lasting condition can be read there."
        )
        raise InputError(message)
    return {**found, "gate": gate}


def _gate(when: When, nameable: Nameable) -> Gate:
    number = nameable.number(when.autoencoder)
    return Gate(number, nameable.latent(number, when.feature), when.above)


_ORDER = ("resid_pre", "attn_out", "resid_mid", "mlp_in", "mlp_act", "mlp_out", "resid_post")


def _no_later(read: HookPoint, write: HookPoint) -> bool:
    """Whether a pass comes by one hook point before the other, or they are one."""
    return (read.layer, _ORDER.index(read.kind)) <= (write.layer, _ORDER.index(write.kind))
