"""Hooks that do to a forward pass what its table says, and read from it what it says.

The hooks are put into the model once and act in passes of the thread that made them, while one is run through
:meth:`Attached.run`; all other passes go by untouched. A pass in which an edit that was asked for did not act is an
error, never an answer.

Shape legend: R rows, T tokens, D width of a hook point, U columns of a reading.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Self, TypeVar

import torch
from torch import Tensor

from mistudio.errors import SubjectError
from mistudio.instrument.session import Session
from mistudio.instrument.table import ColumnEdits, GroupEdits, PassEdits
from mistudio.subject import HookPoint, ResolvedHook, resolve_hooks
from mistudio.subject.structure import Tap
from mistudio.subject.taps import disturbing, reading

Result = TypeVar("Result")
_SMALL = 1e-12


@dataclass(eq=False)
class PassReadings:
    """What was read in a pass.

    Attributes:
        before: activations as they arrived, by autoencoder, each [R, T, U].
        after: as the model went on with them.
        dose: by hook point, the norm of what was changed over the activation's [R, T], where that was asked for.
    """

    before: dict[int, Tensor] = field(default_factory=dict)
    after: dict[int, Tensor] = field(default_factory=dict)
    dose: dict[HookPoint, Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class _Current:
    """A pass that is under way."""

    edits: PassEdits
    shape: tuple[int, int]
    points: set[HookPoint]  # where there is something to do
    measures_dose: bool
    readings: PassReadings = field(default_factory=PassReadings)
    met: set[HookPoint] = field(default_factory=set)

    def reads(self, readers: tuple[int, ...]) -> bool:
        """Whether any of these autoencoders is read in the pass."""
        return any(number in self.edits.before or number in self.edits.after for number in readers)

    def read_and_changed(
        self, point: HookPoint, readers: tuple[int, ...], groups: tuple[GroupEdits, ...], x_RTD: Tensor
    ) -> Tensor | None:
        """Read what is to be read at a hook point; what its edits add there."""
        readings = self.readings
        for number in readers:
            if number in self.edits.before:
                readings.before[number] = self.edits.before[number].readout.read(x_RTD)
        delta_RTD = _delta(groups, x_RTD, readings)
        if self.measures_dose and delta_RTD is not None:
            size_RT = x_RTD.float().norm(dim=-1)
            readings.dose[point] = delta_RTD.norm(dim=-1) / size_RT.clamp(min=_SMALL)
        for number in readers:
            if number in self.edits.after:
                y_RTD = x_RTD if delta_RTD is None else x_RTD + delta_RTD.to(x_RTD.dtype)
                readings.after[number] = self.edits.after[number].readout.read(y_RTD)
        return delta_RTD


class Attached:
    """Hooks in a model; use it in a ``with`` block, in the thread that runs the passes.

    Args:
        session: the model and its autoencoders.
    """

    def __init__(self, session: Session) -> None:
        self._session, self._stack = session, ExitStack()
        self._there: set[HookPoint] = set()
        self._current: _Current | None = None
        self._inputs: dict[int, Tensor] = {}  # what blocks were given, where that is needed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()
        self._there.clear()

    def run(
        self, edits: PassEdits | None, shape: tuple[int, int], forward: Callable[[], Result], *, dose: bool = False
    ) -> tuple[Result, PassReadings]:
        """A forward pass of R rows and T tokens with its edits.

        Raises:
            SubjectError: the pass did not come by a hook point where it had something to do.
        """
        if edits is None:
            return forward(), PassReadings()
        needed = self._points(edits)
        self._attach(needed)
        self._current = current = _Current(edits, shape, needed, dose)
        try:
            result = forward()
        finally:
            self._current = None
            self._inputs.clear()
        missed = sorted(map(str, needed - current.met))
        if missed:
            message = f"An edit or reading at {', '.join(missed)} did not act: the forward pass never came by."
            raise SubjectError(message)
        return result, current.readings

    def _points(self, edits: PassEdits) -> set[HookPoint]:
        placed = self._session.autoencoders
        return {
            *edits.groups,
            *(placed[number].ends.read.point for number in edits.before),
            *(placed[number].ends.read.point for number in edits.after),
        }

    def _attach(self, points: Iterable[HookPoint]) -> None:
        for point in points:
            if point in self._there:
                continue
            (hook,) = resolve_hooks(self._session.subject, [point])
            if hook.place.write.onto_stream:
                block_input = Tap(self._session.subject.blocks[point.layer], "input")
                self._stack.enter_context(reading(block_input, self._keeper(point.layer)))
            self._stack.enter_context(disturbing(hook.place.write, self._changer(hook)))
            self._there.add(point)

    def _keeper(self, layer: int) -> Callable[[Tensor], None]:
        def keep(value: Tensor) -> None:
            if self._current is not None:
                self._inputs[layer] = value

        return keep

    def _changer(self, hook: ResolvedHook) -> Callable[[Tensor], Tensor]:
        """What is put in place of a value that passes a hook point."""
        placed = self._session.autoencoders
        readers = tuple(number for number, one in enumerate(placed) if one.ends.read.point == hook.point)

        def change(value: Tensor) -> Tensor:
            current = self._current
            if current is None or hook.point not in current.points:
                return value
            current.met.add(hook.point)
            groups = current.edits.groups.get(hook.point, ())
            if _only_adds(groups) and not current.reads(readers) and not current.measures_dose:
                (delta_RTD,) = (group.delta_RTD for group in groups)
                assert delta_RTD is not None  # noqa: S101 - as _only_adds says
                return _added(value, delta_RTD, hook, current.shape)
            x_RTD = value.reshape(*current.shape, hook.width)
            if hook.place.write.scale != 1.0:
                x_RTD = x_RTD * hook.place.write.scale
            if hook.place.write.onto_stream:
                x_RTD = x_RTD + self._inputs[hook.point.layer].reshape(x_RTD.shape)
            delta = current.read_and_changed(hook.point, readers, groups, x_RTD)
            return value if delta is None else _added(value, delta, hook, current.shape)

        return change


def _added(value: Tensor, delta_RTD: Tensor, hook: ResolvedHook, shape: tuple[int, int]) -> Tensor:
    """What passes a hook point with something added to it, in the module's own layout and scale."""
    scale = hook.place.write.scale
    scaled = delta_RTD if scale == 1.0 else delta_RTD / scale
    return value + scaled.expand(*shape, -1).reshape(value.shape).to(value.dtype)


