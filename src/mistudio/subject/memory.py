"""Will it fit? Memory by steps and parts, from the configuration alone: no weights are loaded.

Nothing is kept for a backward pass through the subject, so one block's activations are alive at a time,
whichever layer is hooked. Steps run one after the other, so the largest of them is what must fit.
"""

import math
from collections.abc import Iterator

import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.filesize import decimal

from mistudio.errors import SubjectError
from mistudio.parallel import num_cores
from mistudio.subject.config import Quantization, SubjectConfig
from mistudio.subject.devices import free_memory_bytes, pick_device, resolve_dtype
from mistudio.subject.footprint import (
    PART_NAMES,
    ModelShape,
    Parts,
    Workload,
    block_bytes,
    measure_shape,
    parts_by_step,
    weight_bytes,
)
from mistudio.subject.source import SubjectSource

_HEADROOM = 1.1  # allocators keep about a tenth more than is in use
_SMALLEST_CONTEXT = 64
_PASSES_AT_ONCE = 2  # on a CPU (mistudio.parallel.two_at_once)
_QUANTIZATIONS: tuple[Quantization, ...] = ("none", "int8", "nf4")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Settings(_Frozen):
    """What can be changed to make a model fit."""

    quantization: Quantization
    batch_size: int = Field(description="sequences")
    context_length: int = Field(description="tokens")


class MemoryEstimate(_Frozen):
    """Whether a model and its autoencoder fit on a device, by steps and parts, and what does."""

    model: str
    device: str
    dtype: str
    num_parameters: int
    asked: Settings
    parts: dict[str, Parts] = Field(description="bytes that each step holds at its busiest moment, by part")
    steps: dict[str, int] = Field(description="their sums")
    weights_by_quantization: dict[str, int] = Field(description="bytes")
    offloaded_bytes: int = Field(description="weights that device_map auto keeps off the device")
    required_bytes: int = Field(description="of the largest step, with headroom")
    budget_bytes: int = Field(description="free on the device, or as given")
    fits: bool
    reason: str = Field(description="why it does not fit; empty where it does")
    recommended: Settings | None = Field(description="the nearest settings that fit, None if there are none")


def estimate_memory(
    source: SubjectSource,
    config: SubjectConfig,
    *,
    layer: int,
    context_length: int,
    batch_size: int,
    width: int,
    sae_batch_size: int = 512,
    buffer_rows: int = 262_144,
    architecture: str = "topk",
    target_l0: float | None = None,
    budget_bytes: int | None = None,
) -> MemoryEstimate:
    """Estimate memory for capture, training and evaluation at one layer.

    Args:
        source: the model; only its configuration is read.
        config: how it is to be loaded.
        layer: the block that is hooked.
        context_length: tokens of a sequence.
        batch_size: sequences of a forward pass.
        width: features of the autoencoder.
        sae_batch_size: activations of one training step of the autoencoder.
        buffer_rows: activations in the shuffling buffer.
        architecture: of the autoencoder; one with a penalty begins dense, unless it is steered to a target.
        target_l0: that target.
        budget_bytes: memory to fit in; None is what is free on the device.

    Raises:
        SubjectError: no such layer or device, a context longer than the model's, or no readable configuration.
    """
    shape = measure_shape(source, config.trust_remote_code)
    _check_ranges(source, shape, layer, context_length)
    device = pick_device(config.device)
    budget = free_memory_bytes(device) if budget_bytes is None else budget_bytes
    asked = Settings(quantization=config.quantization, batch_size=batch_size, context_length=context_length)
    # A budget given by hand may be that of a GPU elsewhere, where auto is a format of two bytes; so it is quantised.
    guess = budget_bytes is not None and config.dtype == "auto"

    def workload(settings: Settings) -> Workload:
        dtype = "bfloat16" if guess and settings.quantization != "none" else resolve_dtype(config.dtype, device)
        return Workload(
            **settings.model_dump(),
            layer=layer,
            width=width,
            sae_batch_size=sae_batch_size,
            buffer_rows=buffer_rows,
            architecture=architecture,
            steered=target_l0 is not None,
            dtype=dtype,
            dtype_bytes=_itemsize(dtype),
            on_gpu=device.type == "cuda",
            passes_at_once=min(num_cores(), _PASSES_AT_ONCE) if device.type == "cpu" else 1,
        )

    def parts_of(settings: Settings) -> dict[str, Parts]:
        parts = parts_by_step(shape, workload(settings))
        if config.device_map == "none":
            return parts
        return _offloaded(parts, budget, config, block_bytes(shape, workload(settings)))

    parts = parts_of(asked)
    required = _required(parts)
    recommended = next((choice for choice in _choices(asked) if _required(parts_of(choice)) <= budget), None)
    there = f"{device} has free" if budget_bytes is None else "the budget is"
    by_quantization = {
        name: weight_bytes(shape, name, workload(asked.model_copy(update={"quantization": name})).dtype_bytes)
        for name in _QUANTIZATIONS
    }
    return MemoryEstimate(
        model=source.name,
        device=str(device),
        dtype=workload(asked).dtype,
        num_parameters=shape.num_parameters,
        asked=asked,
        parts=parts,
        steps=_sums(parts),
        weights_by_quantization=by_quantization,
        offloaded_bytes=by_quantization[asked.quantization] - parts["evaluate"]["weights"],
        required_bytes=required,
        budget_bytes=budget,
        fits=required <= budget,
        reason="" if required <= budget else _reason(parts, budget, there, recommended, width),
        recommended=recommended,
    )


