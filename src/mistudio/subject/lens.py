"""Logit lens: which output tokens a direction in the residual stream promotes and suppresses.

Shape legend: F directions, D model width, V vocabulary, H width of the output embeddings, K chosen tokens, B sequences,
T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mistudio.errors import SubjectError
from mistudio.subject.hooks import probe_ids
from mistudio.subject.load import Subject
from mistudio.subject.structure import is_linear
from mistudio.subject.taps import unedited
from mistudio.subject.trace import Call, called_once, watch

_NORM_PROBE = 16.0  # large, so that the norm's epsilon does not matter
_ROWS_AT_ONCE = 256
_CENTRES_BELOW = 0.05  # effect of a constant shift, relative to the weight; without centring it is near 1


@dataclass(frozen=True)
class _Readout:
    """What lies between the last block and the logits, as far as it is linear."""

    norm_weight_D: Tensor | None
    centres: bool
    projection: nn.Module | None
    head: nn.Module


@torch.no_grad()
def unembed(subject: Subject, direction_FD: Tensor) -> Tensor:
    """Logits [F, V] in float32 that each direction adds, up to the norm's division by the activation's size.

    The final norm's weight is applied (after centring, where the norm centres), then the output embeddings
    without their bias. A masked-token head's own hidden layer is not linear, and is passed over.

    Source: nostalgebraist, "interpreting GPT: the logit lens" (2020).

    Raises:
        SubjectError: the model has no output embeddings, or they are not as wide as the residual stream.
    """
    readout = _readout(subject)
    x_FD = direction_FD.to(subject.device, torch.float32)
    if readout.centres:
        x_FD = x_FD - x_FD.mean(-1, keepdim=True)
    if readout.norm_weight_D is not None:
        x_FD = x_FD * readout.norm_weight_D
    if readout.projection is not None:
        x_FD = _linear_part(readout.projection, x_FD)
    return _linear_part(readout.head, x_FD).float()


@torch.no_grad()
def unembedding_rows(subject: Subject, token_ids: Sequence[int]) -> Tensor:
    """What a direction is multiplied by to give the logit of a token [K, D], float32: columns of :func:`unembed`.

    ``direction_FD @ unembedding_rows(subject, ids).T`` are the logits of these tokens alone, for the price of them.

    Raises:
        SubjectError: as :func:`unembed`.
    """
    readout = _readout(subject)
    rows_KH = _head_rows(readout.head, torch.tensor(token_ids, dtype=torch.int64), subject.device)
    if readout.projection is not None:
        eye_DD = torch.eye(subject.d_model, device=subject.device)
        rows_KH = rows_KH @ _linear_part(readout.projection, eye_DD).float().T
    if readout.norm_weight_D is not None:
        rows_KH = rows_KH * readout.norm_weight_D
    return rows_KH - rows_KH.mean(-1, keepdim=True) if readout.centres else rows_KH


def _head_rows(head: Any, token_K: Tensor, device: torch.device) -> Tensor:
    """Rows of the output embeddings [K, H] in float32; where the weight is packed, by what the module computes."""
    if isinstance(head, nn.Linear) and head.weight.is_floating_point() and not head.weight.is_meta:
        return head.weight.detach()[token_K.to(head.weight.device)].to(device, torch.float32)
    eye_HH = torch.eye(head.in_features, device=device)
    starts = range(0, len(eye_HH), _ROWS_AT_ONCE)
    parts = [_linear_part(head, eye_HH[start : start + _ROWS_AT_ONCE])[:, token_K.to(device)] for start in starts]
    return torch.cat(parts).T.float()


def _readout(subject: Subject) -> _Readout:
    if "readout" not in subject.cache:
        subject.cache["readout"] = _find_readout(subject)
    found: _Readout = subject.cache["readout"]
    return found


def _find_readout(subject: Subject) -> _Readout:
    """Watch one forward pass from the last block to the logits."""
    head = subject.model.get_output_embeddings()
    if head is None:
        message = f"{type(subject.model).__name__} has no output embeddings, so directions have no logits."
        raise SubjectError(message)
    ids_BT = probe_ids(subject)
    last = subject.blocks[-1]
    inside = {id(module) for block in subject.blocks for module in block.modules()}
    others = [module for module in subject.model.modules() if id(module) not in inside]
    with unedited(), watch([last, *others], *ids_BT.shape) as calls:
        subject.model(input_ids=ids_BT)
    finished = called_once(calls)
    block_call = next(call for call in finished if call.module is last)
    after = [call for call in finished if call.start > block_call.end and not any(call.module.children())]
    norm = next((call for call in after if _reads(call, block_call, subject.d_model) and _normalises(call)), None)
    weight_D, centres = (
        _norm_weight(norm.module, norm.input_BTW) if norm and norm.input_BTW is not None else (None, False)
    )
    return _Readout(weight_D, centres, _projection(subject, after, head), head)


def _reads(call: Call, block_call: Call, d_model: int) -> bool:
    """Whether a module's input is what the last block returned, and its output is as wide."""
    one, two = call.input_BTW, block_call.output_BTW
    if one is None or two is None or call.output_BTW is None:
        return False
    same_shape = call.output_BTW.shape == one.shape == two.shape
    return same_shape and one.shape[-1] == d_model and torch.equal(one, two)


