"""Find attention and MLP in a transformer block from what its modules compute, not from their names.

A block adds two things to the residual stream: what attention computes and what the MLP computes. Given the
calls of one forward pass, the two modules are those whose outputs account for the block's output by additions:

- sequential, normed before: some module reads r0 + A, and the block returns r0 + A + M;
- sequential, normed after: a norm reads r0 + A and returns r1, another reads r1 + M and returns the block's output;
- parallel: the block returns r0 + A + M and no module reads r0 + A.

Additions are repeated in the model's own number format, so that the right modules match to the last bit.
Where nothing matches, a constant multiplier before the additions is tried.

Shape legend: B sequences, T tokens, D model width.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn

from mistudio.subject.trace import Call

_RELATIVE_TOLERANCE = 1e-3  # of the typical size of what is added
_BETTER_THAN_NOTHING = 0.3  # an addition must explain most of the difference it is there for
_MIXES = 1e-3  # relative change at other positions, above what rounding does
_MIXES_MORE = 10.0
_NO_PAIR = "no two modules of this block add up to what it adds to the residual stream"
_PARALLEL = "the block computes attention and MLP in parallel, so there is no residual stream between them"
_NO_INPUT = "no one module reads all that the MLP reads"
_NO_PROJECTION = "the MLP does not end in one linear layer that sees every token (a mixture of experts, for example)"


@dataclass(frozen=True)
class Tap:
    """One side of a module; the value at a hook point is ``scale`` times what passes there.

    With ``onto_stream`` the value is that plus the block's input.
    """

    module: nn.Module
    side: Literal["input", "output"]
    scale: float = 1.0
    onto_stream: bool = False


@dataclass(frozen=True)
class Place:
    """Where a value is read, where it is replaced, and its width."""

    read: Tap
    write: Tap
    width: int


@dataclass(frozen=True)
class BlockMap:
    """The places of one block by kind of hook point, and why the other kinds do not exist."""

    places: Mapping[str, Place]
    missing: Mapping[str, str]


@dataclass(frozen=True)
class _Addition:
    """``base + scale * call.output`` is the target, up to ``error`` in units of the tolerance."""

    call: Call
    output_BTD: Tensor
    scale: float
    error: float


@dataclass(frozen=True)
class _Parts:
    """The two additions of a block, and where the stream between them can be read and replaced."""

    attention: _Addition
    mlp: _Addition
    middle_read: Tap | None = None
    middle_write: Tap | None = None
    error: float = field(default=0.0, compare=False)


def map_block(block: nn.Module, calls: list[Call]) -> BlockMap:
    """Map a block from its own call and those of the modules inside it.

    Rows 0 and 1 of the calls are the same tokens, with the block's input at position 0 of row 1 changed.
    """
    whole = next(call for call in calls if call.module is block)
    start_BTD, end_BTD = whole.input_BTW, whole.output_BTW
    if start_BTD is None or end_BTD is None:
        return BlockMap({}, {})
    width = start_BTD.shape[-1]
    places = {
        "resid_pre": _place(Tap(block, "input"), width),
        "resid_post": _place(Tap(block, "output"), width),
    }
    inner = [call for call in calls if call.module is not block]
    parts = (
        _sequential(start_BTD, end_BTD, inner, scaled=False)
        or _parallel(start_BTD, end_BTD, inner)
        or _sequential(start_BTD, end_BTD, inner, scaled=True)
    )
    if parts is None:
        return BlockMap(places, dict.fromkeys(("attn_out", "resid_mid", "mlp_in", "mlp_out", "mlp_act"), _NO_PAIR))
    missing = {}
    for kind, part in (("attn_out", parts.attention), ("mlp_out", parts.mlp)):
        places[kind] = _place(Tap(part.call.module, "output", part.scale), width)
    if parts.middle_read and parts.middle_write:
        places["resid_mid"] = Place(parts.middle_read, parts.middle_write, width)
    else:
        missing["resid_mid"] = _PARALLEL
    projection = _last_projection(parts.mlp, inner)
    if projection is not None and projection.input_BTW is not None:
        places["mlp_act"] = _place(Tap(projection.module, "input"), projection.input_BTW.shape[-1])
    else:
        missing["mlp_act"] = _NO_PROJECTION
    entry = _entry(parts, inner, has_experts=projection is None)
    if entry is not None and entry.input_BTW is not None:
        places["mlp_in"] = _place(Tap(entry.module, "input"), entry.input_BTW.shape[-1])
    else:
        missing["mlp_in"] = _NO_INPUT
    return BlockMap(places, missing)


def is_linear(module: nn.Module) -> bool:
    """Whether a module multiplies by a matrix, whatever its class: Linear, Conv1D or a quantised one."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2 and not isinstance(module, nn.Embedding)