def _itemsize(dtype: str) -> int:
    found: torch.dtype = getattr(torch, dtype)
    return found.itemsize


def _offloaded(parts: dict[str, Parts], budget: int, config: SubjectConfig, block: int) -> dict[str, Parts]:
    """The same where weights stay on the device as far as they may, and all others pass through it block by block."""
    most = math.inf if config.max_memory_gb is None else config.max_memory_gb * 1e9
    kept = {}
    for step, own in parts.items():
        weights = own.get("weights", 0)
        room = budget / _HEADROOM - sum(own.values()) + weights - block
        kept[step] = {**own, "weights": min(weights, int(max(min(room, most), 0)) + block)} if weights else own
    return kept


def _sums(parts: dict[str, Parts]) -> dict[str, int]:
    return {step: sum(own.values()) for step, own in parts.items()}


def _required(parts: dict[str, Parts]) -> int:
    return _with_headroom(max(_sums(parts).values()))


def _with_headroom(num_bytes: int) -> int:
    return int(num_bytes * _HEADROOM)


def _choices(asked: Settings) -> Iterator[Settings]:
    """Settings from what was asked to the most modest: first smaller batches, then fewer bits, then shorter texts."""
    weaker = _QUANTIZATIONS[_QUANTIZATIONS.index(asked.quantization) :]
    for context_length in _halvings(asked.context_length, min(_SMALLEST_CONTEXT, asked.context_length)):
        for quantization in weaker:
            for batch_size in _halvings(asked.batch_size, 1):
                yield Settings(quantization=quantization, batch_size=batch_size, context_length=context_length)


def _halvings(value: int, least: int) -> Iterator[int]:
    while value >= least:
        yield value
        value //= 2


def _reason(parts: dict[str, Parts], budget: int, there: str, recommended: Settings | None, width: int) -> str:
    """One paragraph: which step needs how much, of what, and what would help."""
    steps = _sums(parts)
    step = max(steps, key=lambda name: steps[name])
    largest = max(parts[step], key=lambda part: parts[step][part])
    text = (
        f"The {step} step needs {decimal(_with_headroom(steps[step]))}, and {there} {decimal(budget)}; "
        f"the most of it, {decimal(parts[step][largest])}, is {PART_NAMES[largest]}."
    )
    if recommended:
        return f"{text} It fits with {describe(recommended)}."
    fixed = sum(parts["train"][part] for part in ("runtime", "rows"))
    room = int(budget / _HEADROOM) - fixed
    if steps["train"] > fixed + room > fixed:
        narrower = width * room // (steps["train"] - fixed)
        return f"{text} The autoencoder has to be narrower: at most about {narrower:,} features."
    return f"{text} No setting makes it fit: use a smaller model, a larger device, or device_map auto to offload."


def describe(settings: Settings) -> str:
    """Settings in a few words."""
    return (
        f"quantization {settings.quantization}, batch size {settings.batch_size}, "
        f"context length {settings.context_length}"
    )


def _check_ranges(source: SubjectSource, shape: ModelShape, layer: int, context_length: int) -> None:
    if not 0 <= layer < shape.num_layers:
        message = (
            f"There is no layer {layer} in {source.name}: it has {shape.num_layers} layers, "
            f"0 to {shape.num_layers - 1}."
        )
        raise SubjectError(message)
    if shape.max_positions and context_length > shape.max_positions:
        message = (
            f"A context length of {context_length} is too long for {source.name}, "
            f"which was made for at most {shape.max_positions} tokens."
        )
        raise SubjectError(message)
