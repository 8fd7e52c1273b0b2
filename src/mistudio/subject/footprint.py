"""What a subject takes in memory, from the sizes of its configuration alone; what each step makes of it is said there.

Every step has a function that estimates what it holds at its busiest moment, by what it is for: ``capture_parts`` in
:mod:`mistudio.activations.footprint`, ``train_parts`` in :mod:`mistudio.train.footprint` and so on. A part that is gone
when another one grows does not count beside it. ``benchmarks/memory_estimate.py`` holds them against measured peaks.
On a CPU the estimate is of all that the process has resident, Python and its libraries included; on a GPU it is of the
device's memory alone.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mistudio.subject.classes import empty_model
from mistudio.subject.config import Quantization
from mistudio.subject.facts import load_config, position_limit
from mistudio.subject.gguf_header import read_header
from mistudio.subject.gguf_weights import SHARD_BYTES
from mistudio.subject.load import find_blocks
from mistudio.subject.loading import quiet_transformers
from mistudio.subject.source import SubjectSource
from mistudio.subject.structure import is_linear

Parts = dict[str, int]  # bytes by what they are for
MEGABYTE = 1 << 20

_CUDA_CONTEXT = 600 * MEGABYTE  # the context, cuBLAS's workspace, and what the allocator cannot use
_LOADING_LIBRARIES = 500 * MEGABYTE
_FLOAT32_BYTES = 4
_MOST_KEPT = 1 << 30  # what malloc keeps at most of freed memory (mistudio.heap)
# Activation functions that transformers puts together of several operations.
_COMPOSED = ("gelu_new", "gelu_fast", "gelu_accurate", "quick_gelu", "gelu_10", "laplace")
_TOKENIZER_BYTES = 900  # a token of the vocabulary: its strings, merges and tables
# Bytes a weight: int8 has one float32 scale a row beside it, nf4 one for every 64 weights.
_QUANTIZED_BYTES: dict[str, float] = {"int8": 1.0, "nf4": 0.5 + 4 / 64}


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
    largest_tensor: int = Field(default=0, description="weights of the largest tensor of a GGUF file; 0 for others")


class Held(_Frozen):
    """How a subject is held, and which block of it is hooked."""

    layer: int = Field(description="the block that is hooked")
    quantization: Quantization
    dtype: str
    dtype_bytes: int
    on_gpu: bool
    passes_at_once: int = Field(default=1, description="forward passes that run beside each other")


def weight_bytes(shape: ModelShape, quantization: str, dtype_bytes: int) -> int:
    """Weights of the whole model, in bytes."""
    if quantization == "none":
        return shape.num_parameters * dtype_bytes
    packed = shape.linear_parameters * _QUANTIZED_BYTES[quantization]
    scales = 4 * shape.linear_rows if quantization == "int8" else 0
    return (shape.num_parameters - shape.linear_parameters) * dtype_bytes + int(packed) + scales


def block_bytes(shape: ModelShape, held: Held) -> int:
    """The most that one block's weights can take, in bytes."""
    return shape.block_parameters * held.dtype_bytes


def measure_shape(source: SubjectSource, trust_remote_code: bool = False) -> ModelShape:
    """Build the model without memory for its weights, and measure it.

    Raises:
        SubjectError: the configuration cannot be read, or is not of a language model with transformer blocks.
    """
    config = load_config(source, trust_remote_code)
    shape = _shape_of(empty_model(config, trust_remote_code=trust_remote_code), config)
    return shape.model_copy(update={"largest_tensor": _largest_tensor(source)})


def shape_of_class(model_class: type, config: Any) -> ModelShape:
    """Build a model of a class of transformers without memory for its weights, and measure it."""
    import accelerate

    with quiet_transformers(), accelerate.init_empty_weights():
        model = model_class(config)
    return _shape_of(model, config)


def _shape_of(model: Any, config: Any) -> ModelShape:
    saved_dtype = str(getattr(config, "dtype", None) or "").removeprefix("torch.")
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
        max_positions=position_limit(config, model),
        materializes_attention=getattr(model.config, "_attn_implementation", "eager") == "eager",
        saved_dtype=saved_dtype or None,
    )


def load_parts(shape: ModelShape, held: Held) -> Parts:
    """What dequantising a GGUF file holds, the first time: a file of the result, and its largest tensor thrice.

    The tensor is there in pieces, whole, and in the number format.
    """
    written = min(shape.num_parameters * held.dtype_bytes, SHARD_BYTES)
    return {
        "runtime": runtime_bytes(on_gpu=False, libraries=_LOADING_LIBRARIES, vocab_size=shape.vocab_size),
        "dequantized": written + shape.largest_tensor * (2 * _FLOAT32_BYTES + held.dtype_bytes),
    }


def read_bytes(shape: ModelShape, held: Held) -> int:
    """Weights of what a pass up to the hook comes to, in bytes.

    Where they are used as they lie in the file, pages that no pass comes to are never read.
    """
    lies_ready = shape.largest_tensor > 0 or held.dtype == shape.saved_dtype  # a GGUF file's copy is in that format
    is_mapped = not held.on_gpu and held.quantization == "none" and lies_ready
    if not is_mapped:
        return weight_bytes(shape, held.quantization, held.dtype_bytes)
    unread = (shape.num_layers - 1 - held.layer) * shape.block_parameters + shape.head_parameters
    return (shape.num_parameters - unread) * held.dtype_bytes


def runtime_bytes(on_gpu: bool, libraries: int, vocab_size: int = 0) -> int:
    """Python, the libraries of a step and a tokenizer; on a GPU, its context.

    Args:
        on_gpu: what is estimated.
        libraries: what a step's libraries take, measured with a model of nearly no size; how many there are depends on
            what is installed and on the way that the step is started.
        vocab_size: of the tokenizer, if there is one.
    """
    return _CUDA_CONTEXT if on_gpu else libraries + _TOKENIZER_BYTES * vocab_size


def activation_bytes(shape: ModelShape, held: Held, num_tokens: int, context_length: int) -> int:
    """The busiest moment of a block, which is in its MLP, and a copy at the hook.

    A matrix of 4 bits is unpacked to be multiplied with.
    """
    per_token = (shape.mlp_copies * max(shape.d_mlp, shape.d_model) + 5 * shape.d_model) * held.dtype_bytes
    attention = 0
    if shape.materializes_attention:
        attention = 3 * num_tokens * context_length * shape.num_heads * max(held.dtype_bytes, 4)
    unpacked = shape.largest_linear * held.dtype_bytes if held.quantization == "nf4" else 0
    return num_tokens * per_token + attention + unpacked


def kept_bytes(held: Held, num_bytes: float) -> int:
    """What malloc keeps beside what is in use, because tensors of two threads lie scattered in it; none on a GPU."""
    return 0 if held.on_gpu else int(min(num_bytes, _MOST_KEPT))


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


def _largest_tensor(source: SubjectSource) -> int:
    if not source.is_gguf:
        return 0
    return max(tensor.num_weights for tensor in read_header(Path(source.path)).tensors)


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
