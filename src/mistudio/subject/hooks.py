"""Hook points: named places in a transformer block where activations are read and replaced.

::

    resid_pre ──┬──────────────(+)── resid_mid ──┬───────────────────(+)── resid_post
                └─ attention ─ attn_out          └─ mlp_in ─ MLP ─ mlp_act ─ mlp_out

They are found in any model by a probe (see ``structure``). ``attn_out`` and ``mlp_out`` are what the two
sublayers add to the residual stream; ``mlp_in`` is what the MLP reads, after the block's norm if there is one, and
``mlp_act`` the input of its last linear layer.

Shape legend: B sequences, T tokens, D width of a hook point, W width as the module sees it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from mistudio.errors import ConfigError, SubjectError
from mistudio.plain_text import shortened
from mistudio.subject.load import Subject, probe_row
from mistudio.subject.points import KINDS, HookPoint
from mistudio.subject.structure import BlockMap, Place, Tap, map_block
from mistudio.subject.taps import disturbing, editing, reading, unedited
from mistudio.subject.trace import StopForward, called_once, watch


@dataclass(frozen=True)
class ResolvedHook:
    """A hook point found in a loaded model, and the width of its activations."""

    point: HookPoint
    place: Place

    @property
    def width(self) -> int:
        """Number of components of an activation here."""
        return self.place.width


def resolve_hooks(subject: Subject, points: Sequence[HookPoint]) -> list[ResolvedHook]:
    """Find hook points in a model; each block is probed once.

    Raises:
        ConfigError: a kind is unknown.
        SubjectError: there is no such layer, or the point does not exist in this model.
    """
    return [_resolve(subject, point) for point in points]


def available_points(subject: Subject, layer: int) -> list[HookPoint]:
    """The hook points that a layer has.

    Raises:
        SubjectError: there is no such layer.
    """
    places = _block_map(subject, layer).places
    return [HookPoint(kind, layer) for kind in KINDS if kind in places]


@torch.no_grad()
def run_captured(
    subject: Subject,
    hooks: Sequence[ResolvedHook],
    input_ids_BT: Tensor,
    attention_mask_BT: Tensor | None = None,
) -> dict[HookPoint, Tensor]:
    """Activations [B, T, D] at each hook point; what comes after the last of them is not computed.

    The tensors are copies on the model's device: some models change theirs in place.

    Raises:
        SubjectError: the model did not pass one of the hook points.
    """
    captured: dict[HookPoint, Tensor] = {}
    missing = {hook.point for hook in hooks}

    def keep(hook: ResolvedHook, value: Tensor) -> None:
        captured[hook.point] = (value.detach() * hook.place.read.scale).reshape(*input_ids_BT.shape, hook.width)
        missing.discard(hook.point)
        if not missing:
            raise StopForward

    with ExitStack() as stack:
        for hook in {hook.point: hook for hook in hooks}.values():
            stack.enter_context(reading(hook.place.read, _bind(keep, hook)))
        _run(subject, input_ids_BT, attention_mask_BT)
    if missing:
        message = f"The forward pass did not reach {', '.join(sorted(map(str, missing)))}."
        raise SubjectError(message)
    return captured


@contextmanager
def observed(subject: Subject, hook: ResolvedHook, look: Callable[[Tensor], None]) -> Iterator[None]:
    """Within this context ``look(value)`` [B, T, D] is called in each forward pass, which goes on unchanged.

    The value has its gradient where there is one, and is a copy. What ``look`` raises ends the pass.
    """
    tap, shape = hook.place.read, _Passing()

    def show(value: Tensor) -> None:
        look((value * tap.scale).reshape(*shape.block_input.shape[:2], hook.width))

    with reading(Tap(subject.blocks[hook.point.layer], "input"), shape.remember), reading(tap, show):
        yield


@contextmanager
def spliced(subject: Subject, hook: ResolvedHook, replace: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within this context a forward pass goes on with ``replace(value)`` [B, T, D] in place of the value.

    Where nothing but the sum exists (resid_mid of most models), what attention adds is changed such that
    the residual stream becomes the replacement. Passes on other threads are not changed but refused: see ``taps``.

    Raises:
        SubjectError: at the end, no forward pass of this thread has come by.
    """
    tap, passing = hook.place.write, _Passing()

    def change(value: Tensor) -> Tensor:
        start_BTD = passing.block_input
        passing_BTW = value.reshape(*start_BTD.shape[:2], hook.width) * tap.scale
        offset: Tensor | float = start_BTD if tap.onto_stream else 0.0
        # The division also makes a copy: the model may change it in place, and it can be a tensor of the caller's.
        changed_BTW = (replace(passing_BTW + offset) - offset) / tap.scale
        return changed_BTW.to(value.dtype).reshape(value.shape)

    block_input = Tap(subject.blocks[hook.point.layer], "input")
    with reading(block_input, passing.remember), editing(tap, change, hook.point):
        yield


