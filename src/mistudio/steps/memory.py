"""Will it fit? Memory by steps and parts, from the configuration alone: no weights are loaded.

Nothing is kept for a backward pass through the subject, so one block's activations are alive at a time,
whichever layer is hooked. Steps run one after the other, so the largest of them is what must fit. What each holds is
estimated beside the step itself (``mistudio.train.footprint`` and so on), and put together here.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.filesize import decimal

from mistudio.activations.footprint import capture_parts
from mistudio.errors import SubjectError
from mistudio.evaluate.footprint import evaluate_parts
from mistudio.explain.footprint import explain_parts
from mistudio.find.footprint import find_parts
from mistudio.parallel import num_cores
from mistudio.score.footprint import score_parts
from mistudio.steps.choose import default_context_length, default_k, default_width
from mistudio.steps.memory_config import MemoryConfig
from mistudio.subject.config import Dtype, Quantization, SubjectConfig
from mistudio.subject.devices import free_memory_bytes, pick_device, resolve_dtype
from mistudio.subject.footprint import Held, ModelShape, Parts, block_bytes, load_parts, measure_shape, weight_bytes
from mistudio.subject.source import SubjectSource
from mistudio.train.footprint import train_parts

PART_NAMES = {
    "runtime": "libraries and tokenizer",
    "weights": "subject weights",
    "dequantized": "weights that are dequantised",
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
_QUANTIZATIONS: tuple[Quantization, ...] = ("none", "int8", "nf4")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sizes(_Frozen):
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
    width: int = Field(description="features of the autoencoder")
    asked: Sizes
    parts: dict[str, Parts] = Field(description="bytes that each step holds at its busiest moment, by part")
    steps: dict[str, int] = Field(description="their sums")
    weights_by_quantization: dict[str, int] = Field(description="bytes")
    offloaded_bytes: int = Field(description="weights that device_map auto keeps off the device")
    required_bytes: int = Field(description="of the largest step, with headroom")
    budget_bytes: int = Field(description="free on the device, or as given")
    fits: bool
    reason: str = Field(description="why it does not fit; empty where it does")
    recommended: Sizes | None = Field(description="the nearest settings that fit, None if there are none")


def estimate_memory(
    source: SubjectSource, config: SubjectConfig, work: MemoryConfig, budget_bytes: int | None = None
) -> MemoryEstimate:
    """Estimate the memory of each step at one layer.

    Args:
        source: the model; only its configuration is read.
        config: how it is to be loaded.
        work: what is to be done with it.
        budget_bytes: memory to fit in; None is what is free on the device.

    Raises:
        ConfigError: there is no such architecture.
        SubjectError: no such layer or device, a context longer than the model's, or no readable configuration.
    """
    plan = _Plan.of(source, config, work, budget_bytes)
    asked = Sizes(quantization=config.quantization, batch_size=work.batch_size, context_length=plan.context_length)
    parts = plan.parts(asked)
    required, budget = _required(parts), plan.budget_bytes
    recommended = next((choice for choice in _choices(asked) if _required(plan.parts(choice)) <= budget), None)
    there = f"{plan.device} has free" if budget_bytes is None else "the budget is"
    by_quantization = plan.weights_by_quantization()
    return MemoryEstimate(
        model=source.name,
        device=str(plan.device),
        dtype=plan.held(asked.quantization).dtype,
        num_parameters=plan.shape.num_parameters,
        width=plan.width,
        asked=asked,
        parts=parts,
        steps=_sums(parts),
        weights_by_quantization=by_quantization,
        offloaded_bytes=by_quantization[asked.quantization] - parts["evaluate"]["weights"],
        required_bytes=required,
        budget_bytes=budget,
        fits=required <= budget,
        reason="" if required <= budget else _reason(parts, budget, there, recommended, plan.width),
        recommended=recommended,
    )


def estimate_elsewhere(
    shape: ModelShape, work: MemoryConfig, dtype: Dtype, quantization: Quantization = "none", *, on_gpu: bool
) -> dict[str, int]:
    """Bytes that each step needs on a machine that need not be this one, headroom included.

    Unlike :func:`estimate_memory` it looks at nothing of this machine, so that it says the same everywhere.

    Args:
        shape: the sizes of the model.
        work: what is to be done with it.
        dtype: number format of the weights; not auto, which is the machine's to choose.
        quantization: of the weights.
        on_gpu: count the memory of a GPU, not that of the whole process on a CPU.
    """
    layer = shape.num_layers // 2 if work.layer is None else work.layer
    config = SubjectConfig(dtype=dtype, quantization=quantization)
    device = torch.device("cuda" if on_gpu else "cpu")
    plan = _Plan(shape, layer, config, work, device, 0, is_elsewhere=True, cores=_PASSES_AT_ONCE)
    sizes = Sizes(quantization=quantization, batch_size=work.batch_size, context_length=plan.context_length)
    return {step: _with_headroom(needed) for step, needed in _sums(plan.parts(sizes)).items()}


@dataclass(frozen=True)
class _Plan:
    """Work on a model, of which the sizes that can be changed to make it fit are still open."""

    shape: ModelShape
    layer: int
    config: SubjectConfig
    work: MemoryConfig
    device: torch.device
    budget_bytes: int
    is_elsewhere: bool  # a budget given by hand may be that of a GPU elsewhere
    cores: int  # that a CPU has

    @classmethod
    def of(cls, source: SubjectSource, config: SubjectConfig, work: MemoryConfig, budget_bytes: int | None) -> "_Plan":
        shape = measure_shape(source, config.trust_remote_code)
        layer = shape.num_layers // 2 if work.layer is None else work.layer
        if work.context_length is not None:
            _check_context(source, shape, work.context_length)
        _check_layer(source, shape, layer)
        device = pick_device(config.device)
        budget = free_memory_bytes(device) if budget_bytes is None else budget_bytes
        return cls(shape, layer, config, work, device, budget, budget_bytes is not None, num_cores())

    @property
    def context_length(self) -> int:
        """As asked for, or as ingest chooses."""
        return self.work.context_length or default_context_length(self.shape.max_positions)

    @property
    def width(self) -> int:
        """Of the autoencoder: as asked for, or as train chooses."""
        return self.work.width or default_width(self.shape.d_model)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def held(self, quantization: Quantization) -> Held:
        """How the model is held; elsewhere auto is a format of two bytes, and so it is quantised."""
        guessed = self.is_elsewhere and self.config.dtype == "auto" and quantization != "none"
        dtype = "bfloat16" if guessed else resolve_dtype(self.config.dtype, self.device)
        return Held(
            layer=self.layer,
            quantization=quantization,
            dtype=dtype,
            dtype_bytes=_itemsize(dtype),
            on_gpu=self.on_gpu,
            passes_at_once=min(self.cores, _PASSES_AT_ONCE) if self.device.type == "cpu" else 1,
        )

    def weights_by_quantization(self) -> dict[str, int]:
        """Bytes of the model's weights, by their bits."""
        return {name: weight_bytes(self.shape, name, self.held(name).dtype_bytes) for name in _QUANTIZATIONS}

    @cached_property
    def training(self) -> Parts:
        """What training holds, which is the same whatever is changed."""
        work = self.work
        return train_parts(
            self.shape.d_model,
            self.width,
            work.sae_batch_size,
            work.buffer_rows,
            on_gpu=self.on_gpu,
            architecture=work.architecture,
            steered=work.target_l0 is not None,
        )

    def parts(self, sizes: Sizes) -> dict[str, Parts]:
        """What each step holds with these sizes."""
        work, held, context = self.work, self.held(sizes.quantization), sizes.context_length
        active = work.active or work.target_l0 or float(default_k(self.shape.d_model))
        parts = {
            "capture": capture_parts(self.shape, held, sizes.batch_size, context),
            "train": self.training,
            "evaluate": evaluate_parts(self.shape, held, context, self.width),
            "find": find_parts(self.shape, held, context, self.width, active, work.find),
            "explain": self._programs(explain_parts, active, work.explain.max_tokens),
            "score": self._programs(score_parts, active, work.score.max_tokens),
        }
        if self.shape.largest_tensor and not self.on_gpu:
            parts = {"load": load_parts(self.shape, held), **parts}
        if self.config.device_map == "none":
            return parts
        return _offloaded(parts, self.budget_bytes, self.config, block_bytes(self.shape, held))

    def _programs(self, of_step: Callable[..., Parts], active: float, max_tokens: int) -> Parts:
        shape, width = self.shape, self.width
        return of_step(shape.d_model, shape.vocab_size, width, active, max_tokens, on_gpu=self.on_gpu)


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