def _place(tap: Tap, width: int) -> Place:
    return Place(tap, tap, width)


def _sequential(start_BTD: Tensor, end_BTD: Tensor, calls: list[Call], *, scaled: bool) -> _Parts | None:
    """Attention first, MLP second, each added to the stream; the best match over all readers of the middle."""
    found = []
    for reader in calls:
        if reader.input_BTW is None or reader.input_BTW.shape != start_BTD.shape:
            continue
        before = [call for call in calls if call.end < reader.start]
        attention = _best_addition(start_BTD, reader.input_BTW, before, scaled=scaled)
        if attention is None:
            continue
        parts = _pre_norm(reader, reader.input_BTW, attention, end_BTD, calls, scaled=scaled)
        found.append(parts or _post_norm(reader, attention, end_BTD, calls, scaled=scaled))
    return min((parts for parts in found if parts is not None), key=lambda parts: parts.error, default=None)


def _pre_norm(
    reader: Call, middle_BTD: Tensor, attention: _Addition, end_BTD: Tensor, calls: list[Call], *, scaled: bool
) -> _Parts | None:
    """The reader sees the stream itself, and the MLP's output is added to that."""
    after = [call for call in calls if call.start >= reader.start]
    mlp = _best_addition(middle_BTD, end_BTD, after, scaled=scaled)
    if mlp is None:
        return None
    write = Tap(attention.call.module, "output", attention.scale, onto_stream=True)
    return _Parts(attention, mlp, Tap(reader.module, "input"), write, attention.error + mlp.error)


def _post_norm(norm: Call, attention: _Addition, end_BTD: Tensor, calls: list[Call], *, scaled: bool) -> _Parts | None:
    """The reader is a norm whose output is the stream; a second norm gives the block's output."""
    if norm.output_BTW is None:
        return None
    for last in calls:
        if last.start < norm.end or last.input_BTW is None or not _same(last.output_BTW, end_BTD):
            continue
        between = [call for call in calls if norm.end < call.start and call.end < last.start]
        mlp = _best_addition(norm.output_BTW, last.input_BTW, between, scaled=scaled)
        if mlp is not None:
            middle = Tap(norm.module, "output")
            return _Parts(attention, mlp, middle, middle, attention.error + mlp.error)
    return None


def _parallel(start_BTD: Tensor, end_BTD: Tensor, calls: list[Call]) -> _Parts | None:
    """Attention and MLP read the same stream; attention is the one that carries news between positions."""
    outputs = [(call, call.output_BTW) for call in calls if call.output_BTW is not None]
    outputs = [(call, output) for call, output in outputs if output.shape == start_BTD.shape]
    best: tuple[float, int] | None = None
    pair: list[_Addition] = []
    for (one, one_BTD), (two, two_BTD) in combinations(sorted(outputs, key=lambda pair: pair[0].end), 2):
        sums = (start_BTD + one_BTD + two_BTD, one_BTD + two_BTD + start_BTD)
        smaller_BTD = min(one_BTD, two_BTD, key=_size)
        error, total_BTD = min(((_error(total, end_BTD, smaller_BTD), total) for total in sums), key=lambda sum: sum[0])
        alone = (start_BTD + one_BTD, start_BTD + two_BTD)
        if error > 1 or not all(_explains(total_BTD, base, end_BTD) for base in alone):
            continue
        rank = (-error, one.end + two.end)
        if best is None or rank > best:
            best = rank
            pair = [_Addition(one, one_BTD, 1.0, error), _Addition(two, two_BTD, 1.0, error)]
    if not pair:
        return None
    mlp, attention = sorted(pair, key=lambda part: _mixing(part.output_BTD))
    if _mixing(attention.output_BTD) < max(_MIXES, _MIXES_MORE * _mixing(mlp.output_BTD)):
        return None
    return _Parts(attention, mlp)


def _best_addition(base_BTD: Tensor, target_BTD: Tensor, calls: Iterable[Call], *, scaled: bool) -> _Addition | None:
    """The call whose output leads from base to target; of equal ones the last executed."""
    found = []
    for call in calls:
        part_BTD = call.output_BTW
        if part_BTD is None or part_BTD.shape != base_BTD.shape or base_BTD.shape != target_BTD.shape:
            continue
        scale = _fitted_scale(base_BTD, part_BTD, target_BTD) if scaled else 1.0
        total_BTD = base_BTD + part_BTD * scale
        error = _error(total_BTD, target_BTD, part_BTD * scale)
        if error <= 1 and _explains(total_BTD, base_BTD, target_BTD):
            found.append(_Addition(call, part_BTD, scale, error))
    return max(found, key=lambda addition: (-addition.error, addition.call.end), default=None)