class _Passing(threading.local):
    """What the block of a hook was last given, in each thread: its context may have several."""

    block_input: Tensor

    def remember(self, value: Tensor) -> None:
        self.block_input = value


def _resolve(subject: Subject, point: HookPoint) -> ResolvedHook:
    if point.kind not in KINDS:
        message = f"{shortened(point.kind)} is not a kind of hook point; the kinds are {', '.join(KINDS)}."
        raise ConfigError(message)
    block_map = _block_map(subject, point.layer)
    if point.kind not in block_map.places:
        there = ", ".join(map(str, available_points(subject, point.layer)))
        reason = block_map.missing.get(point.kind, "its input or output is not one vector a token")
        message = f"{type(subject.model).__name__} has no {point}: {reason}. Layer {point.layer} has {there or 'none'}."
        raise SubjectError(message)
    return ResolvedHook(point, block_map.places[point.kind])


def _block_map(subject: Subject, layer: int) -> BlockMap:
    if not 0 <= layer < subject.num_layers:
        message = (
            f"There is no layer {layer} in {type(subject.model).__name__}: it has {subject.num_layers} layers, "
            f"0 to {subject.num_layers - 1}."
        )
        raise SubjectError(message)
    key = f"block.{layer}"
    if key not in subject.cache:
        subject.cache[key] = _probe_block(subject, layer)
    found: BlockMap = subject.cache[key]
    return found


@torch.no_grad()
def _probe_block(subject: Subject, layer: int) -> BlockMap:
    """Run two rows of the same random tokens as far as the block, and map it from what its modules did.

    The block's input at position 0 of the second row is changed: what differs further on passed through attention.
    """
    block = subject.blocks[layer]
    ids_BT = probe_ids(subject)
    shared = {id(module) for other in subject.blocks if other is not block for module in other.modules()}
    modules = [module for module in block.modules() if id(module) not in shared]

    def disturb(value: Tensor) -> Tensor:
        changed = value.clone()
        changed[1, 0] = -changed[1, 0].roll(1)
        return changed

    def stop(_value: Tensor) -> None:
        raise StopForward

    with unedited(), disturbing(Tap(block, "input"), disturb), watch(modules, *ids_BT.shape) as calls:
        with reading(Tap(block, "output"), stop):
            _run(subject, ids_BT, None)
        return map_block(block, called_once(calls))


def probe_ids(subject: Subject) -> Tensor:
    """Two rows [2, T] of the same few random token ids."""
    return probe_row(subject.vocab_size, subject.max_positions).repeat(2, 1).to(subject.device)


def _run(subject: Subject, input_ids_BT: Tensor, attention_mask_BT: Tensor | None) -> None:
    try:
        subject.model(input_ids=input_ids_BT, attention_mask=attention_mask_BT)
    except StopForward:
        return


def _bind(keep: Callable[[ResolvedHook, Tensor], None], hook: ResolvedHook) -> Callable[[Tensor], None]:
    return lambda value: keep(hook, value)
