import copy

import pytest
import torch

from mistudio.demo.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(3, 2, 16, 16), (4, 24, 16), (4, 16, 24)])
def test_it_moves_a_stack_as_torch_moves_each_matrix(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    stack = torch.randn(shape, generator=generator)
    matrices = [matrix.clone() for matrix in stack.flatten(0, -3)]
    start = copy.deepcopy(stack)
    ours = Muon([stack], learning_rate=0.1)
    theirs = torch.optim.Muon(matrices, lr=0.1, weight_decay=0.0, momentum=0.95, adjust_lr_fn="original")
    for _ in range(3):
        stack.grad = torch.randn(shape, generator=generator)
        for matrix, gradient in zip(matrices, stack.grad.flatten(0, -3), strict=True):
            matrix.grad = gradient.clone()
        ours.step()
        theirs.step()
    assert (stack - start).abs().max() > 0.05
    torch.testing.assert_close(stack.flatten(0, -3), torch.stack(matrices), atol=5e-3, rtol=0)


@pytest.mark.parametrize("shape", [(5, 16, 16), (5, 32, 16), (5, 16, 32)])
def test_singular_values_come_near_one(shape: tuple[int, int, int]) -> None:
    matrices_SRC = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-4
    values = torch.linalg.svdvals(orthogonalise(matrices_SRC).float())
    assert values.max() < 1.3
    assert values.median() > 0.6
