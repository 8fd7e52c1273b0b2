"""What each step holds at its busiest moment, by what it is for, from sizes alone.

The formulas follow what the steps do: a part that is gone when another one grows does not count beside it.
``benchmarks/memory_estimate.py`` holds them against measured peaks. On a CPU the estimate is of all that the process
has resident, Python and its libraries included; on a GPU it is of the device's memory alone.
"""

from collections.abc import Iterator
from typing import Any

import accelerate
from pydantic import BaseModel, ConfigDict, Field

from mistudio.subject.config import Quantization
from mistudio.subject.facts import load_config
from mistudio.subject.load import choose_auto_class, find_blocks
from mistudio.subject.source import SubjectSource
from mistudio.subject.structure import is_linear
from mistudio.subject.tokens import quiet_transformers

PART_NAMES = {
    "runtime": "libraries and tokenizer",
    "weights": "subject weights",
    "activations": "subject activations",
    "allocator": "kept by the allocator",
    "logits": "logits",
    "rows": "rows in buffers",
    "sae_weights": "autoencoder weights",
    "sae_optimizer": "autoencoder optimizer state",
    "sae_step": "autoencoder gradients or batch",
    "sae_auxiliary": "auxiliary loss, all latents dead",
}
Parts = dict[str, int]

_MB = 1 << 20
# Python and the libraries of each step, measured with a model of nearly no size; how many there are depends on what is
# installed and on the way that the step is started: 500 to 700 MB.
_CPU_RUNTIME = {"capture": 600 * _MB, "train": 580 * _MB, "evaluate": 600 * _MB}
_CUDA_CONTEXT = 600 * _MB  # the context, cuBLAS's workspace, and what the allocator cannot use
# What malloc keeps beside what is in use, because tensors of two threads lie scattered: of a capture's activations, and
# of an evaluation's logits; never more than it gives back (mistudio.heap).
_KEPT_ACTIVATIONS, _KEPT_LOGITS, _MOST_KEPT = 1.0, 0.15, 1 << 30
# Activation functions that transformers puts together of several operations.
_COMPOSED = ("gelu_new", "gelu_fast", "gelu_accurate", "quick_gelu", "gelu_10", "laplace")
_TOKENIZER_BYTES = 900  # a token of the vocabulary: its strings, merges and tables
# Bytes a weight: int8 has one float32 scale a row beside it, nf4 one for every 64 weights.
_QUANTIZED_BYTES: dict[str, float] = {"int8": 1.0, "nf4": 0.5 + 4 / 64}
_SAE_BYTES = 4  # autoencoders are trained in float32
_STORED_BYTES = 2  # activations are stored in two bytes
_WAITING_PASSES = 4  # forward passes whose rows are made, wait or are being written
_SLOT_BYTES = 24  # of a row in the shuffling buffer: its number, and its place in the order
_SAMPLE_ROWS = 16_384  # of the activations from which training takes its scale
_SAMPLE_COPIES = 2 + 4 + 4  # bytes: as stored, in float32, and without the mean
# A penalised autoencoder without a target L0 begins with about half of all latents active: bytes a pre-activation for
# what its loss and gradients keep of them.
_DENSE_START = {"standard": 50, "gated": 62, "jumprelu": 85}
_ENCODED_AT_ONCE = 1 << 24  # pre-activations, in use
_EVALUATED_ROWS = 4096
_SPLICED_TOKENS = 4096
_SPLICED_LOGITS = 1 << 24
_COMPARED_BYTES = 64 * _MB  # at most, of logits that are being compared, in four copies
_MAXIMA = 1 / 8  # of a block of pre-activations: the maxima that the largest are found with


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelShape(_Frozen):
    """The sizes of a model that its memory follows from."""

    num_layers: int
    num_parameters: int
    linear_parameters: int = Field(description="those that quantisation packs")
    linear_rows: int = Field(description="rows of their matrices")
    largest_linear: int = Field(description="parameters of the largest of their matrices")
    block_parameters: int = Field(description="of the largest block")
    head_parameters: int = Field(description="of the output embeddings, where they are not the input's")
    d_model: int
    d_mlp: int = Field(description="inner width of the MLP, times the experts that a token uses")
    mlp_copies: int = Field(description="tensors of that width that live together")
    num_heads: int
    vocab_size: int
    max_positions: int | None
    materializes_attention: bool = Field(description="attention weights exist as a matrix of tokens by tokens")
    saved_dtype: str | None = Field(description="number format of the file, as its configuration says")


