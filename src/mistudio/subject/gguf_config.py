"""The configuration of a GGUF file as transformers has it, from the header alone.

transformers' tables say which key of the file is which of its settings. They leave some out that change what a model
computes: the rotations of Llama 3.1, the attention's scale of the largest Gemma 2, the experts' width. Those are read
here, and a key that neither reads is told, because a default in its place would go unseen.
"""

import math
import struct
from pathlib import Path
from typing import Any

from mistudio.errors import SubjectError
from mistudio.plain_text import shortened
from mistudio.subject.gguf_header import GgufHeader
from mistudio.subject.gguf_types import check_tensors

# By llama.cpp's name, where transformers has another.
_MODEL_TYPES = {"qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe"}
_TEXT_TYPES = {"gemma3": "gemma3_text"}
_ALWAYS_TIED = ("falcon", "bloom")
# Tables of transformers that are of no language model of one stack, or that it completes in ways not written here.
_NOT_READ = ("gpt_oss", "gemma4", "deci", "minimax_m2", "t5", "umt5", "mistral")
# Beside transformers' tables: settings that the configuration of the architecture has.
_ALSO = {
    "rope.freq_base": "rope_theta",
    "attention.key_length": "head_dim",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_GPT2_ALSO = {"context_length": "n_positions", "feed_forward_length": "n_inner"}
# Keys that change nothing, or that are read or held against the configuration below.
_OTHERWISE_READ = frozenset(
    ("vocab_size", "context_length", "tensor_data_layout", "attention.causal", "attention.value_length")
    + ("rope.dimension_count", "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length")
    + ("rope.scaling.finetuned", "use_parallel_residual", "attention.max_alibi_bias", "feed_forward_length")
)
_LLAMA3_CONTEXT, _LLAMA3_LOW, _LLAMA3_HIGH = 8192, 1.0, 4.0
_SAME = 1e-4


def config_of(path: Path, header: GgufHeader) -> Any:
    """The configuration of a model in GGUF format.

    Args:
        path: of the file.
        header: of the file.

    Raises:
        SubjectError: transformers does not read its architecture or its quantisation, or it computes in a way that
            transformers' configuration of it cannot say.
    """
    from transformers import AutoConfig

    _check_architecture(path, header)
    check_tensors(path, header)
    if is_read_lazily(header):
        from transformers.integrations.gguf import get_gguf_config

        names = tuple(tensor.name for tensor in header.tensors)
        values = dict(get_gguf_config(_with_counts(header.metadata), names))
        return AutoConfig.for_model(values.pop("model_type"), **values)
    values = _values(header)
    values.update(_rotations(path, header, values))
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    _check_heads(path, header, config)
    return config


def config_doubts(header: GgufHeader) -> str | None:
    """What there is to say where the model may compute otherwise than the file means; None if nothing."""
    if is_read_lazily(header):
        return None
    prefix = f"{header.architecture}."
    known = {*_table(header), *_also(header), *_OTHERWISE_READ}
    unread = {
        key: value
        for key, value in header.metadata.items()
        if key.startswith(prefix) and key.removeprefix(prefix) not in known
    }
    if not unread:
        return None
    named = ", ".join(f"{key} = {shortened(value)}" for key, value in sorted(unread.items()))
    return (
        f"The file says {named}, which transformers does not read from GGUF files: what the model computes may differ "
        "from llama.cpp's. The model in Hugging Face format has it."
    )


def is_read_lazily(header: GgufHeader) -> bool:
    """Whether transformers has its newer reader for the architecture, which knows it whole."""
    return header.architecture in _lazily_read()


def _lazily_read() -> set[str]:
    try:
        from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
    except ImportError:  # an older transformers
        return set()
    return set(GGUF_CONFIG_ARCHS)


def readable_architectures() -> list[str]:
    """The architectures that are read, by llama.cpp's names."""
    from transformers.integrations import GGUF_CONFIG_MAPPING

    names = {own: name for name, own in _MODEL_TYPES.items()}
    tables = set(GGUF_CONFIG_MAPPING) - {"general", "tokenizer", *_NOT_READ}
    return sorted({names.get(table, table) for table in tables} | _lazily_read())


def _check_architecture(path: Path, header: GgufHeader) -> None:
    if header.architecture not in readable_architectures():
        message = (
            f"{path.name} is of the architecture {shortened(header.architecture)}, which is not read from GGUF files. "
            f"Read are {', '.join(readable_architectures())}. Use the model in Hugging Face format."
        )
        raise SubjectError(message)


def _table(header: GgufHeader) -> dict[str, Any]:
    from transformers.integrations import GGUF_CONFIG_MAPPING

    return dict(GGUF_CONFIG_MAPPING[_MODEL_TYPES.get(header.architecture, header.architecture)])


def _also(header: GgufHeader) -> dict[str, str]:
    """Keys beside transformers' table that its configuration of the architecture has a setting for."""
    from transformers import AutoConfig

    if header.architecture == "gpt2":
        return _GPT2_ALSO
    default = AutoConfig.for_model(_model_type(header))
    return {
        key: name
        for key, name in _ALSO.items()
        if hasattr(default, "rope_parameters" if name == "rope_theta" else name)
    }


def _model_type(header: GgufHeader) -> str:
    model_type = _MODEL_TYPES.get(header.architecture, header.architecture)
    return _TEXT_TYPES.get(model_type, model_type)


def _values(header: GgufHeader) -> dict[str, Any]:
    """The settings by transformers' names."""
    from transformers.integrations import GGUF_CONFIG_DEFAULTS_MAPPING, GGUF_CONFIG_MAPPING

    architecture, metadata = header.architecture, header.metadata
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    # Ids of tokens that the file does not name are none, and not those of the architecture's first model.
    values: dict[str, Any] = {"model_type": _model_type(header), **dict.fromkeys(_TOKEN_IDS)}
    values.update(GGUF_CONFIG_DEFAULTS_MAPPING.get(_MODEL_TYPES.get(architecture, architecture), {}))
    for prefix, table in (
        ("tokenizer", GGUF_CONFIG_MAPPING["tokenizer"]),
        (architecture, _table(header)),
        (architecture, _also(header)),
    ):
        for key, name in table.items():
            if name not in (None, -1) and f"{prefix}.{key}" in metadata:
                values[name] = metadata[f"{prefix}.{key}"]
    if "token_embd.weight" in shapes:
        values["vocab_size"] = shapes["token_embd.weight"][0]
    values["tie_word_embeddings"] = "output.weight" not in shapes or architecture in _ALWAYS_TIED
    values.update(_by_architecture(header, values, shapes))
    return values


def _by_architecture(header: GgufHeader, values: dict[str, Any], shapes: dict[str, Any]) -> dict[str, Any]:
    """What no key of the file says, and llama.cpp knows by the architecture."""
    if header.architecture in ("gemma2", "gemma3"):
        # The largest of each scales attention by the width of a head of all its width, the others by the head's.
        largest = {"gemma2": 46, "gemma3": 62}[header.architecture]
        whole = values["hidden_size"] // values["num_attention_heads"]
        return {"query_pre_attn_scalar": whole if values["num_hidden_layers"] == largest else values["head_dim"]}
    if header.architecture == "stablelm":
        return {
            "use_qkv_bias": "blk.0.attn_q.bias" in shapes,
            "use_parallel_residual": "blk.0.ffn_norm.weight" not in shapes,
            "qk_layernorm": "blk.0.attn_q_norm.weight" in shapes,
        }
    if header.architecture == "llama":
        return {"attention_bias": "blk.0.attn_q.bias" in shapes, "mlp_bias": "blk.0.ffn_up.bias" in shapes}
    return {}


def _rotations(path: Path, header: GgufHeader, values: dict[str, Any]) -> dict[str, Any]:
    """How positions rotate queries and keys, where that is not the default.

    Raises:
        SubjectError: it is in a way that cannot be said.
    """
    metadata, architecture = header.metadata, header.architecture
    changes: dict[str, Any] = {}
    kind = metadata.get(f"{architecture}.rope.scaling.type", "none")
    factor = metadata.get(f"{architecture}.rope.scaling.factor")
    theta = values.get("rope_theta", 10_000.0)
    names = {tensor.name for tensor in header.tensors}
    if names & {"rope_factors_long.weight", "rope_factors_short.weight"} or kind not in ("none", "linear", "yarn"):
        message = (
            f"{path.name} rotates positions with {shortened(kind) if kind != 'none' else 'factors of its own'}, which "
            "is not read from GGUF files. Use the model in Hugging Face format."
        )
        raise SubjectError(message)
    if "rope_freqs.weight" in names:
        changes["rope_parameters"] = _llama3(path, header, theta)
    elif kind != "none" and factor is not None:
        scaled = {"rope_type": kind, "factor": factor, "rope_theta": theta}
        original = metadata.get(f"{architecture}.rope.scaling.original_context_length")
        if kind == "yarn" and original is not None:
            scaled["original_max_position_embeddings"] = original
        if architecture == "gemma3":
            local = {"rope_type": "default", "rope_theta": 10_000.0}
            changes["rope_parameters"] = {"full_attention": scaled, "sliding_attention": local}
        else:
            changes["rope_parameters"] = scaled
    return changes


def _llama3(path: Path, header: GgufHeader, theta: float) -> dict[str, Any]:
    """Llama 3.1's rotations, of which the file has the factors and not the settings that they were made from.

    Raises:
        SubjectError: they are other factors.
    """
    tensor = next(each for each in header.tensors if each.name == "rope_freqs.weight")
    with path.open("rb") as handle:
        handle.seek(header.data_start + tensor.offset)
        found = struct.unpack(f"<{tensor.num_weights}f", handle.read(4 * tensor.num_weights))
    factor = max(found)
    expected = [_llama3_factor(2 * n / (2 * len(found)), theta, factor) for n in range(len(found))]
    if any(abs(one / other - 1) > _SAME for one, other in zip(found, expected, strict=True)):
        message = (
            f"{path.name} rotates positions by factors of its own (rope_freqs.weight), which are not those of Llama 3 "
            "and are not read from GGUF files. Use the model in Hugging Face format."
        )
        raise SubjectError(message)
    return {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": _LLAMA3_LOW,
        "high_freq_factor": _LLAMA3_HIGH,
        "original_max_position_embeddings": _LLAMA3_CONTEXT,
    }


def _llama3_factor(exponent: float, theta: float, factor: float) -> float:
    length: float = 2 * math.pi * theta**exponent
    smooth = (_LLAMA3_CONTEXT / length - _LLAMA3_LOW) / (_LLAMA3_HIGH - _LLAMA3_LOW)
    smooth = min(max(smooth, 0.0), 1.0)
    return 1 / ((1 - smooth) / factor + smooth)


def _check_heads(path: Path, header: GgufHeader, config: Any) -> None:
    """Refuse a width of heads or of their rotation that the configuration does not have.

    Raises:
        SubjectError: there is one.
    """
    heads = getattr(config, "num_attention_heads", None)
    width = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else None)
    if width is None:
        return
    rotated = int(width * (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor", 1.0))
    expected = {"attention.value_length": width, "attention.key_length": width, "rope.dimension_count": rotated}
    for key, ours in expected.items():
        said = header.metadata.get(f"{header.architecture}.{key}", ours)
        if said != ours:
            message = (
                f"{path.name} says {key} {shortened(said)}, and transformers' {config.model_type} has {ours} there. "
                "Use the model in Hugging Face format."
            )
            raise SubjectError(message)


def _with_counts(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata as transformers' quick reader gives it: of arrays of strings, how many there are."""
    return {
        key: len(value) if isinstance(value, list) and value and isinstance(value[0], str) else value
        for key, value in metadata.items()
    }
