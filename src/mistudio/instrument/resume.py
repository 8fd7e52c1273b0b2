"""A forward pass run to a hook point once, and gone on with from there as often as something else is to be there.

::

    prefix = run_to(subject, [hook], ids_BT, mask_BT)
    acts_BTD = prefix.values[hook.point]
    as_it_is_BTV = continue_from(subject, prefix)
    changed_BTV = continue_from(subject, prefix, acts_BTD - part_BTD)
    # Many variants at once: row r goes on from sequence rows_R[r], with changed_RTD[r] at the hook point.
    variants_RTV = continue_from(subject, prefix, changed_RTD, rows_R)

Where few logits are wanted, the output head runs at these places alone, and a slice at a time:

    stream_RTE = continue_to_head(subject, prefix, changed_RTD, rows_R)
    some_NV = head_logits(subject, stream_RTE[wanted_RT])

The blocks before the hook point's are not run again (:mod:`mistudio.subject.skip`); of a point inside a block that
block is. What comes out is what a plain pass with the same rows and an edit (:func:`~mistudio.subject.spliced`) gives,
to the last bit. That is tried out on each model first. One that cannot be resumed, as one whose later blocks read more
than the stream, runs whole passes: the same call, and the same result. Gradients are as the caller has them: under
``torch.no_grad()`` there are none.

Passes go on with the model as it is but for the change: edits that are open elsewhere do not act. Hooks that read
(``observed``) see what goes by from the first block that is run.

Shape legend: B sequences, R rows that go on, T tokens, D width of the hook point, E width of what the output head
reads, N chosen places, V vocabulary.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mistudio.errors import SubjectError
from mistudio.subject import HookPoint, ResolvedHook, Subject, forward_logits, spliced, unedited
from mistudio.subject.hooks import probe_ids, run_captured
from mistudio.subject.skip import Form, form_of, skipping
from mistudio.subject.structure import Tap
from mistudio.subject.taps import disturbing, reading
from mistudio.subject.trace import StopForward, hidden_out

logger = logging.getLogger(__name__)


class Prefix(NamedTuple):
    """What a pass left at the hook points, and what is needed to go on from the last of them."""

    hook: ResolvedHook  # where something else may be put
    values: dict[HookPoint, Tensor]  # at each hook point that was asked for, each [B, T, D]
    ids_BT: Tensor
    mask_BT: Tensor | None
    skipped: int  # blocks that need not be run again
    stream_BTD: Tensor | None  # what the last of these returned


@torch.no_grad()
def run_to(subject: Subject, hooks: Sequence[ResolvedHook], ids_BT: Tensor, mask_BT: Tensor | None = None) -> Prefix:
    """Run sequences as far as the deepest of the hook points; the last one named is where to go on from.

    Raises:
        SubjectError: the model did not pass one of the hook points.
    """
    skipped = blocks_before(hooks[-1])
    if skipped and not _can_skip(subject, skipped):
        skipped = 0
    kept: list[Tensor] = []
    keep = reading(Tap(subject.blocks[skipped - 1], "output"), kept.append) if skipped else nullcontext()
    with unedited(), keep:
        values = run_captured(subject, hooks, ids_BT, mask_BT)
    # Some models change theirs in place; at the end of a block the value is the stream itself.
    stream_BTD = kept[0].detach().clone() if kept else None
    return Prefix(hooks[-1], values, ids_BT, mask_BT, skipped if kept else 0, stream_BTD)


def continue_from(
    subject: Subject, prefix: Prefix, changed_RTD: Tensor | None = None, rows_R: Tensor | None = None
) -> Tensor:
    """Logits [R, T, V] of a pass that goes on from the hook point.

    Args:
        subject: the model.
        prefix: of :func:`run_to`.
        changed_RTD: what is there in place of the value; None: the value itself.
        rows_R: the sequence that each row goes on from, also several rows from one; None: each sequence once.

    Raises:
        SubjectError: the model has no output embeddings.
    """
    if subject.model.get_output_embeddings() is None:
        message = f"{type(subject.model).__name__} has no output embeddings: it predicts no tokens."
        raise SubjectError(message)
    with _resumed(subject, prefix, changed_RTD, rows_R) as (ids_RT, mask_RT):
        logits_RTV: Tensor = subject.model(input_ids=ids_RT, attention_mask=mask_RT).logits
    return logits_RTV


def continue_to_head(
    subject: Subject, prefix: Prefix, changed_RTD: Tensor | None = None, rows_R: Tensor | None = None
) -> Tensor:
    """What the output head is given [R, T, E], to be taken to :func:`head_logits` where logits are wanted.

    Arguments and errors as :func:`continue_from`. Of a model whose head cannot be run apart these are its logits.
    """
    if not has_own_head(subject):
        return continue_from(subject, prefix, changed_RTD, rows_R)
    with _resumed(subject, prefix, changed_RTD, rows_R) as (ids_RT, mask_RT):
        return _head_input(subject, ids_RT, mask_RT)


def head_logits(subject: Subject, stream_NE: Tensor) -> Tensor:
    """Logits [N, V] of some places of what :func:`continue_to_head` gave."""
    return _head_logits(subject, stream_NE) if has_own_head(subject) else stream_NE


def has_own_head(subject: Subject) -> bool:
    """Whether logits come out the same when the head is run apart from the blocks, at some places alone.

    Where not, what :func:`continue_to_head` gives are the logits of all places.
    """

    def agrees() -> bool:
        ids_BT = probe_ids(subject)
        with unedited():
            whole_NV = forward_logits(subject, ids_BT).flatten(0, 1)[1:]
            apart_NV = _head_logits(subject, _head_input(subject, ids_BT, None).flatten(0, 1)[1:])
        error = (apart_NV.double() - whole_NV.double()).abs().max()
        return bool(error <= 8 * torch.finfo(whole_NV.dtype).eps * whole_NV.double().abs().max())

    return _tried(subject, "head", agrees, "run without its output head: all logits are computed")


def blocks_before(hook: ResolvedHook) -> int:
    """The blocks in front of a hook point; at the end of one, with that."""
    return hook.point.layer + (hook.point.kind == "resid_post")


@contextmanager
def _resumed(
    subject: Subject, prefix: Prefix, changed_RTD: Tensor | None, rows_R: Tensor | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Open what makes a pass go on from the prefix, and give the token ids and mask to run."""
    mask_RT, stream_RTD = (
        None if each is None else _rows(each, rows_R) for each in (prefix.mask_BT, prefix.stream_BTD)
    )
    with ExitStack() as stack:
        stack.enter_context(unedited())
        if prefix.skipped:
            stack.enter_context(skipping(subject, _forms(subject)[: prefix.skipped], stream_RTD))
        if changed_RTD is not None:
            stack.enter_context(spliced(subject, prefix.hook, lambda _value: changed_RTD))
        yield _rows(prefix.ids_BT, rows_R), mask_RT


