"""Will it fit? Memory by parts and by step, from the configuration alone: no weights are loaded.

Nothing is kept for a backward pass through the subject, so one block's activations are alive at a time,
whichever layer is hooked. Steps run one after the other, so the largest of them is what must fit.
"""

from collections.abc import Iterator
from typing import Any

import accelerate
import torch
from pydantic import BaseModel, ConfigDict, Field

from mistudio.errors import SubjectError
from mistudio.subject.config import Quantization, SubjectConfig
from mistudio.subject.devices import free_memory_bytes, pick_device, resolve_dtype
from mistudio.subject.load import choose_auto_class, find_blocks, load_config
from mistudio.subject.source import SubjectSource
from mistudio.subject.structure import is_linear
from mistudio.subject.tokens import quiet_transformers

_HEADROOM = 1.1  # allocators keep about a tenth more than is in use
_SAE_BYTES = 4  # autoencoders are trained in float32
_ADAM_MOMENTS = 2
_SMALLEST_CONTEXT = 64
# Bytes a weight: int8 has one scale a row, nf4 a float32 scale for every 64 weights.
_QUANTIZED_BYTES: dict[str, float] = {"int8": 1.0, "nf4": 0.5 + 4 / 64}
_QUANTIZATIONS: tuple[Quantization, ...] = ("none", "int8", "nf4")


PART_NAMES = {
    "weights": "subject weights",
    "activations": "subject activations",
    "logits": "logits",
    "sae_weights": "autoencoder weights",
    "sae_gradients": "autoencoder gradients",
    "sae_optimizer": "autoencoder optimizer state",
    "sae_batch": "autoencoder training batch",
}
# What each step holds at once.
_STEPS = {
    "capture": ("weights", "activations"),
    "train": ("sae_weights", "sae_gradients", "sae_optimizer", "sae_batch"),
    "evaluate": ("weights", "activations", "logits", "sae_weights"),
}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MemoryParts(_Frozen):
    """Memory by what it is for, in bytes."""

    weights: int = Field(description="weights of the subject")
    activations: int = Field(description="one forward pass of the subject, as far as the hook")
    logits: int = Field(description="output logits, clean and with the reconstruction spliced in")
    sae_weights: int
    sae_gradients: int
    sae_optimizer: int = Field(description="Adam's two moments")
    sae_batch: int = Field(description="pre-activations and codes of one training batch")

    def by_step(self) -> dict[str, int]:
        """What each step holds at once, in bytes."""
        return {step: sum(getattr(self, part) for part in parts) for step, parts in _STEPS.items()}


class Settings(_Frozen):
    """What can be changed to make a model fit."""

    quantization: Quantization
    batch_size: int = Field(description="sequences")
    context_length: int = Field(description="tokens")


class MemoryEstimate(_Frozen):
    """Whether a model and its autoencoder fit on a device, by parts, and what does."""

    model: str
    device: str
    dtype: str
    num_parameters: int
    asked: Settings
    parts: MemoryParts
    steps: dict[str, int] = Field(description="bytes held at once by each step")
    weights_by_quantization: dict[str, int] = Field(description="bytes")
    required_bytes: int = Field(description="of the largest step, with headroom")
    budget_bytes: int = Field(description="free on the device, or as given")
    fits: bool
    reason: str = Field(description="why it does not fit; empty where it does")
    recommended: Settings | None = Field(description="the nearest settings that fit, None if there are none")


class ModelShape(_Frozen):
    """The sizes of a model that its memory follows from."""

    num_layers: int
    num_parameters: int
    linear_parameters: int = Field(description="those that quantisation packs")
    d_model: int
    d_mlp: int = Field(description="inner width of the MLP, times the experts that a token uses")
    num_heads: int
    vocab_size: int
    max_positions: int | None
    materializes_attention: bool = Field(description="attention weights exist as a matrix of tokens by tokens")


