"""Will it fit? Memory by steps and parts, from the configuration alone: no weights are loaded.

Nothing is kept for a backward pass through the subject, so one block's activations are alive at a time,
whichever layer is hooked. Steps run one after the other, so the largest of them is what must fit. What each holds is
estimated beside the step itself (``mistudio.train.footprint`` and so on), and put together here.
"""

import math
from collections.abc import Callable, Iterator

import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.filesize import decimal

from mistudio.activations.footprint import capture_parts
from mistudio.errors import SubjectError
from mistudio.evaluate.footprint import evaluate_parts
from mistudio.explain import ExplainConfig
from mistudio.explain.footprint import explain_parts
from mistudio.find import FindConfig
from mistudio.find.footprint import find_parts
from mistudio.parallel import num_cores
from mistudio.score import ScoreConfig
from mistudio.score.footprint import score_parts
from mistudio.subject.config import Quantization, SubjectConfig
from mistudio.subject.devices import free_memory_bytes, pick_device, resolve_dtype
from mistudio.subject.footprint import Held, ModelShape, Parts, block_bytes, measure_shape, weight_bytes
from mistudio.subject.source import SubjectSource
from mistudio.train import TrainConfig
from mistudio.train.footprint import train_parts

PART_NAMES = {
    "runtime": "libraries and tokenizer",
    "weights": "subject weights",
    "activations": "subject activations",
    "allocator": "kept by the allocator",
    "logits": "logits",
    "rows": "rows in buffers",
    "features": "contexts and counts of features",
    "sample": "tokens and what fires on them",
    "sae_weights": "autoencoder weights",
    "sae_optimizer": "autoencoder optimizer state",
    "sae_step": "autoencoder gradients or batch",
    "sae_auxiliary": "auxiliary loss, all latents dead",
}
_OF_FEATURES = ("features", "sae_weights", "sae_optimizer", "sae_step", "sae_auxiliary")
_HEADROOM = 1.1  # allocators keep about a tenth more than is in use
_SMALLEST_CONTEXT = 64
_PASSES_AT_ONCE = 2  # on a CPU (mistudio.parallel.two_at_once)
_MOST_ACTIVE = 64.0  # features a token: the most that training chooses
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
    sae_batch_size: int = TrainConfig.model_fields["batch_size"].default,
    buffer_rows: int = TrainConfig.model_fields["buffer_rows"].default,
    architecture: str = "topk",
    target_l0: float | None = None,
    active: float | None = None,
    budget_bytes: int | None = None,
    find: FindConfig | None = None,
    explain: ExplainConfig | None = None,
    score: ScoreConfig | None = None,
) -> MemoryEstimate:
    """Estimate the memory of each step at one layer.

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
        active: features a token; None: the target, or else the most that training chooses.
        budget_bytes: memory to fit in; None is what is free on the device.
        find: settings of find.
        explain: settings of explain; of its explainers only programs are counted.
        score: settings of score; of its scorers only programs are counted.

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

    def held(settings: Settings) -> Held:
        dtype = "bfloat16" if guess and settings.quantization != "none" else resolve_dtype(config.dtype, device)
        return Held(
            layer=layer,
            quantization=settings.quantization,
            dtype=dtype,
            dtype_bytes=_itemsize(dtype),
            on_gpu=device.type == "cuda",
            passes_at_once=min(num_cores(), _PASSES_AT_ONCE) if device.type == "cpu" else 1,
        )

    active = active or target_l0 or _MOST_ACTIVE
    training = train_parts(
        shape.d_model,
        width,
        sae_batch_size,
        buffer_rows,
        on_gpu=device.type == "cuda",
        architecture=architecture,
        steered=target_l0 is not None,
    )

    def programs(of_step: Callable[..., Parts], max_tokens: int) -> Parts:
        return of_step(shape.d_model, shape.vocab_size, width, active, max_tokens, on_gpu=device.type == "cuda")

    def parts_of(settings: Settings) -> dict[str, Parts]:
        own, context = held(settings), settings.context_length
        parts = {
            "capture": capture_parts(shape, own, settings.batch_size, context),
            "train": training,
            "evaluate": evaluate_parts(shape, own, context, width),
            "find": find_parts(shape, own, context, width, active, find or FindConfig()),
            "explain": programs(explain_parts, (explain or ExplainConfig()).max_tokens),
            "score": programs(score_parts, (score or ScoreConfig()).max_tokens),
        }
        if config.device_map == "none":
            return parts
        return _offloaded(parts, budget, config, block_bytes(shape, own))

    parts = parts_of(asked)
    required = _required(parts)
    recommended = next((choice for choice in _choices(asked) if _required(parts_of(choice)) <= budget), None)
    there = f"{device} has free" if budget_bytes is None else "the budget is"
    by_quantization = {
        name: weight_bytes(shape, name, held(asked.model_copy(update={"quantization": name})).dtype_bytes)
        for name in _QUANTIZATIONS
    }
    return MemoryEstimate(
        model=source.name,
        device=str(device),
        dtype=held(asked).dtype,
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
    widths = [_fitting_width(own, int(budget / _HEADROOM), width) for own in parts.values()]
    if 0 < min(widths) < width:
        return f"{text} The autoencoder has to be narrower: at most about {min(widths):,} features."
    return f"{text} No setting makes it fit: use a smaller model, a larger device, or device_map auto to offload."


def _fitting_width(own: Parts, room: int, width: int) -> int:
    """How many features a step has room for; as many as asked where it fits, none where that is no help."""
    total = sum(own.values())
    of_features = sum(own.get(part, 0) for part in _OF_FEATURES)
    if total <= room or not of_features:
        return width if total <= room else 0
    return max(width * (room - total + of_features) // of_features, 0)


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
