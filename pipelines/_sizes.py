"""Memory by the size of the model: what the estimates of ``mistudio check-memory`` say of models that stand for many.

A cluster is set up before anybody names a model. So a few models stand for all up to their size; their sizes are those
of well-known ones, and how many parameters that makes, and what each step holds with them, is worked out here.
"""

import re
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal

from mistudio.errors import ConfigError
from mistudio.plain_text import shortened

if TYPE_CHECKING:
    from mistudio.steps.memory_config import MemoryConfig
    from mistudio.subject.config import Quantization
    from mistudio.subject.footprint import ModelShape

# The sizes of SmolLM2 135M, Qwen2.5 0.5B, Llama 3.2 3B and Llama 3.1 8B, which are all of Llama's architecture.
PROFILES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49_152,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "small": {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "intermediate_size": 4864,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": True,
    },
    "medium": {
        "hidden_size": 3072,
        "num_hidden_layers": 28,
        "intermediate_size": 8192,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": True,
    },
    "large": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "intermediate_size": 14_336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": False,
    },
}
GIB = 1 << 30
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([MB])", re.IGNORECASE)
_NEARLY = 1.05  # "0.5B" is a name, and the model has a little less
_UNITS = {"M": 1e6, "B": 1e9}

# The step whose estimate stands for one that has none of its own.
_LIKE = {
    "find_part": "find",
    "find_more": "find",
    "probe": "evaluate",
    "stability": "train",
    "direction": "capture",
    "steer_evaluate": "evaluate",
    "calibrate": "capture",
    "train_on_hosts": "train",
}


@dataclass(frozen=True)
class Sizes:
    """A model that there is to be room for, and what each step holds with it.

    Attributes:
        about: what model it is, in words.
        shape: its sizes.
        work: the sizes of the work.
        quantization: of its weights.
    """

    about: str
    shape: "ModelShape"
    work: "MemoryConfig"
    quantization: "Quantization"

    @classmethod
    def of(cls, model: str | None, size: str, quantization: "Quantization", work: "MemoryConfig") -> "Sizes":
        """Of a model, or of a size; see :func:`profile_named` for what is raised."""
        shape = shape_of_model(model) if model else shape_of(profile_named(size))
        named = f"{shape.num_parameters / 1e9:.2g}B parameters"
        return cls(f"{named} ({model or profile_named(size)})", shape, work, quantization)

    @property
    def file_bytes(self) -> int:
        """What its weights take on disk, of two bytes each."""
        return 2 * self.shape.num_parameters

    def gpu_bytes(self, step: str) -> int | None:
        """Memory of a GPU that a step needs; None where nothing is known of it."""
        return self._on_gpu.get(_LIKE.get(step, step))

    def host_bytes(self, step: str, *, on_gpu: bool) -> int | None:
        """Memory that a step's process needs; None where nothing is known of it.

        With a GPU the estimate is that of the CPU in the GPU's number format: what goes to the GPU is in the host's
        memory before.
        """
        return (self._beside_gpu if on_gpu else self._on_cpu).get(_LIKE.get(step, step))

    @cached_property
    def _on_gpu(self) -> dict[str, int]:
        return self._estimate("bfloat16", on_gpu=True)

    @cached_property
    def _beside_gpu(self) -> dict[str, int]:
        return self._estimate("bfloat16", on_gpu=False)

    @cached_property
    def _on_cpu(self) -> dict[str, int]:
        return self._estimate("float32", on_gpu=False)

    def _estimate(self, dtype: Literal["float32", "bfloat16"], *, on_gpu: bool) -> dict[str, int]:
        from mistudio.steps.memory import estimate_elsewhere

        return estimate_elsewhere(self.shape, self.work, dtype, self.quantization, on_gpu=on_gpu)


def profile_named(size: str) -> str:
    """The profile of a size: its name, or the smallest that has as many parameters (``7B``, ``350M``).

    Raises:
        ConfigError: it is neither, or no profile is that large.
    """
    if size in PROFILES:
        return size
    found = _SIZE.fullmatch(size)
    if found is None:
        message = f"model_size {shortened(size)} is none: use {', '.join(PROFILES)}, or parameters such as 7B or 350M."
        raise ConfigError(message)
    asked = float(found[1]) * _UNITS[found[2].upper()]
    for name in PROFILES:
        if asked <= _NEARLY * shape_of(name).num_parameters:
            return name
    message = f"model_size {size} is more than the largest, {largest()}: name the model itself (model, --model)."
    raise ConfigError(message)


@cache
def shape_of(profile: str) -> "ModelShape":
    """The sizes of the model that stands for a profile, measured on one without weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from mistudio.subject.footprint import shape_of_class

    return shape_of_class(LlamaForCausalLM, LlamaConfig(**PROFILES[profile]))


@cache
def shape_of_model(model: str) -> "ModelShape":
    """The sizes of a model: a folder, a GGUF file, or an id on the hub.

    Raises:
        SubjectError: there is no such model.
    """
    from mistudio.artifacts import open_to_read
    from mistudio.demo import resolve_model
    from mistudio.subject.footprint import measure_shape

    return measure_shape(resolve_model(model, None, open_to_read("", make=True)))


def largest() -> str:
    """The largest profile, with its size in words."""
    name = list(PROFILES)[-1]
    return f"{name} ({shape_of(name).num_parameters / 1e9:.1f}B)"


def gib(num_bytes: float) -> int:
    """Whole GiB that hold so many bytes."""
    return -int(-num_bytes // GIB)
