"""Where memory runs out in training: a batch is done again in parts, or it is said what does not fit."""

import logging
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mistudio.activations import ActivationReader
from mistudio.artifacts import Store
from mistudio.errors import ConfigError
from mistudio.sae import Losses, Stage, TopKConfig
from mistudio.sae.kernels import ActivePattern
from mistudio.sae.topk import TopKTraining
from mistudio.train import TrainConfig, learner
from tests.support.synthetic import HOOK, Alone, plant, publish_activations, run

ROWS, BATCH = 2_000, 200
TOPK = TopKConfig(width=64, k=3)


@pytest.fixture
def trainer(store: Store) -> Callable[..., Alone]:
    def make(**settings: object) -> Alone:
        reader = ActivationReader(publish_activations(store, plant(ROWS, width=12).acts_ND), HOOK, "train")
        base = {"hook": HOOK, "sae": TOPK, "tokens": 10 * BATCH, "batch_size": BATCH, "patience": 0}
        return Alone(TrainConfig.model_validate({**base, **settings}), reader)

    return make


def as_a_gpu() -> None:
    raise torch.OutOfMemoryError


def as_a_cpu() -> None:
    torch.empty(1 << 50)


def as_numpy() -> None:
    raise MemoryError


class _SmallMemory(TopKTraining):
    """Runs out of memory above so many tokens."""

    most_tokens = 60
    fail = staticmethod(as_a_gpu)

    def losses(self, x_TD: Tensor, y_TE: Tensor, stage: Stage) -> Losses:
        losses = super().losses(x_TD, y_TE, stage)
        if len(x_TD) > self.most_tokens:
            self.fail()
        return losses


@pytest.mark.parametrize("fail", [as_a_gpu, as_a_cpu, as_numpy])
def test_out_of_memory_cuts_the_batch_and_loses_nothing(
    fail: Callable[[], None],
    trainer: Callable[..., Alone],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_SmallMemory, "fail", staticmethod(fail))
    short, plain = trainer(), trainer(micro_batches=4)
    short.training.__class__ = _SmallMemory
    with caplog.at_level(logging.WARNING):
        run(short)
    run(plain)
    assert short.tokens == 10 * BATCH
    assert torch.equal(short.sae.W_dec, plain.sae.W_dec)
    assert [record.getMessage() for record in caplog.records] == [
        "Out of memory at step 0: going on with 2 parts a batch.",
        "Out of memory at step 0: going on with 4 parts a batch.",
    ]
    assert short.history[-1]["micro_batches"] == 4


def test_before_a_batch_is_done_again_its_memory_is_free(
    trainer: Callable[..., Alone], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[object]] = []
    freed: list[str] = []

    def of_attempt(self: TopKTraining, values_A: Tensor, pattern: ActivePattern, x_TD: Tensor) -> Tensor:
        rebuilt_TE = rebuild(self, values_A, pattern, x_TD)
        held.extend(weakref.ref(each) for each in (values_A, rebuilt_TE, pattern))  # the graph holds the pattern
        return rebuilt_TE

    def release(name: str) -> Callable[[], None]:
        def note() -> None:
            assert held
            assert not any(ref() is not None for ref in held)
            assert done.sae.W_dec.grad is None
            freed.append(name)

        return note

    rebuild = TopKTraining._rebuild
    done = trainer()
    done.training.__class__ = _SmallMemory
    done.device = torch.device("cuda")  # where tensors go to was decided before
    monkeypatch.setattr(TopKTraining, "_rebuild", of_attempt)
    monkeypatch.setattr(learner, "release_freed_memory", release("host"))
    monkeypatch.setattr(torch.cuda, "empty_cache", release("device"))
    done.train_step()
    assert freed == ["host", "device"] * 2


def test_pre_activations_of_another_size_find_the_last_ones_gone(
    trainer: Callable[..., Alone], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = trainer()
    done.train_step()
    assert done.training._scratch is not None
    monkeypatch.setattr(Tensor, "new_empty", lambda *_, **__: done.training._scratch)
    assert done.training._scratch_for(torch.zeros(BATCH // 2, 12)) is None


def test_out_of_memory_with_one_token_gives_up_and_says_what_to_do(
    trainer: Callable[..., Alone], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_SmallMemory, "most_tokens", 0)
    done = trainer()
    done.training.__class__ = _SmallMemory
    with pytest.raises(ConfigError, match="one token at a time at width 64. Lower width.*check-memory"):
        done.train_step()


def test_other_errors_keep_their_traceback(trainer: Callable[..., Alone], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(_SmallMemory, "fail", staticmethod(fail))
    done = trainer()
    done.training.__class__ = _SmallMemory
    with pytest.raises(RuntimeError, match="a bug"):
        done.train_step()


@pytest.mark.parametrize("fail", [as_a_gpu, as_a_cpu, as_numpy])
def test_where_the_moments_do_not_fit_it_says_so(
    fail: Callable[[], None], trainer: Callable[..., Alone], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = trainer()
    monkeypatch.setattr(done.optimiser, "step", fail)
    with pytest.raises(ConfigError, match="Out of memory while Adam moves the weights at width 64. Lower width"):
        done.train_step()


@pytest.mark.parametrize("fail", [as_a_gpu, as_a_cpu, as_numpy])
def test_where_revival_does_not_fit_it_says_so(
    fail: Callable[[], None], trainer: Callable[..., Alone], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = trainer(check_every_steps=1, dead_after_tokens=1)
    done.sae.b_enc.data[0] = -1e3  # silent
    monkeypatch.setattr(done.training, "revive", lambda *_: fail())
    with pytest.raises(ConfigError, match="Out of memory while dead latents start anew at width 64. Lower width"):
        done.train_step()
