"""Passes that go on from a hook point, to the last bit those of a plain pass with an edit, in every family."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from mistudio.instrument.resume import continue_from, continue_to_head, head_logits, run_to
from mistudio.subject import (
    HookPoint,
    Subject,
    forward_logits,
    resolve_hooks,
    run_captured,
    spliced,
    subject_from_model,
    unedited,
)
from mistudio.subject.hooks import available_points
from tests.support.families import FAMILIES, LAYERS, build_model, byte_level_tokenizer

MIDDLE = 1


def loaded(family: str) -> Subject:
    return subject_from_model(build_model(family), byte_level_tokenizer())


def a_batch(subject: Subject) -> tuple[Tensor, Tensor | None]:
    """Three sequences; those of an encoder are of several lengths."""
    ids_BT = torch.randint(3, subject.vocab_size, (3, 9), generator=torch.Generator().manual_seed(0))
    mask_BT = torch.ones(3, 9, dtype=torch.int64)
    mask_BT[1, 6:] = 0
    return ids_BT, None if subject.is_causal else mask_BT


def changed(value: Tensor) -> Tensor:
    return value * 0.3 + 1


@contextmanager
def counted(subject: Subject) -> Iterator[Counter[int]]:
    """How often the attention or MLP of each block was run."""
    runs: Counter[int] = Counter()
    inner = [next(module for module in block.modules() if isinstance(module, nn.LayerNorm)) for block in subject.blocks]
    handles = [
        module.register_forward_hook(lambda *_given, number=number: runs.update([number]))
        for number, module in enumerate(inner)
    ]
    yield runs
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_what_goes_on_from_any_point_of_a_block_is_the_plain_pass_with_an_edit(family: str) -> None:
    subject = loaded(family)
    ids_BT, mask_BT = a_batch(subject)
    for hook in resolve_hooks(subject, available_points(subject, MIDDLE)):
        prefix = run_to(subject, [hook], ids_BT, mask_BT)
        assert prefix.skipped == MIDDLE + (hook.point.kind == "resid_post")
        value_BTD = run_captured(subject, [hook], ids_BT, mask_BT)[hook.point]
        assert torch.equal(prefix.values[hook.point], value_BTD)
        assert torch.equal(continue_from(subject, prefix), forward_logits(subject, ids_BT, mask_BT))
        with spliced(subject, hook, changed):
            expected_BTV = forward_logits(subject, ids_BT, mask_BT)
        assert torch.equal(continue_from(subject, prefix, changed(value_BTD)), expected_BTV)
        stream_BTE = continue_to_head(subject, prefix, changed(value_BTD))
        some_NV = head_logits(subject, stream_BTE.flatten(0, 1)[3:8])
        torch.testing.assert_close(some_NV, expected_BTV.flatten(0, 1)[3:8])
    assert subject.cache["head"]


@torch.no_grad()
def test_rows_go_on_from_the_sequences_that_they_name_each_with_its_own_change() -> None:
    subject = loaded("gpt2")
    ids_BT, _ = a_batch(subject)
    (hook,) = resolve_hooks(subject, [HookPoint("resid_post", MIDDLE)])
    prefix = run_to(subject, [hook], ids_BT)
    rows_R = torch.tensor([2, 0, 2, 1])
    changes_RTD = torch.randn(4, 9, hook.width, generator=torch.Generator().manual_seed(1))
    together_RTV = continue_from(subject, prefix, prefix.values[hook.point][rows_R] + changes_RTD, rows_R)
    for row, number in enumerate(rows_R.tolist()):
        with spliced(subject, hook, lambda value, row=row: value + changes_RTD[row]):
            alone_TV = forward_logits(subject, ids_BT[number : number + 1])[0]
        torch.testing.assert_close(together_RTV[row], alone_TV, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "layer"), [("resid_post", 0), ("mlp_out", 1), ("resid_post", LAYERS - 1)])
@torch.no_grad()
def test_blocks_before_the_hook_point_are_run_once(kind: str, layer: int) -> None:
    subject = loaded("gpt2")
    ids_BT, _ = a_batch(subject)
    (hook,) = resolve_hooks(subject, [HookPoint(kind, layer)])
    continue_to_head(subject, run_to(subject, [hook], ids_BT))  # tried out here
    with counted(subject) as runs:
        prefix = run_to(subject, [hook], ids_BT)
        for _ in range(3):
            continue_from(subject, prefix, changed(prefix.values[hook.point]))
    again = layer + (kind == "resid_post")
    assert runs == Counter({number: 1 if number < again else 3 + (number == layer) for number in range(LAYERS)})


@torch.no_grad()
def test_gradients_come_to_what_was_changed() -> None:
    subject = loaded("llama")
    ids_BT, _ = a_batch(subject)
    (hook,) = resolve_hooks(subject, [HookPoint("resid_post", MIDDLE)])
    prefix = run_to(subject, [hook], ids_BT)
    with torch.enable_grad():
        leaf_BTD = prefix.values[hook.point].clone().requires_grad_(True)
        continue_from(subject, prefix, leaf_BTD).sum().backward()
    assert leaf_BTD.grad is not None
    assert leaf_BTD.grad.abs().sum() > 0


@torch.no_grad()
def test_a_pass_of_another_thread_meanwhile_runs_all_blocks_and_the_model_is_left_as_it_was() -> None:
    subject = loaded("llama")
    ids_BT, _ = a_batch(subject)
    plain_BTV = forward_logits(subject, ids_BT)
    (hook,) = resolve_hooks(subject, [HookPoint("resid_post", MIDDLE)])
    prefix = run_to(subject, [hook], ids_BT)
    others: list[Tensor] = []

    def run() -> None:
        with torch.no_grad():
            others.append(forward_logits(subject, ids_BT))

    def meanwhile(_module: object, _args: object, _output: object) -> None:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

    handle = subject.model.get_output_embeddings().register_forward_hook(
        lambda *given: meanwhile(*given) if threading.current_thread() is threading.main_thread() else None
    )
    assert torch.equal(continue_from(subject, prefix), plain_BTV)
    handle.remove()
    assert len(others) == 1
    assert torch.equal(others[0], plain_BTV)
    assert not any("forward" in block.__dict__ for block in subject.blocks)


@torch.no_grad()
def test_a_model_whose_later_blocks_read_more_than_the_stream_runs_whole_passes() -> None:
    subject = loaded("llama")
    kept: list[Tensor] = []
    subject.blocks[0].mlp.register_forward_hook(lambda _module, _args, output: kept.append(output))
    subject.blocks[0].register_forward_pre_hook(lambda *_given: kept.clear())
    subject.blocks[-1].register_forward_hook(lambda _module, _args, output: sum(kept, output))
    ids_BT, _ = a_batch(subject)
    (hook,) = resolve_hooks(subject, [HookPoint("resid_post", MIDDLE)])
    prefix = run_to(subject, [hook], ids_BT)
    assert prefix.skipped == 0
    assert not subject.cache[f"resume.{MIDDLE + 1}"]
    with spliced(subject, hook, changed):
        expected_BTV = forward_logits(subject, ids_BT)
    assert torch.equal(continue_from(subject, prefix, changed(prefix.values[hook.point])), expected_BTV)


@torch.no_grad()
def test_logits_that_depend_on_more_than_the_stream_before_the_head_are_computed_all() -> None:
    subject = loaded("llama")
    ids_BT, _ = a_batch(subject)
    head = subject.model.get_output_embeddings()
    head.register_forward_hook(lambda _module, _args, output: output - output.mean(dim=1, keepdim=True))
    (hook,) = resolve_hooks(subject, [HookPoint("resid_post", MIDDLE)])
    stream_BTE = continue_to_head(subject, run_to(subject, [hook], ids_BT))
    assert torch.equal(stream_BTE, forward_logits(subject, ids_BT))
    assert torch.equal(head_logits(subject, stream_BTE[0]), stream_BTE[0])


def gone_on_at_once(subject: Subject, threads: int) -> list[tuple[int, Tensor]]:
    """The blocks left out, and the logits, of as many threads that begin together."""
    ids_BT, _ = a_batch(subject)
    (hook,) = resolve_hooks(subject, [HookPoint("mlp_out", MIDDLE)])
    together = threading.Barrier(threads)

    @torch.no_grad()
    def go_on(_number: int) -> tuple[int, Tensor]:
        together.wait()
        with unedited():  # as a pass has to say that comes by while another thread tries the model out with an edit
            forward_logits(subject, ids_BT)
        prefix = run_to(subject, [hook], ids_BT)
        stream_BTE = continue_to_head(subject, prefix, changed(prefix.values[hook.point]))
        return prefix.skipped, head_logits(subject, stream_BTE.flatten(0, 1))

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(go_on, range(threads)))


def test_threads_that_begin_at_once_on_a_fresh_model_all_run_as_fast_as_one() -> None:
    for _ in range(6):
        subject = loaded("gpt2")
        found = gone_on_at_once(subject, 4)
        assert [skipped for skipped, _ in found] == [MIDDLE] * 4
        assert subject.cache["head"]
        assert len(subject.cache["forms"]) == LAYERS
        assert all(torch.equal(logits_NV, found[0][1]) for _, logits_NV in found)


@torch.no_grad()
def test_passes_of_another_thread_are_none_of_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = loaded("gpt2")
    ids_BT, _ = a_batch(subject)
    plain = subject.model.forward

    def beside(*args: object, **kwargs: object) -> object:
        if threading.current_thread() is threading.main_thread():
            other = threading.Thread(target=lambda: subject.model(input_ids=ids_BT))
            other.start()
            other.join()
        return plain(*args, **kwargs)

    monkeypatch.setattr(subject.model, "forward", beside)
    (hook,) = resolve_hooks(subject, [HookPoint("mlp_out", MIDDLE)])
    assert run_to(subject, [hook], ids_BT).skipped == MIDDLE
    assert len(subject.cache["forms"]) == LAYERS


@torch.no_grad()
def test_lack_of_memory_does_not_count_against_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = loaded("gpt2")
    ids_BT, _ = a_batch(subject)
    (hook,) = resolve_hooks(subject, [HookPoint("mlp_out", MIDDLE)])

    def full(*_args: object, **_kwargs: object) -> object:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patched:
        patched.setattr(subject.model, "forward", full)
        with pytest.raises(torch.OutOfMemoryError):
            run_to(subject, [hook], ids_BT)
    assert run_to(subject, [hook], ids_BT).skipped == MIDDLE
