"""Whether a token of a model sees only the tokens before it: found by changing what comes later.

The name of an architecture does not say. One class serves causal models and embedding models that attend both ways.

Shape legend: T tokens, W width of what is compared.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mistudio.subject.trace import hidden_out

# Relative change of the first token that rounding may cause. A kernel can round a row by what else it is given, as the
# experts of a mixture do, so that coarse number formats, and quantised weights, get more.
_ROUNDING = 1e-4
_COARSE_ROUNDING = 0.03
_FINE = (torch.float32, torch.float64)


@torch.no_grad()
def sees_only_before(model: nn.Module, blocks: Iterable[nn.Module], ids_T: Tensor, later_ids_T: Tensor) -> bool:
    """Whether the first token's activations stay when all tokens after it change.

    Args:
        model: a language model in eval mode.
        blocks: its transformer blocks.
        ids_T: at least two token ids, on the model's device.
        later_ids_T: the same first token, with others after it.
    """
    passed = [_first_token(model, blocks, ids) for ids in (ids_T, later_ids_T)]
    is_fine = all(parameter.dtype in _FINE for parameter in model.parameters())
    rounding = _ROUNDING if is_fine else _COARSE_ROUNDING
    return not any(float((one - two).norm()) > rounding * float(one.norm()) for one, two in zip(*passed, strict=True))


def _first_token(model: nn.Module, blocks: Iterable[nn.Module], ids_T: Tensor) -> list[Tensor]:
    """What each block, and the model in the end, puts out at the first token."""
    found: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        value = hidden_out(output)
        # Whether tokens come first, as in XLNet, or after the one sequence, a row of this is a token.
        if value is not None and value.shape.numel() % len(ids_T) == 0 and value.shape[0] in (1, len(ids_T)):
            found.append(value.reshape(len(ids_T), -1)[0].double())

    handles = [block.register_forward_hook(keep) for block in blocks]
    try:
        keep(model, (), tuple(model(input_ids=ids_T[None])[:1]))
    finally:
        for handle in handles:
            handle.remove()
    return found
