"""The edits of all rows of a batch as tensors: what the hooks of a pass add up, without asking who wants it.

Each row has its own edits, tokens and factors. They are put side by side before the pass: a tensor of what is added,
and for values that are read and changed (latents, projections) one column for each that any row asks for, with numbers
by row that say what becomes of it. A row that asks for nothing there has the factor 0. Rows with equal edits share what
was made of them.

Rows lie side by side in a pass, padded on the left to the length of the longest, or end to end in one line
(:class:`~mistudio.instrument.layout.Layout`): R and T are then 1 and the tokens of all rows.

Shape legend: R rows, T tokens of a row in this pass, D width of a hook point, J terms, U columns, C constants.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mistudio.instrument.compiled import Column, CompiledEdits, Gate, Term
from mistudio.instrument.layout import Layout
from mistudio.instrument.readouts import LatentReadout, ProjectionReadout, Readout
from mistudio.instrument.session import Session
from mistudio.instrument.where import PromptTokens, acts_on, constant_from, factor_at
from mistudio.subject import HookPoint

Factors = NDArray[np.float32]
Latent = tuple[int, int]  # number of the autoencoder, number of the latent
_KEPT_PARTS = 1024  # what different edits do to one token
_KEPT_READOUTS = 64


class RowEdits:
    """The edits of one row, and what has switched them on so far.

    Args:
        compiled: what is done.
        prompt: the row's prompt.
    """

    def __init__(self, compiled: CompiledEdits, prompt: PromptTokens) -> None:
        self.compiled, self.prompt = compiled, prompt
        self.fired: dict[Gate, int] = {}  # place of the token on which it did first
        ends = [constant_from(term.where, term.schedule, prompt.length) for term in compiled.terms]
        self._constant_from = max(ends, default=0)

    def factors(self, place_T: NDArray[np.int64], exempt_T: NDArray[np.bool_]) -> Factors:
        """What each term is multiplied by on tokens [T, J]."""
        terms = self.compiled.terms
        factor_TJ = np.zeros((len(place_T), len(terms)), dtype=np.float32)
        for number, term in enumerate(terms):
            if term.is_everywhere:
                factor_TJ[:, number] = ~exempt_T
                continue
            on_T = acts_on(term.where, self.prompt, place_T, exempt_T)
            if term.latch is not None:
                on_T &= place_T > self.fired.get(term.latch, 1 << 60)
            factor_TJ[:, number] = on_T * factor_at(term.schedule, self.prompt.length, place_T)
        return factor_TJ

    def is_constant(self, place: int) -> bool:
        """Whether from this place on each generated token that is not special has the same factors."""
        return place >= self._constant_from


class RowSlice(NamedTuple):
    """What a row brings to a pass."""

    edits: CompiledEdits | None
    factor_TJ: Factors | None  # of its tokens in the pass


@dataclass(eq=False)
class _Part:
    """What one row does at one hook point behind one gate."""

    delta_TD: Tensor | None = None
    relative_TD: Tensor | None = None
    columns: list[tuple[Column, Term]] = field(default_factory=list)
    factor_TU: Factors | None = None


@dataclass(frozen=True, eq=False)
class ColumnEdits:
    """Values that are read and changed, of one autoencoder or of projections.

    The new value is ``clip(gain * value, low, high)``, and ``factor`` times the difference is written.
    """

    source: int | ProjectionReadout  # number of the autoencoder whose reading it is, or what reads
    index_U: Tensor | None  # columns of that reading; None: all, in order
    write_UD: Tensor
    gain_R1U: Tensor | None  # None: all 1
    low_R1U: Tensor | None  # None: no row has one
    high_R1U: Tensor | None
    factor_RTU: Tensor | None  # None: all 1

    def delta(self, value_RTU: Tensor) -> Tensor:
        """What is to be added [R, T, D]."""
        new_RTU = value_RTU if self.gain_R1U is None else value_RTU * self.gain_R1U
        if self.low_R1U is not None or self.high_R1U is not None:
            new_RTU = torch.clamp(new_RTU, self.low_R1U, self.high_R1U)
        changed_RTU = new_RTU - value_RTU
        return (changed_RTU if self.factor_RTU is None else changed_RTU * self.factor_RTU) @ self.write_UD


@dataclass(frozen=True, eq=False)
class GroupEdits:
    """Edits at one hook point that are behind one gate, or behind none."""

    gate: tuple[int, int, float] | None  # autoencoder, column of its reading, value to exceed
    delta_RTD: Tensor | None
    relative_RTD: Tensor | None
    columns: tuple[ColumnEdits, ...]


@dataclass(frozen=True, eq=False)
class Reading:
    """What is read of one autoencoder in a pass."""

    readout: Readout
    latents: tuple[int, ...]

    def column_of(self) -> dict[int, int]:
        """The column of each latent."""
        return {latent: column for column, latent in enumerate(self.latents)}


@dataclass(frozen=True, eq=False)
class PassEdits:
    """All that hooks do in one pass.

    Attributes:
        groups: edits, by hook point.
        before: what is read as it arrives, by autoencoder.
        after: what is read as the model goes on with it, by autoencoder.
    """

    groups: Mapping[HookPoint, tuple[GroupEdits, ...]]
    before: Mapping[int, Reading]
    after: Mapping[int, Reading]


class EditTable:
    """Makes the tensors of passes.

    Args:
        session: the model and its autoencoders.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._parts: dict[tuple[str, bytes], dict[tuple[HookPoint, Gate | None], _Part]] = {}
        self._readouts: dict[tuple[int, tuple[int, ...]], Reading] = {}

    def edits(
        self, rows: Sequence[RowSlice], layout: Layout, watched: Iterable[Latent] = (), read: Iterable[Latent] = ()
    ) -> PassEdits | None:
        """What the hooks are to do; None where nothing is asked for.

        Args:
            rows: of the batch, in order.
            layout: where their tokens lie.
            watched: latents that are read after the edits.
            read: latents that are read before them, beside those that edits need.
        """
        parts = [self._parts_of(row) for row in rows]
        places = list(dict.fromkeys(place for part in parts for place in part))
        before = set(read)
        for _, gate in places:
            before |= {(gate.autoencoder, gate.latent)} if gate else set()
        for part in parts:
            for one in part.values():
                before |= {(c.autoencoder, int(c.name)) for c, _ in one.columns if c.autoencoder is not None}
        reads, after = self._readings(before), self._readings(watched)
        if not places and not reads and not after:
            return None
        groups: dict[HookPoint, list[GroupEdits]] = defaultdict(list)
        for place in places:
            groups[place[0]].append(_group(place[1], [part.get(place) for part in parts], layout, reads))
        return PassEdits({point: tuple(each) for point, each in groups.items()}, reads, after)

    def _readings(self, latents: Iterable[Latent]) -> dict[int, Reading]:
        wanted: dict[int, set[int]] = defaultdict(set)
        for autoencoder, latent in latents:
            wanted[autoencoder].add(latent)
        return {number: self._reading(number, tuple(sorted(some))) for number, some in wanted.items()}

    def _reading(self, number: int, latents: tuple[int, ...]) -> Reading:
        key = (number, latents)
        if key not in self._readouts:
            if len(self._readouts) >= _KEPT_READOUTS:
                self._readouts.pop(next(iter(self._readouts)))
            self._readouts[key] = Reading(LatentReadout.of(self._session.placed(number).sae, latents), latents)
        return self._readouts[key]

    def _parts_of(self, row: RowSlice) -> dict[tuple[HookPoint, Gate | None], _Part]:
        """What a row does, by hook point and gate; kept for rows with one token, as those that generate have."""
        if row.edits is None or row.factor_TJ is None or not row.factor_TJ.any():
            return {}
        if len(row.factor_TJ) > 1:
            return _parts(row.edits.terms, row.factor_TJ)
        key = (row.edits.digest, row.factor_TJ.tobytes())
        if key not in self._parts:
            if len(self._parts) >= _KEPT_PARTS:
                self._parts.pop(next(iter(self._parts)))
            self._parts[key] = _parts(row.edits.terms, row.factor_TJ)
        return self._parts[key]