def _rows(values: Tensor, rows_R: Tensor | None) -> Tensor:
    return values if rows_R is None else values[rows_R.to(values.device)]


def _can_skip(subject: Subject, blocks: int) -> bool:
    """Whether the model says the same to the last bit when its first blocks are left out."""

    def agrees() -> bool:
        ids_BT, kept = probe_ids(subject), list[Tensor]()
        with unedited():
            with reading(Tap(subject.blocks[blocks - 1], "output"), lambda value: kept.append(value.clone())):
                whole = _last_of(subject, ids_BT)
            with skipping(subject, _forms(subject)[:blocks], kept[0]):
                return torch.equal(whole, _last_of(subject, ids_BT))

    return _tried(subject, f"resume.{blocks}", agrees, "run from a block in the middle: each change takes a whole pass")


@torch.no_grad()
def _tried(subject: Subject, name: str, agrees: Callable[[], bool], what: str) -> bool:
    """Whether something holds of a model, tried out once, by one thread while the others wait for it.

    Lack of memory says nothing of the model: it is raised, and what was asked is tried again another time.
    """
    with _probing(subject):
        if name not in subject.cache:
            try:
                subject.cache[name] = agrees()
            except (torch.OutOfMemoryError, MemoryError):
                raise
            except Exception as error:  # whatever a model does that was not made for this
                logger.debug("%s cannot be resumed (%s): %s", type(subject.model).__name__, name, error)
                subject.cache[name] = False
            if not subject.cache[name]:
                logger.info("%s cannot be %s.", type(subject.model).__name__, what)
        return bool(subject.cache[name])


def _probing(subject: Subject) -> threading.RLock:
    """What a thread holds while it tries a model out."""
    lock: threading.RLock = subject.cache.setdefault("probing", threading.RLock())
    return lock


@torch.no_grad()
def _forms(subject: Subject) -> list[Form]:
    """How each block returns hidden states."""
    with _probing(subject):
        if "forms" not in subject.cache:
            subject.cache["forms"] = _seen_forms(subject)
        found: list[Form] = subject.cache["forms"]
        return found


def _seen_forms(subject: Subject) -> list[Form]:
    this_thread, forms = threading.get_ident(), list[Form]()

    def look(_block: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() == this_thread:  # passes of others come by here too
            forms.append(form_of(output, hidden_out(output)))

    with ExitStack() as stack, unedited():
        for block in subject.blocks:
            stack.callback(block.register_forward_hook(look).remove)
        subject.model(input_ids=probe_ids(subject))
    return forms


def _last_of(subject: Subject, ids_BT: Tensor) -> Tensor:
    """The logits, or what a model without output embeddings returns."""
    output = subject.model(input_ids=ids_BT)
    last: Tensor = output.logits if hasattr(output, "logits") else output[0]
    return last


def _head_input(subject: Subject, ids_BT: Tensor, mask_BT: Tensor | None) -> Tensor:
    """What the output head is given in a pass [B, T, E], which ends there."""
    given: list[Tensor] = []

    def stop(value: Tensor) -> None:
        given.append(value)
        raise StopForward

    try:
        with reading(Tap(subject.model.get_output_embeddings(), "input"), stop):
            subject.model(input_ids=ids_BT, attention_mask=mask_BT)
    except StopForward:
        return given[0].view(*ids_BT.shape, -1)
    message = f"{type(subject.model).__name__} has an output head that no pass comes to."
    raise SubjectError(message)


def _head_logits(subject: Subject, stream_NE: Tensor) -> Tensor:
    """Logits [N, V]: a pass over one token that leaves all blocks out, with the stream put before the head."""
    head = Tap(subject.model.get_output_embeddings(), "input")
    one_token = torch.zeros(1, 1, dtype=torch.int64, device=subject.device)
    with unedited(), skipping(subject, _forms(subject)), disturbing(head, lambda _value: stream_NE[None]):
        logits_1NV = forward_logits(subject, one_token)
    return logits_1NV[0]
