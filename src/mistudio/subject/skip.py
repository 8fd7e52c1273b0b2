"""Forward passes that leave the first blocks of a model out: what they would have returned is handed in.

The model's own forward pass runs otherwise: embeddings, masks and positions, the blocks that are left, the last norm
and the output head, whatever they are in this family. A block that is left out returns what it was given, in the form
that it always returns it; the last of them returns what was handed in. Hooks on these blocks act as ever.

A pass of another thread or task meanwhile is not touched (see :mod:`mistudio.subject.taps`).

Shape legend: B sequences, T tokens, D model width.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

from mistudio.subject.load import Subject
from mistudio.subject.trace import hidden_in, with_hidden_out

Form = Callable[[Tensor], Any]  # puts hidden states into what a block returns

_left_out_here: ContextVar[Mapping[int, Form] | None] = ContextVar("left_out_here", default=None)  # by id of the block
_swapping = threading.Lock()
_swapped: dict[int, tuple[int, Callable[..., Any] | None]] = {}  # how many contexts did, and what was there before


def form_of(output: Any, hidden: Tensor | None) -> Form:
    """How a block returns hidden states: alone, or in a tuple; other tensors in it are left out."""
    if not isinstance(output, tuple | list):
        return lambda value: value
    kept = type(output)(part if part is hidden or not isinstance(part, Tensor) else None for part in output)
    if hidden is None:
        return lambda _value: kept
    marker = hidden.new_empty(0)  # so that no activations are held on to
    kept = with_hidden_out(kept, hidden, marker)
    return lambda value: with_hidden_out(kept, marker, value)


@contextmanager
def skipping(subject: Subject, forms: Sequence[Form], hidden_BTD: Tensor | None = None) -> Iterator[None]:
    """Within this context forward passes leave the first ``len(forms)`` blocks out.

    Args:
        subject: the model.
        forms: how each of these blocks returns hidden states.
        hidden_BTD: what the last of them returns; None: what it is given.
    """
    blocks = list(subject.blocks)[: len(forms)]
    left_out = {id(block): form for block, form in zip(blocks, forms, strict=True)}
    if blocks and hidden_BTD is not None:
        left_out[id(blocks[-1])] = _handing(forms[-1], hidden_BTD)
    before = _left_out_here.get()
    _left_out_here.set(left_out)
    try:
        with ExitStack() as stack:
            for block in blocks:
                stack.enter_context(_swapped_forward(block))
            yield
    finally:
        _left_out_here.set(before)


def _handing(form: Form, hidden_BTD: Tensor) -> Form:
    return lambda _value: form(hidden_BTD)


@contextmanager
def _swapped_forward(block: nn.Module) -> Iterator[None]:
    """Give a block a forward that asks whether it is left out; the last context to end puts back what was there."""
    _swap(block)
    try:
        yield
    finally:
        _put_back(block)


def _swap(block: nn.Module) -> None:
    with _swapping:
        count, before = _swapped.get(id(block), (0, None))
        if not count:
            before = block.__dict__.get("forward")
            block.forward = _asking(block, block.forward)
        _swapped[id(block)] = (count + 1, before)


def _put_back(block: nn.Module) -> None:
    with _swapping:
        count, before = _swapped.pop(id(block))
        if count > 1:
            _swapped[id(block)] = (count - 1, before)
        elif before is None:
            del block.forward
        else:
            block.forward = before


def _asking(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    def asked(*args: Any, **kwargs: Any) -> Any:
        form = (_left_out_here.get() or {}).get(id(block))
        value = None if form is None else hidden_in(args, kwargs)
        return forward(*args, **kwargs) if form is None or value is None else form(value)

    return asked