def _only_adds(groups: tuple[GroupEdits, ...]) -> bool:
    """Whether all there is to do is to add one tensor."""
    return (
        len(groups) == 1
        and groups[0].gate is None
        and groups[0].delta_RTD is not None
        and groups[0].relative_RTD is None
        and not groups[0].columns
    )


def _delta(groups: tuple[GroupEdits, ...], x_RTD: Tensor, readings: PassReadings) -> Tensor | None:
    """What all groups together add to activations, in float32."""
    total: Tensor | None = None
    for group in groups:
        part = _delta_of(group, x_RTD, readings)
        if group.gate is not None:
            number, column, above = group.gate
            part = part * (readings.before[number][..., column, None] > above)
        total = part if total is None else total + part
    return total


def _delta_of(group: GroupEdits, x_RTD: Tensor, readings: PassReadings) -> Tensor:
    parts = []
    if group.delta_RTD is not None:
        parts.append(group.delta_RTD)
    if group.relative_RTD is not None:
        parts.append(group.relative_RTD * x_RTD.float().norm(dim=-1, keepdim=True))
    parts += [columns.delta(_values(columns, x_RTD, readings)) for columns in group.columns]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total.expand(*x_RTD.shape[:2], -1)


def _values(columns: ColumnEdits, x_RTD: Tensor, readings: PassReadings) -> Tensor:
    """What is to be changed, as it arrived [R, T, U]."""
    if not isinstance(columns.source, int):
        return columns.source.read(x_RTD)
    value_RTU = readings.before[columns.source]
    return value_RTU if columns.index_U is None else torch.index_select(value_RTU, -1, columns.index_U)