class Workload(_Frozen):
    """What is done with a model, and how it is held."""

    layer: int = Field(description="the block that is hooked")
    quantization: Quantization
    batch_size: int = Field(description="sequences")
    context_length: int = Field(description="tokens")
    width: int = Field(description="features of the autoencoder")
    sae_batch_size: int = Field(description="activations of a training step")
    buffer_rows: int = Field(description="rows of the shuffling buffer")
    architecture: str = Field(default="topk", description="of the autoencoder")
    steered: bool = Field(default=False, description="whether its sparsity has a target, and so is there at once")
    dtype: str
    dtype_bytes: int
    on_gpu: bool
    passes_at_once: int = Field(default=1, description="forward passes that run beside each other")

    @property
    def num_tokens(self) -> int:
        """Tokens of one forward pass of a capture."""
        return self.batch_size * self.context_length


def parts_by_step(shape: ModelShape, work: Workload) -> dict[str, Parts]:
    """What each step holds at its busiest moment: bytes by part."""
    return {"capture": _capture(shape, work), "train": _train(shape, work), "evaluate": _evaluate(shape, work)}


def weight_bytes(shape: ModelShape, quantization: str, dtype_bytes: int) -> int:
    """Weights of the whole model, in bytes."""
    if quantization == "none":
        return shape.num_parameters * dtype_bytes
    packed = shape.linear_parameters * _QUANTIZED_BYTES[quantization]
    scales = 4 * shape.linear_rows if quantization == "int8" else 0
    return (shape.num_parameters - shape.linear_parameters) * dtype_bytes + int(packed) + scales


def block_bytes(shape: ModelShape, work: Workload) -> int:
    """The most that one block's weights can take, in bytes."""
    return shape.block_parameters * work.dtype_bytes


def measure_shape(source: SubjectSource, trust_remote_code: bool = False) -> ModelShape:
    """Build the model without memory for its weights, and measure it.

    Raises:
        SubjectError: the configuration cannot be read, or is not of a language model with transformer blocks.
    """
    config = load_config(source, trust_remote_code)
    saved_dtype = str(getattr(config, "dtype", None) or "").removeprefix("torch.")
    auto_class, _ = choose_auto_class(config)
    with quiet_transformers(), accelerate.init_empty_weights():
        model = auto_class.from_config(config, trust_remote_code=trust_remote_code)
    model.tie_weights()
    text_config = config.get_text_config()
    blocks, head = find_blocks(model, text_config), model.get_output_embeddings()
    tied = head is None or head.weight is model.get_input_embeddings().weight
    linear = [module.weight for module in _quantizable(model)]
    return ModelShape(
        num_layers=len(blocks),
        num_parameters=_count(model),
        linear_parameters=sum(weight.numel() for weight in linear),
        linear_rows=sum(weight.shape[0] for weight in linear),
        largest_linear=max((weight.numel() for weight in linear), default=0),
        block_parameters=max(map(_count, blocks)),
        head_parameters=0 if tied else _count(head),
        d_model=text_config.hidden_size,
        d_mlp=_mlp_width(text_config),
        mlp_copies=_mlp_copies(text_config, linear),
        num_heads=getattr(text_config, "num_attention_heads", None) or 1,
        vocab_size=text_config.vocab_size,
        max_positions=getattr(text_config, "max_position_embeddings", None),
        materializes_attention=getattr(model.config, "_attn_implementation", "eager") == "eager",
        saved_dtype=saved_dtype or None,
    )


def _capture(shape: ModelShape, work: Workload) -> Parts:
    weights = weight_bytes(shape, work.quantization, work.dtype_bytes)
    if _is_mapped(shape, work):
        # Pages of the file that no forward pass comes to are never read.
        unread = (shape.num_layers - 1 - work.layer) * shape.block_parameters + shape.head_parameters
        weights = (shape.num_parameters - unread) * work.dtype_bytes
    activations = work.passes_at_once * _activation_bytes(shape, work, work.num_tokens)
    waiting = 0 if work.on_gpu else _WAITING_PASSES * work.num_tokens * shape.d_model * _STORED_BYTES
    return {
        "runtime": _runtime(shape, work, "capture"),
        "weights": weights,
        "activations": activations,
        "allocator": _kept_bytes(work, _KEPT_ACTIVATIONS * activations),
        "rows": waiting,
    }