def _normalises(call: Call) -> bool:
    """Whether twice the input gives the same output, as no dropout or linear layer does."""
    if call.input_BTW is None or call.output_BTW is None:
        return False
    twice: Tensor = call.module(call.input_BTW * 2)
    return torch.allclose(twice.float(), call.output_BTW.float(), rtol=1e-2, atol=1e-2)


def _norm_weight(norm: nn.Module, like_BTD: Tensor) -> tuple[Tensor, bool]:
    """The weight that a norm multiplies with, and whether it centres first, from how it behaves.

    On an input of mean 0 and mean square 1 every norm returns weight * input + bias, whether it centres or not
    and whether the weight is stored as such or as its difference from 1.
    """
    unit_D = _centred_unit(like_BTD.shape[-1]).to(like_BTD.device)

    def normed(x_D: Tensor) -> Tensor:
        output: Tensor = norm((x_D * _NORM_PROBE).to(like_BTD.dtype).reshape(1, 1, -1))
        return output.reshape(-1).float()

    weight_D = (normed(unit_D) - normed(-unit_D)) / (2 * unit_D)
    change_D = normed(unit_D + 1) - normed(unit_D)
    return weight_D, bool(change_D.abs().mean() < _CENTRES_BELOW * weight_D.abs().mean())


def _centred_unit(width: int) -> Tensor:
    """A vector without zeros of mean 0 and mean square 1."""
    signs = torch.ones(width)
    signs[1::2] = -1
    if width % 2:
        signs[-3:] = torch.tensor([0.5, 0.5, -1.0]) * 2**0.5
    return signs


def _projection(subject: Subject, after: list[Call], head: Any) -> nn.Module | None:
    """The linear layer that narrows the stream to the output embeddings, in models where they are narrower."""
    head_call = next((call for call in after if call.module is head), None)
    if head_call is None or head_call.input_BTW is None or head_call.input_BTW.shape[-1] == subject.d_model:
        return None
    for call in after:
        if is_linear(call.module) and call.output_BTW is not None and call.input_BTW is not None:
            widths = call.input_BTW.shape[-1], call.output_BTW.shape[-1]
            if widths == (subject.d_model, head_call.input_BTW.shape[-1]):
                return call.module
    message = (
        f"The output embeddings of {type(subject.model).__name__} are {head_call.input_BTW.shape[-1]} wide and its "
        f"residual stream {subject.d_model}, with no linear layer between them; directions have no logits."
    )
    raise SubjectError(message)


def _linear_part(module: nn.Module, x_FD: Tensor) -> Tensor:
    """What a linear layer adds for each row, without its bias; called as a module, for weights may be packed."""
    dtype = next((parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()), x_FD.dtype)
    x_FD = x_FD.to(dtype)
    output: Tensor = module(x_FD)
    if getattr(module, "bias", None) is not None:
        output = output - module(torch.zeros_like(x_FD[:1]))
    return output