def _error(total_BTD: Tensor, target_BTD: Tensor, part_BTD: Tensor) -> float:
    """Distance in units of what rounding alone may cause; element by element, for a few are often huge."""
    rounding = torch.finfo(target_BTD.dtype).eps / 2
    allowed_BTD = rounding * target_BTD.double().abs() + _RELATIVE_TOLERANCE * _size(part_BTD) + 1e-30
    return _size((total_BTD.double() - target_BTD.double()) / allowed_BTD)


def _explains(total_BTD: Tensor, base_BTD: Tensor, target_BTD: Tensor) -> bool:
    """Whether the sum is much closer to the target than what was there before it."""
    target_BTD = target_BTD.double()
    return _size(total_BTD.double() - target_BTD) < _BETTER_THAN_NOTHING * _size(base_BTD.double() - target_BTD)


def _fitted_scale(base_BTD: Tensor, part_BTD: Tensor, target_BTD: Tensor) -> float:
    """The multiplier of the part by least squares; elements that rounding blurs more count for less."""
    base_BTD, part_BTD, target_BTD = base_BTD.double(), part_BTD.double(), target_BTD.double()
    weight_BTD = 1 / (target_BTD.square() + part_BTD.square() + 1e-30)
    total = (weight_BTD * part_BTD.square()).sum()
    return float((weight_BTD * part_BTD * (target_BTD - base_BTD)).sum() / (total + 1e-30))


def _mixing(output_BTD: Tensor) -> float:
    """How much the positions after the first differ between two rows that differ at the first, relative."""
    rows = output_BTD[:, 1:].double()
    return _size(rows[0] - rows[1]) / (_size(rows) + 1e-30)


def _last_projection(mlp: _Addition, calls: list[Call]) -> Call | None:
    """The linear layer whose output is the MLP's, directly or through one more module such as a norm."""
    candidates = [call for call in _giving(mlp, calls) if is_linear(call.module)]
    return max(candidates, key=lambda call: call.end, default=None)


def _giving(mlp: _Addition, calls: list[Call]) -> list[Call]:
    """The calls whose output is the MLP's, directly or through one more module, in order of their start."""
    results = [mlp.output_BTD]
    for call in calls:
        if _is_leaf(call) and call.input_BTW is not None and _same(call.output_BTW, mlp.output_BTD):
            results.append(call.input_BTW)
    return [
        call for call in calls if call.end <= mlp.call.end and any(_same(call.output_BTW, result) for result in results)
    ]


def _entry(parts: _Parts, calls: list[Call], *, has_experts: bool) -> Call | None:
    """The call whose input is what the MLP reads, and that no part of the MLP goes round.

    That is what its first linear layer reads, and of the modules that are given it the smallest that holds all
    others: the norm before it may be shared with attention, or be the stream itself. Experts that see some tokens
    each are not seen reading it; then it has to be the largest, with the experts inside.
    """
    within = _mlp_calls(parts, calls)
    first = next((call for call in within if is_linear(call.module)), None)
    if first is None:
        return None
    readers = [call for call in within if _same(call.input_BTW, first.input_BTW)]
    last = [call for call in readers if not any(_holds(call, other) for other in readers)]
    around = [call for call in readers if all(call is other or _holds(call, other) for other in last)]
    if has_experts:
        return next((call for call in around if not _is_leaf(call)), None)
    return max(around, key=lambda call: call.start, default=None)


def _mlp_calls(parts: _Parts, calls: list[Call]) -> list[Call]:
    """The calls between attention and what the MLP adds; of a parallel block those in the module that is its MLP."""
    mlp = parts.mlp
    if parts.middle_read is not None:
        return [call for call in calls if parts.attention.call.end < call.start and call.end <= mlp.call.end]
    module = next((call for call in _giving(mlp, calls) if not _is_leaf(call)), None)
    return [call for call in calls if module and (call is module or _holds(module, call))]


def _holds(outer: Call, inner: Call) -> bool:
    return outer.start < inner.start and inner.end < outer.end


def _is_leaf(call: Call) -> bool:
    return next(call.module.children(), None) is None


def _same(one: Tensor | None, two: Tensor | None) -> bool:
    return one is not None and two is not None and one.shape == two.shape and torch.equal(one, two)


def _size(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())