def _parts(terms: Sequence[Term], factor_TJ: Factors) -> dict[tuple[HookPoint, Gate | None], _Part]:
    """What some terms do on some tokens."""
    numbers: dict[tuple[HookPoint, Gate | None], list[int]] = defaultdict(list)
    for number in np.flatnonzero(factor_TJ.any(axis=0)).tolist():
        numbers[terms[number].hook.point, terms[number].gate].append(number)
    return {place: _part(terms, factor_TJ, some) for place, some in numbers.items()}


def _part(terms: Sequence[Term], factor_TJ: Factors, numbers: Sequence[int]) -> _Part:
    part = _Part()
    read = [number for number in numbers if terms[number].column is not None]
    for is_relative in (False, True):
        added = [n for n in numbers if terms[n].column is None and terms[n].relative == is_relative]
        if not added:
            continue
        vector_CD = torch.stack([terms[number].vector_D for number in added])
        amount_C = np.array([terms[number].amount for number in added], dtype=np.float32)
        factor_TC = torch.from_numpy(factor_TJ[:, added] * amount_C).to(vector_CD.device)
        setattr(part, "relative_TD" if is_relative else "delta_TD", factor_TC @ vector_CD)
    for number in read:
        term = terms[number]
        assert term.column is not None  # noqa: S101 - chosen above
        part.columns.append((term.column, term))
    if read:
        part.factor_TU = factor_TJ[:, read]
    return part


