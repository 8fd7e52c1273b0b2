from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mistudio.score.config import SteeringConfig
from mistudio.score.pushes import Divergence, push_lengths
from mistudio.subject import (
    HookPoint,
    Subject,
    SubjectConfig,
    forward_logits,
    load_subject,
    resolve_hooks,
    run_captured,
    spliced,
)
from tests.support.tiny import tiny_llama

CONFIG = SteeringConfig(target_kl=2.0, search_steps=12)


class Curve(Divergence):
    """A divergence that is written down, as a function of the push's length."""

    def __init__(self, change: Callable[[float], float], norm: float) -> None:
        self._written, self._norm = change, norm
        self.asked: list[list[float]] = []

    @property
    def norm(self) -> float:
        return self._norm

    def of(self, push_PD: Tensor) -> list[float]:
        self.asked.append(push_PD.norm(dim=1).tolist())
        return list(map(self._written, self.asked[-1]))


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return load_subject(tiny_llama(tmp_path_factory.mktemp("llama")), SubjectConfig(device="cpu"))


@pytest.mark.parametrize("point", ["resid_post.1", "resid_mid.1", "mlp_out.2", "resid_pre.0"])
def test_the_change_is_the_mean_divergence_of_whole_passes(point: str, subject: Subject) -> None:
    (hook,) = resolve_hooks(subject, [HookPoint.parse(point)])
    draw = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(subject.vocab_size, (3, 7), generator=draw)
    push_PD = torch.randn(2, hook.width, generator=draw)
    divergence = Divergence(subject, hook, ids_BT)
    assert divergence.norm == pytest.approx(
        float(run_captured(subject, [hook], ids_BT)[hook.point].norm(dim=-1).mean()), rel=1e-5
    )
    clean_BTV = forward_logits(subject, ids_BT).log_softmax(dim=-1)
    for push_D, change in zip(push_PD, divergence.of(push_PD), strict=True):
        with spliced(subject, hook, lambda x_BTD, push_D=push_D: x_BTD + push_D):
            pushed_BTV = forward_logits(subject, ids_BT).log_softmax(dim=-1)
        expected = float((clean_BTV.exp() * (clean_BTV - pushed_BTV)).sum(dim=-1).mean())
        assert change == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("norm", [0.0, 1e-9, 0.3, 1.0, 14.0, 1e9, float("nan"), float("inf")])
@pytest.mark.parametrize("scale", [0.01, 1.0, 37.0, 5000.0])
def test_a_length_is_found_and_is_the_same_wherever_the_search_begins(scale: float, norm: float) -> None:
    curve = Curve(lambda length: (length / scale) ** 2, norm)
    (length,) = push_lengths(curve, torch.eye(1, 4), CONFIG)
    assert length is not None
    assert (length / scale) ** 2 == pytest.approx(CONFIG.target_kl, rel=0.05)
    assert [length] == push_lengths(Curve(lambda length: (length / scale) ** 2, 1.0), torch.eye(1, 4), CONFIG)


def test_searches_run_together_and_end_each_for_itself() -> None:
    curve = Curve(lambda length: length, 1.0)
    found = push_lengths(curve, torch.eye(4)[:3] * torch.tensor([[1.0], [0.1], [0.0]]), CONFIG)
    assert found[0] == pytest.approx(2.0, rel=0.05)
    assert found[1] == pytest.approx(20.0, rel=0.05)
    assert found[2] is None  # nothing changes, however long it is
    assert [len(asked) for asked in curve.asked] == sorted((len(asked) for asked in curve.asked), reverse=True)
    assert len(curve.asked[0]) == 3


def test_the_search_ends_after_as_many_steps_as_are_allowed() -> None:
    curve = Curve(lambda length: 0.0 if length < 5.3 else 9.0, 4.0)  # never close to the target
    (length,) = push_lengths(curve, torch.eye(1, 4), CONFIG)
    assert length == pytest.approx(5.3, rel=1e-3)
    assert len(curve.asked) == 2 + CONFIG.search_steps
