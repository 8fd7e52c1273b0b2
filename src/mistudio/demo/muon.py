"""Muon (Jordan et al., 2024) over stacks of matrices: momentum, made orthogonal by five Newton-Schulz steps.

``torch.optim.Muon`` does the same one matrix at a time, which costs a third of a step of a model this
small; a test holds this one to it.

Legend: S matrices of one shape, R rows, C columns.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

_MOMENTUM = 0.95
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_NUM_STEPS = 5
_TINY = 1e-7


class Muon(torch.optim.Optimizer):
    """Muon for tensors whose last two dimensions are matrices; steps of an equal size in every direction."""

    def __init__(self, weights: Iterable[Tensor], learning_rate: float = 0.01) -> None:
        super().__init__(weights, {"lr": learning_rate})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every weight against its gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                self._move(weight, group["lr"])

    def _move(self, weight: Tensor, learning_rate: float) -> None:
        state: dict[str, Tensor] = self.state[weight]
        if weight.grad is None:
            return
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"].lerp_(weight.grad, 1 - _MOMENTUM)
        ahead = weight.grad.lerp(momentum, _MOMENTUM)  # Nesterov
        rows, columns = weight.shape[-2:]
        scale = max(1.0, rows / columns) ** 0.5
        direction = orthogonalise(ahead.flatten(0, -3))
        weight.add_(direction.view_as(weight), alpha=-learning_rate * scale)


def orthogonalise(matrices_SRC: Tensor) -> Tensor:
    """Bring all singular values near 1 (between about 0.7 and 1.2), in bfloat16."""
    a, b, c = _COEFFICIENTS
    is_tall = matrices_SRC.shape[1] > matrices_SRC.shape[2]
    x = (matrices_SRC.mT if is_tall else matrices_SRC).bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_TINY)
    for _ in range(_NUM_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
