"""Hooks of PyTorch at one side of a module, which act where they were opened and nowhere else.

A module's hooks run in every forward pass, whoever makes it. Ours are keyed by the context that opened them
(``contextvars``): passes of that thread, of asyncio tasks begun in it, and of ``asyncio.to_thread``. Passes beside them
on other threads, each with hooks of its own, do not see each other's.

An edit that was asked for has to act. A pass of a context that has opened no edit, while another one is open on its
way, is refused: most likely a model was edited on one thread and run on another. Code that means its pass to be as the
model is says so: :func:`unedited`. And an edit that no pass has met when it is closed is an error.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mistudio.errors import SubjectError
from mistudio.subject.structure import Tap
from mistudio.subject.trace import hidden_in, hidden_out, with_hidden_in, with_hidden_out

_WHERE = "Hooks act in the thread (or asyncio task) that opened them: open the edit where the pass is run"


@dataclass(eq=False)
class _Opened:
    """One hook, and what it is there for."""

    edits: str | None  # the hook point whose value it replaces; None: it reads or probes
    was_met: bool = False


_opened_here: ContextVar[tuple[_Opened, ...]] = ContextVar("opened_here", default=())
_knows_of_edits: ContextVar[bool] = ContextVar("knows_of_edits", default=False)


@contextmanager
def reading(tap: Tap, read: Callable[[Tensor], None]) -> Iterator[None]:
    """Call ``read`` with each value that passes the tap in this context's forward passes."""

    def look(value: Tensor) -> Tensor:
        read(value)
        return value

    with _hooked(tap, look, _Opened(None)):
        yield


@contextmanager
def editing(tap: Tap, change: Callable[[Tensor], Tensor], point: object) -> Iterator[None]:
    """Put ``change(value)`` in place of each value that passes the tap in this context's forward passes.

    Args:
        tap: where.
        change: gives the new value.
        point: what to call the place in errors.

    Raises:
        SubjectError: at the end, no forward pass came by.
    """
    opened, before = _Opened(str(point)), _knows_of_edits.get()
    _knows_of_edits.set(True)
    try:
        with _hooked(tap, change, opened):
            yield
    finally:
        _knows_of_edits.set(before)
    if not opened.was_met:
        message = f"The edit at {point} was never applied: no forward pass reached it while it was open. {_WHERE}."
        raise SubjectError(message)


@contextmanager
def disturbing(tap: Tap, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """As :func:`editing`, for a probe of the model's parts: it concerns no other pass, which goes by untouched."""
    with _hooked(tap, change, _Opened(None)):
        yield


@contextmanager
def unedited() -> Iterator[None]:
    """Within this context forward passes are those of the model as it is, whatever edits are open, here or elsewhere.

    Edits that are opened inside act.
    """
    here, knows = _opened_here.get(), _knows_of_edits.get()
    _opened_here.set(tuple(opened for opened in here if opened.edits is None))
    _knows_of_edits.set(True)
    try:
        yield
    finally:
        _opened_here.set(here)
        _knows_of_edits.set(knows)


@contextmanager
def _hooked(tap: Tap, change: Callable[[Tensor], Tensor], opened: _Opened) -> Iterator[None]:
    def at_input(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
        if not _acts(opened):
            return None
        kwargs = kwargs or {}  # PyTorch may give none where another thread has just removed its hook
        value = hidden_in(args, kwargs)
        return None if value is None else with_hidden_in(args, kwargs, value, _changed(value))

    def at_output(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        if not _acts(opened):
            return None
        value = hidden_out(output)
        return None if value is None else with_hidden_out(output, value, _changed(value))

    def _changed(value: Tensor) -> Tensor:
        opened.was_met = True
        return change(value)

    if tap.side == "input":
        handle = tap.module.register_forward_pre_hook(at_input, with_kwargs=True)
    else:
        handle = tap.module.register_forward_hook(at_output)
    _opened_here.set((*_opened_here.get(), opened))
    try:
        yield
    finally:
        _opened_here.set(tuple(other for other in _opened_here.get() if other is not opened))
        handle.remove()


def _acts(opened: _Opened) -> bool:
    """Whether a hook that a pass has come to is one of the pass's own context.

    Raises:
        SubjectError: it is an edit of another context, and this one has said nothing about edits.
    """
    if opened in _opened_here.get():
        return True
    if opened.edits is not None and not _knows_of_edits.get():
        message = (
            f"A forward pass has come to an edit at {opened.edits} that another thread has open, and would not be "
            f"edited. {_WHERE}, or run it within unedited() if it is to be that of the model as it is."
        )
        raise SubjectError(message)
    return False