def _train(shape: ModelShape, work: Workload) -> Parts:
    """The forward pass, or gradients: what is larger counts.

    On a CPU pre-activations stay, because every step's are written to the same memory. Beside the gradients there is
    half an autoencoder of products while directions are held at unit norm. The auxiliary loss takes copies of the dead
    latents' weights and pre-activations, and the copies have gradients.
    """
    sae = _sae_bytes(shape, work.width)
    batch = work.sae_batch_size * shape.d_model * _SAE_BYTES
    preactivations = work.sae_batch_size * work.width * _SAE_BYTES
    staying = 0 if work.on_gpu else preactivations
    selecting = int((1 + _MAXIMA) * preactivations)
    plain = max(staying + sae + sae // 2, selecting)
    auxiliary = max(staying + 4 * sae, preactivations + selecting + sae)
    dense = 0 if work.steered else _DENSE_START.get(work.architecture, 0) * work.sae_batch_size * work.width
    ring = work.buffer_rows * (shape.d_model * _STORED_BYTES + _SLOT_BYTES)
    runtime = _CUDA_CONTEXT if work.on_gpu else _CPU_RUNTIME["train"]
    return {
        "runtime": runtime,
        "rows": 0 if work.on_gpu else max(ring, _SAMPLE_ROWS * shape.d_model * _SAMPLE_COPIES),
        "sae_weights": sae,
        "sae_optimizer": 2 * sae,
        "sae_step": plain + dense + 6 * batch,
        "sae_auxiliary": max(auxiliary - plain - dense, 0),
    }


def _evaluate(shape: ModelShape, work: Workload) -> Parts:
    """The autoencoder and its random control, and the largest of what is done with them one after the other."""
    sae = _sae_bytes(shape, work.width)
    per_sequence = max(work.context_length, 1)
    tokens = max(min(_SPLICED_TOKENS, _SPLICED_LOGITS // shape.vocab_size) // per_sequence, 1) * per_sequence
    activations = work.passes_at_once * _activation_bytes(shape, work, tokens)
    num_logits = tokens * shape.vocab_size
    compared = min(_COMPARED_BYTES, 4 * num_logits * 4)
    logits = work.passes_at_once * (2 * num_logits * work.dtype_bytes + compared)
    encoding = int((1 + 2 * _MAXIMA) * _SAE_BYTES * min(_EVALUATED_ROWS * work.width, _ENCODED_AT_ONCE))
    rebuilding = encoding + _EVALUATED_ROWS * shape.d_model * (2 * 4 + 5 * 8)
    return {
        "runtime": _runtime(shape, work, "evaluate"),
        "weights": weight_bytes(shape, work.quantization, work.dtype_bytes),
        "activations": activations,
        "logits": logits,
        "allocator": _kept_bytes(work, _KEPT_LOGITS * logits),
        "sae_weights": 2 * sae,
        "sae_step": max(max(sae, rebuilding) - activations - logits, 0),
    }


def _runtime(shape: ModelShape, work: Workload, step: str) -> int:
    return _CUDA_CONTEXT if work.on_gpu else _CPU_RUNTIME[step] + _TOKENIZER_BYTES * shape.vocab_size


def _is_mapped(shape: ModelShape, work: Workload) -> bool:
    """Whether weights are used where they lie in the file."""
    return not work.on_gpu and work.quantization == "none" and work.dtype == shape.saved_dtype


def _sae_bytes(shape: ModelShape, width: int) -> int:
    return (2 * shape.d_model * width + width + shape.d_model) * _SAE_BYTES


def _activation_bytes(shape: ModelShape, work: Workload, num_tokens: int) -> int:
    """The busiest moment of a block, which is in its MLP, and a copy at the hook.

    A matrix of 4 bits is unpacked to be multiplied with.
    """
    per_token = (shape.mlp_copies * max(shape.d_mlp, shape.d_model) + 5 * shape.d_model) * work.dtype_bytes
    attention = 0
    if shape.materializes_attention:
        attention = 3 * num_tokens * work.context_length * shape.num_heads * max(work.dtype_bytes, 4)
    unpacked = shape.largest_linear * work.dtype_bytes if work.quantization == "nf4" else 0
    return num_tokens * per_token + attention + unpacked


def _kept_bytes(work: Workload, num_bytes: float) -> int:
    return 0 if work.on_gpu else int(min(num_bytes, _MOST_KEPT))


def _quantizable(model: Any) -> Iterator[Any]:
    """The linear layers that bitsandbytes replaces: all but the output embeddings."""
    head = model.get_output_embeddings()
    yield from (module for module in model.modules() if is_linear(module) and module is not head)


def _mlp_width(text_config: Any) -> int:
    names = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "hidden_dim")
    inner = next((getattr(text_config, name) for name in names if getattr(text_config, name, None)), None)
    experts = getattr(text_config, "num_experts_per_tok", None) or 1
    return int(inner or 4 * text_config.hidden_size) * int(experts)


def _mlp_copies(text_config: Any, linear: list[Any]) -> int:
    """The gate's activation, the other branch and the product; one more where both branches are one matrix.

    Activation functions of several operations hold one more as well.
    """
    names = ("hidden_act", "activation_function", "hidden_activation", "activation")
    activation = next((getattr(text_config, name) for name in names if getattr(text_config, name, None)), None)
    is_fused = any(weight.shape[0] == 2 * _mlp_width(text_config) for weight in linear)
    return 4 if is_fused or activation in _COMPOSED else 3


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
