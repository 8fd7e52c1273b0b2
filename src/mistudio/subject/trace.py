"""Watch the modules of a model at work: what went in, what came out, in which order.

Module calls come in many shapes (hidden states first or by keyword, outputs alone or in a tuple, tokens
flattened); this module reads and replaces the hidden states of a call whatever its shape.

Shape legend: B sequences, T tokens, W width of a module's input or output.
"""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(eq=False)
class Call:
    """One call of one module; start and end count events over all modules that are watched."""

    module: nn.Module
    start: int
    end: int = -1
    input_BTW: Tensor | None = None
    output_BTW: Tensor | None = None


class StopForward(Exception):  # noqa: N818 - control flow, not an error
    """Ends a forward pass whose rest is not needed."""


def hidden_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The hidden states among the arguments of a call: the first float tensor of two or three dimensions."""
    return next((value for value in (*args, *kwargs.values()) if _is_hidden(value)), None)


def with_hidden_in(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], old: Tensor, new: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with hidden states ``old`` replaced."""
    return (
        tuple(new if value is old else value for value in args),
        {name: new if value is old else value for name, value in kwargs.items()},
    )


def hidden_out(output: Any) -> Tensor | None:
    """The hidden states that a call returned: alone, or the first of a tuple."""
    parts = output if isinstance(output, tuple | list) else (output,)
    return next((part for part in parts if _is_hidden(part)), None)


def with_hidden_out(output: Any, old: Tensor, new: Tensor) -> Any:
    """What a call returned, with hidden states ``old`` replaced and all else kept."""
    if isinstance(output, tuple | list):
        return type(output)(new if part is old else part for part in output)
    return new


def by_token(value: Tensor | None, num_sequences: int, num_tokens: int) -> Tensor | None:
    """``value`` as [B, T, W], also where tokens were flattened; None where it is not one row a token."""
    if value is None:
        return None
    if value.ndim == 3 and value.shape[:2] == (num_sequences, num_tokens):
        return value
    if value.ndim == 2 and value.shape[0] == num_sequences * num_tokens:
        return value.reshape(num_sequences, num_tokens, -1)
    return None


@contextmanager
def watch(modules: list[nn.Module], num_sequences: int, num_tokens: int) -> Iterator[list[Call]]:
    """Record the calls of ``modules`` by this thread while the context is open; copies, for some change in place."""
    this_thread, calls = threading.get_ident(), list[Call]()
    open_calls: dict[int, list[Call]] = {id(module): [] for module in modules}
    clock = iter(range(1 << 30))

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        if threading.get_ident() != this_thread:
            return
        call = Call(module, start=next(clock))
        call.input_BTW = _copy(by_token(hidden_in(args, kwargs or {}), num_sequences, num_tokens))
        open_calls[id(module)].append(call)
        calls.append(call)

    def after(module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() != this_thread:
            return
        call = open_calls[id(module)].pop()
        call.end = next(clock)
        call.output_BTW = _copy(by_token(hidden_out(output), num_sequences, num_tokens))

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(after).remove)
        yield calls


def called_once(calls: list[Call]) -> list[Call]:
    """The finished calls of modules that were called exactly once, in order of their start."""
    counts = Counter(id(call.module) for call in calls)
    return [call for call in calls if call.end >= 0 and counts[id(call.module)] == 1]


def _is_hidden(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim in (2, 3) and torch.is_floating_point(value)


def _copy(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach().clone()