def _group(
    gate: Gate | None, parts: Sequence[_Part | None], layout: Layout, reads: Mapping[int, Reading]
) -> GroupEdits:
    """The parts of all rows side by side."""
    columns = []
    sources = dict.fromkeys(c.autoencoder for part in parts if part for c, _ in part.columns)
    for source in sources:
        columns.append(_columns(source, parts, layout, reads))
    behind = None
    if gate is not None:
        behind = (gate.autoencoder, reads[gate.autoencoder].column_of()[gate.latent], gate.above)
    return GroupEdits(
        gate=behind,
        delta_RTD=_together([part.delta_TD if part else None for part in parts], layout),
        relative_RTD=_together([part.relative_TD if part else None for part in parts], layout),
        columns=tuple(columns),
    )


def _together(parts: Sequence[Tensor | None], layout: Layout) -> Tensor | None:
    """What rows bring [R, T, D], with zeros where they bring nothing."""
    some = next((part for part in parts if part is not None), None)
    if some is None:
        return None
    num_lines, num_tokens = layout.shape
    if all(part is some for part in parts) and len(some) == (num_tokens if layout.has_lines else 1):
        return some.expand(num_lines, num_tokens, -1)
    whole_RTD = some.new_zeros(num_lines, num_tokens, some.shape[-1])
    for span, part in zip(layout.spans, parts, strict=True):
        if part is not None:
            whole_RTD[span] = part
    return whole_RTD


def _columns(
    source: int | None, parts: Sequence[_Part | None], layout: Layout, reads: Mapping[int, Reading]
) -> ColumnEdits:
    """The columns that any row changes, of one autoencoder or of all projections.

    A row may change one value in several ways, on different tokens for example: each has a column of its own.
    """
    place_of: dict[tuple[Column, int], int] = {}
    term_of: list[Term] = []
    entries: list[tuple[int, int, int, Term]] = []  # row, its own number, column, term
    for row, part in enumerate(parts):
        seen: dict[Column, int] = defaultdict(int)
        for own, (column, term) in enumerate(part.columns if part else ()):
            if column.autoencoder != source:
                continue
            key = (column, seen[column])
            seen[column] += 1
            if key not in place_of:
                place_of[key] = len(place_of)
                term_of.append(term)
            entries.append((row, own, place_of[key], term))
    (num_lines, num_tokens), num_columns = layout.shape, len(place_of)
    # A row's limits hold on all of its tokens: one number for a line of its own.
    limits = np.empty((3, num_lines, 1 if layout.has_lines else num_tokens, num_columns), dtype=np.float32)
    limits[0], limits[1], limits[2] = 1.0, -math.inf, math.inf
    factor_RTU = np.zeros((num_lines, num_tokens, num_columns), dtype=np.float32)
    for row, own, place, term in entries:
        line, tokens = layout.spans[row]
        on_T = slice(None) if layout.has_lines else tokens
        limits[:, line, on_T, place] = np.array([[term.gain], [term.low], [term.high]], dtype=np.float32)
        part = parts[row]
        assert part is not None  # noqa: S101 - it brought the entry
        assert part.factor_TU is not None  # noqa: S101
        factor_RTU[line, tokens, place] = part.factor_TU[:, own]
    write_UD = torch.stack([term.vector_D for term in term_of])
    idle = (1.0, -math.inf, math.inf, 1.0)
    gain, low, high, factors = (
        None if (each == nothing).all() else torch.from_numpy(each).to(write_UD.device)
        for each, nothing in zip((*limits, factor_RTU), idle, strict=True)
    )
    if source is None:
        return ColumnEdits(ProjectionReadout(write_UD), None, write_UD, gain, low, high, factors)
    column_of = reads[source].column_of()
    index = [column_of[int(column.name)] for column, _ in place_of]
    index_U = None if index == list(range(len(column_of))) else torch.tensor(index, device=write_UD.device)
    return ColumnEdits(source, index_U, write_UD, gain, low, high, factors)