def estimate_memory(
    source: SubjectSource,
    config: SubjectConfig,
    *,
    layer: int,
    context_length: int,
    batch_size: int,
    width: int,
    sae_batch_size: int = 4096,
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
        budget_bytes: memory to fit in; None is what is free on the device.

    Raises:
        SubjectError: no such layer or device, a context longer than the model's, or no readable configuration.
    """
    shape = measure_shape(source, config.trust_remote_code)
    _check_ranges(source, shape, layer, context_length)
    device = pick_device(config.device)
    budget = free_memory_bytes(device) if budget_bytes is None else budget_bytes
    asked = Settings(quantization=config.quantization, batch_size=batch_size, context_length=context_length)
    dtype_name = resolve_dtype(config.dtype, device)

    def parts_of(settings: Settings) -> MemoryParts:
        return _parts(shape, settings, _dtype_bytes(config, dtype_name, settings.quantization), width, sae_batch_size)

    # A budget given by hand is of a machine that is not this one: it may well have a GPU.
    may_quantize = device.type == "cuda" or budget_bytes is not None
    choices = _choices(asked, may_quantize=may_quantize)
    there = f"{device} has free" if budget_bytes is None else "the budget is"
    parts = parts_of(asked)
    required = _required(parts)
    recommended = next((choice for choice in choices if _required(parts_of(choice)) <= budget), None)
    return MemoryEstimate(
        model=source.name,
        device=str(device),
        dtype=dtype_name,
        num_parameters=shape.num_parameters,
        asked=asked,
        parts=parts,
        steps=parts.by_step(),
        weights_by_quantization={
            name: _weight_bytes(shape, name, _dtype_bytes(config, dtype_name, name)) for name in _QUANTIZATIONS
        },
        required_bytes=required,
        budget_bytes=budget,
        fits=required <= budget,
        reason="" if required <= budget else _reason(parts, budget, there, recommended, width),
        recommended=recommended,
    )


def measure_shape(source: SubjectSource, trust_remote_code: bool = False) -> ModelShape:
    """Build the model without memory for its weights, and measure it.

    Raises:
        SubjectError: the configuration cannot be read, or is not of a language model with transformer blocks.
    """
    config = load_config(source, trust_remote_code)
    auto_class, _ = choose_auto_class(config)
    with quiet_transformers(), accelerate.init_empty_weights():
        model = auto_class.from_config(config, trust_remote_code=trust_remote_code)
    model.tie_weights()
    text_config = config.get_text_config()
    return ModelShape(
        num_layers=len(find_blocks(model, text_config)),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        linear_parameters=sum(module.weight.numel() for module in _quantizable(model)),
        d_model=text_config.hidden_size,
        d_mlp=_mlp_width(text_config),
        num_heads=getattr(text_config, "num_attention_heads", None) or 1,
        vocab_size=text_config.vocab_size,
        max_positions=getattr(text_config, "max_position_embeddings", None),
        materializes_attention=getattr(model.config, "_attn_implementation", "eager") == "eager",
    )


def gigabytes(num_bytes: int) -> str:
    """A size for people, in units of 10^9 bytes."""
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"


def _quantizable(model: Any) -> Iterator[Any]:
    """The linear layers that bitsandbytes replaces: all but the output embeddings."""
    head = model.get_output_embeddings()
    yield from (module for module in model.modules() if is_linear(module) and module is not head)


def _mlp_width(text_config: Any) -> int:
    names = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "hidden_dim")
    inner = next((getattr(text_config, name) for name in names if getattr(text_config, name, None)), None)
    experts = getattr(text_config, "num_experts_per_tok", None) or 1
    return int(inner or 4 * text_config.hidden_size) * int(experts)


def _dtype_bytes(config: SubjectConfig, dtype_name: str, quantization: str) -> int:
    if quantization != "none" and config.dtype == "auto":
        dtype_name = "bfloat16"  # quantised weights need a GPU, where auto is a type of two bytes
    dtype: torch.dtype = getattr(torch, dtype_name)
    return dtype.itemsize


def _weight_bytes(shape: ModelShape, quantization: str, dtype_bytes: int) -> int:
    if quantization == "none":
        return shape.num_parameters * dtype_bytes
    others = shape.num_parameters - shape.linear_parameters
    return others * dtype_bytes + int(shape.linear_parameters * _QUANTIZED_BYTES[quantization])


def _parts(shape: ModelShape, settings: Settings, dtype_bytes: int, width: int, sae_batch_size: int) -> MemoryParts:
    num_tokens = settings.batch_size * settings.context_length
    sae_bytes = (2 * shape.d_model * width + width + shape.d_model) * _SAE_BYTES
    return MemoryParts(
        weights=_weight_bytes(shape, settings.quantization, dtype_bytes),
        activations=_activation_bytes(shape, settings, dtype_bytes),
        logits=2 * num_tokens * shape.vocab_size * 4,
        sae_weights=sae_bytes,
        sae_gradients=sae_bytes,
        sae_optimizer=_ADAM_MOMENTS * sae_bytes,
        sae_batch=sae_batch_size * (2 * width + 4 * shape.d_model) * _SAE_BYTES,
    )


def _activation_bytes(shape: ModelShape, settings: Settings, dtype_bytes: int) -> int:
    """The busiest moment of a block, and a copy at the hook.

    In a gated MLP the gate, its activation, the other branch and the product live together, beside the stream,
    its normed copy, the norm's float32 copies and the output.
    """
    num_tokens = settings.batch_size * settings.context_length
    per_token = (4 * max(shape.d_mlp, shape.d_model) + 4 * shape.d_model) * dtype_bytes + 2 * shape.d_model * 4
    attention = 0
    if shape.materializes_attention:
        attention = 3 * num_tokens * settings.context_length * shape.num_heads * max(dtype_bytes, 4)
    return num_tokens * per_token + attention


def _required(parts: MemoryParts) -> int:
    return _with_headroom(max(parts.by_step().values()))


def _with_headroom(num_bytes: int) -> int:
    return int(num_bytes * _HEADROOM)


def _choices(asked: Settings, *, may_quantize: bool) -> Iterator[Settings]:
    """Settings from what was asked to the most modest: first smaller batches, then fewer bits, then shorter texts."""
    weaker = _QUANTIZATIONS[_QUANTIZATIONS.index(asked.quantization) :] if may_quantize else (asked.quantization,)
    for context_length in _halvings(asked.context_length, min(_SMALLEST_CONTEXT, asked.context_length)):
        for quantization in weaker:
            for batch_size in _halvings(asked.batch_size, 1):
                yield Settings(quantization=quantization, batch_size=batch_size, context_length=context_length)


def _halvings(value: int, least: int) -> Iterator[int]:
    while value >= least:
        yield value
        value //= 2


def _reason(parts: MemoryParts, budget: int, there: str, recommended: Settings | None, width: int) -> str:
    """One paragraph: which step needs how much, of what, and what would help."""
    steps = parts.by_step()
    step = max(steps, key=lambda name: steps[name])
    largest = max(_STEPS[step], key=lambda part: int(getattr(parts, part)))
    text = (
        f"The {step} step needs {gigabytes(_with_headroom(steps[step]))}, and {there} {gigabytes(budget)}; "
        f"the most of it, {gigabytes(getattr(parts, largest))}, is {PART_NAMES[largest]}."
    )
    if recommended:
        return f"{text} It fits with {describe(recommended)}."
    training = _with_headroom(steps["train"])
    if training > budget:
        return f"{text} The autoencoder has to be narrower: at most about {width * budget // training:,} features."
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
