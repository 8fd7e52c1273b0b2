"""The configuration of a GGUF file as transformers has it, from the header alone."""

from pathlib import Path
from typing import Any

from mistudio.errors import SubjectError
from mistudio.subject.gguf_header import GgufHeader

# By llama.cpp's name, where transformers has another.
_MODEL_TYPES = {"qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe"}
_TEXT_TYPES = {"gemma3": "gemma3_text"}
_ALWAYS_TIED = ("falcon", "bloom")
# Of these, transformers makes more than a table of names says.
_OTHERWISE = ("gpt-oss", "gpt_oss", "gemma4", "deci", "minimax-m2", "t5", "t5encoder")


def config_of(path: Path, header: GgufHeader) -> Any:
    """The configuration of a model in GGUF format.

    Args:
        path: of the file.
        header: of the file.

    Raises:
        SubjectError: it is of an architecture that transformers does not read.
    """
    from transformers import AutoConfig

    values = _values(header)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    return config


def _values(header: GgufHeader) -> dict[str, Any]:
    from transformers.integrations import GGUF_CONFIG_MAPPING
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS, get_gguf_config

    architecture, metadata = header.architecture, header.metadata
    names = tuple(tensor.name for tensor in header.tensors)
    if architecture in GGUF_CONFIG_ARCHS:
        return dict(get_gguf_config(_with_counts(metadata), names))
    model_type = _MODEL_TYPES.get(architecture, architecture)
    if model_type not in readable_architectures():
        message = (
            f"Its architecture is {architecture}, which transformers does not read from GGUF files. These are read: "
            f"{', '.join(sorted(readable_architectures()))}. Use the model in Hugging Face format."
        )
        raise SubjectError(message)
    values = {"model_type": _TEXT_TYPES.get(model_type, model_type)}
    for prefix, table in ((architecture, GGUF_CONFIG_MAPPING[model_type]), ("tokenizer", GGUF_CONFIG_MAPPING["tokenizer"])):
        for key, name in table.items():
            if name not in (None, -1) and f"{prefix}.{key}" in metadata:
                values[name] = metadata[f"{prefix}.{key}"]
    values["tie_word_embeddings"] = "output.weight" not in names or architecture in _ALWAYS_TIED
    values.setdefault("vocab_size", len(metadata.get("tokenizer.ggml.tokens", ())))
    return values


def readable_architectures() -> set[str]:
    from transformers.integrations import GGUF_CONFIG_MAPPING
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS

    return (set(GGUF_CONFIG_MAPPING) | set(GGUF_CONFIG_ARCHS)) - {"general", "tokenizer"} - set(_OTHERWISE)


def _with_counts(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata as transformers' quick reader gives it: of arrays of strings, how many there are."""
    return {
        key: len(value) if isinstance(value, list) and value and isinstance(value[0], str) else value
        for key, value in metadata.items()
    }
