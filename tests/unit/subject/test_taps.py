"""Who an edit acts on: passes of the thread or task that opened it, and never no pass at all without a word."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from mistudio.errors import SubjectError
from mistudio.subject import (
    HookPoint,
    ResolvedHook,
    Subject,
    forward_logits,
    observed,
    resolve_hooks,
    run_captured,
    spliced,
    subject_from_model,
    unedited,
    unembed,
)
from mistudio.subject.hooks import available_points
from tests.support.families import build_model


@pytest.fixture(scope="module")
def subject() -> Subject:
    return subject_from_model(build_model("llama"), None)


@pytest.fixture(scope="module")
def hook(subject: Subject) -> ResolvedHook:
    (hook,) = resolve_hooks(subject, [HookPoint("resid_post", 1)])
    return hook


@pytest.fixture(scope="module")
def logits(subject: Subject, hook: ResolvedHook, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Of the model as it is, and with nothing passing the hook point."""
    clean = forward_logits(subject, ids_BT)
    with spliced(subject, hook, torch.zeros_like):
        return clean, forward_logits(subject, ids_BT)


def elsewhere(work: Callable[[], Tensor]) -> Tensor:
    """``work()`` on another thread, as an executor of a server runs it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_an_edit_that_no_pass_has_met_is_an_error(subject: Subject, hook: ResolvedHook) -> None:
    with (
        pytest.raises(SubjectError, match=r"edit at resid_post\.1 was never applied.*open the edit where the pass"),
        spliced(subject, hook, torch.zeros_like),
    ):
        pass


def test_an_edit_behind_the_end_of_the_only_pass_is_an_error(
    subject: Subject, hook: ResolvedHook, ids_BT: Tensor
) -> None:
    (before,) = resolve_hooks(subject, [HookPoint("resid_post", 0)])
    with (
        pytest.raises(SubjectError, match="never applied"),
        spliced(subject, hook, torch.zeros_like),
    ):
        run_captured(subject, [before], ids_BT)


def test_another_error_is_not_hidden_by_an_edit_that_no_pass_has_met(subject: Subject, hook: ResolvedHook) -> None:
    with pytest.raises(ZeroDivisionError), spliced(subject, hook, torch.zeros_like):
        raise ZeroDivisionError


def test_a_pass_on_another_thread_than_the_edit_is_refused(
    subject: Subject, hook: ResolvedHook, ids_BT: Tensor, logits: tuple[Tensor, Tensor]
) -> None:
    with spliced(subject, hook, torch.zeros_like):
        for work in (
            lambda: forward_logits(subject, ids_BT),
            lambda: run_captured(subject, [hook], ids_BT)[hook.point],
            lambda: subject.model(input_ids=ids_BT).logits,
        ):
            with pytest.raises(SubjectError, match=r"edit at resid_post\.1 that another thread has open.*unedited"):
                elsewhere(work)
        torch.testing.assert_close(forward_logits(subject, ids_BT), logits[1], rtol=0, atol=0)
    torch.testing.assert_close(elsewhere(lambda: forward_logits(subject, ids_BT)), logits[0], rtol=0, atol=0)


def test_a_pass_that_is_meant_to_be_the_models_own_sees_no_edit_of_any_thread(
    subject: Subject, hook: ResolvedHook, ids_BT: Tensor, logits: tuple[Tensor, Tensor]
) -> None:
    def plain() -> Tensor:
        with unedited():
            return forward_logits(subject, ids_BT)

    with spliced(subject, hook, torch.zeros_like):
        for run in (plain, lambda: elsewhere(plain)):
            torch.testing.assert_close(run(), logits[0], rtol=0, atol=0)
        torch.testing.assert_close(forward_logits(subject, ids_BT), logits[1], rtol=0, atol=0)


def test_an_edit_inside_the_models_own_passes_acts(
    subject: Subject, hook: ResolvedHook, ids_BT: Tensor, logits: tuple[Tensor, Tensor]
) -> None:
    with unedited(), spliced(subject, hook, torch.zeros_like):
        torch.testing.assert_close(forward_logits(subject, ids_BT), logits[1], rtol=0, atol=0)


def test_what_is_read_outside_is_read_of_the_models_own_passes_too(
    subject: Subject, hook: ResolvedHook, ids_BT: Tensor
) -> None:
    seen: list[Tensor] = []
    with observed(subject, hook, seen.append), unedited():
        forward_logits(subject, ids_BT)
    assert len(seen) == 1


def test_a_thread_that_is_given_the_context_of_an_edit_is_edited(
    subject: Subject, hook: ResolvedHook, ids_BT: Tensor, logits: tuple[Tensor, Tensor]
) -> None:
    async def ask() -> Tensor:
        with spliced(subject, hook, torch.zeros_like):
            return await asyncio.to_thread(forward_logits, subject, ids_BT)

    torch.testing.assert_close(asyncio.run(ask()), logits[1], rtol=0, atol=0)
    with spliced(subject, hook, torch.zeros_like):
        context = contextvars.copy_context()
        done = elsewhere(lambda: context.run(forward_logits, subject, ids_BT))
    torch.testing.assert_close(done, logits[1], rtol=0, atol=0)


def test_tasks_of_one_thread_each_have_their_own_edit(subject: Subject, hook: ResolvedHook, ids_BT: Tensor) -> None:
    def with_factor(factor: float) -> Tensor:
        with spliced(subject, hook, lambda x_BTD: factor * x_BTD):
            return forward_logits(subject, ids_BT)

    async def ask(factor: float) -> Tensor:
        with spliced(subject, hook, lambda x_BTD: factor * x_BTD):
            await asyncio.sleep(0)  # all edits are open by now
            return forward_logits(subject, ids_BT)

    async def ask_all() -> list[Tensor]:
        return await asyncio.gather(*map(ask, factors))

    factors = [0.0, 0.5, 2.0]
    for together, factor in zip(asyncio.run(ask_all()), factors, strict=True):
        torch.testing.assert_close(together, with_factor(factor), rtol=0, atol=0)


def test_the_same_edit_on_two_threads_does_not_mix_their_passes(subject: Subject, ids_BT: Tensor) -> None:
    (middle,) = resolve_hooks(subject, [HookPoint("resid_mid", 1)])  # its value needs the block's input
    other_BT = ids_BT.flip(1)
    inner: list[Tensor] = []

    def once_inside(value: Tensor) -> Tensor:
        if not inner:  # another pass goes by while this one is between the block's input and the hook point
            inner.append(value)
            context = contextvars.copy_context()
            inner[:] = [elsewhere(lambda: context.run(forward_logits, subject, other_BT))]
        return value

    (attention,) = resolve_hooks(subject, [HookPoint("attn_out", 1)])
    expected = []
    for ids in (ids_BT, other_BT):
        with spliced(subject, middle, lambda x_BTD: 2 * x_BTD):
            expected.append(forward_logits(subject, ids))
    with spliced(subject, attention, once_inside), spliced(subject, middle, lambda x_BTD: 2 * x_BTD):
        outer = forward_logits(subject, ids_BT)
    torch.testing.assert_close([outer, *inner], expected)


def test_a_block_can_be_probed_while_it_is_edited_and_while_others_run_it(ids_BT: Tensor) -> None:
    fresh = subject_from_model(build_model("llama"), None)
    known = {layer: available_points(fresh, layer) for layer in range(3)}
    read_out = unembed(fresh, torch.eye(32))
    again = subject_from_model(build_model("llama"), None)
    (hook,) = resolve_hooks(again, [HookPoint("resid_post", 0)])
    concurrent: list[Tensor] = []

    def run_concurrently(*_call: object) -> None:
        if not concurrent:
            concurrent.append(ids_BT)
            concurrent[:] = [elsewhere(lambda: again.model.model(input_ids=ids_BT).last_hidden_state)]

    for layer in (1, 2):
        concurrent.clear()
        inside = again.blocks[layer].self_attn.register_forward_hook(run_concurrently)
        assert available_points(again, layer) == known[layer]
        inside.remove()
        assert len(concurrent) == 1
    with spliced(again, hook, torch.zeros_like):
        forward_logits(again, ids_BT)
        torch.testing.assert_close(elsewhere(lambda: unembed(again, torch.eye(32))), read_out, rtol=0, atol=0)