def _choices(asked: Sizes) -> Iterator[Sizes]:
    """Sizes from what was asked to the most modest: first smaller batches, then fewer bits, then shorter texts."""
    weaker = _QUANTIZATIONS[_QUANTIZATIONS.index(asked.quantization) :]
    for context_length in _halvings(asked.context_length, min(_SMALLEST_CONTEXT, asked.context_length)):
        for quantization in weaker:
            for batch_size in _halvings(asked.batch_size, 1):
                yield Sizes(quantization=quantization, batch_size=batch_size, context_length=context_length)


def _halvings(value: int, least: int) -> Iterator[int]:
    while value >= least:
        yield value
        value //= 2


def _reason(parts: dict[str, Parts], budget: int, there: str, recommended: Sizes | None, width: int) -> str:
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


def describe(settings: Sizes) -> str:
    """Sizes in a few words."""
    return (
        f"quantization {settings.quantization}, batch size {settings.batch_size}, "
        f"context length {settings.context_length}"
    )


def _check_layer(source: SubjectSource, shape: ModelShape, layer: int) -> None:
    if not 0 <= layer < shape.num_layers:
        message = (
            f"There is no layer {layer} in {source.name}: it has {shape.num_layers} layers, "
            f"0 to {shape.num_layers - 1}."
        )
        raise SubjectError(message)


def _check_context(source: SubjectSource, shape: ModelShape, context_length: int) -> None:
    if shape.max_positions and context_length > shape.max_positions:
        message = (
            f"A context length of {context_length} is too long for {source.name}, "
            f"which was made for at most {shape.max_positions} tokens."
        )
        raise SubjectError(message)
