"""What a model's configuration says: its layers, its vocabulary, and the longest sequence it was made for.

Recipes of ``ingest`` and ``capture`` depend on these where the step chooses. Only transformers knows them for every
architecture, and importing it takes longer than finding a published artifact. So they are remembered, by the content
of the model and the version of transformers.
"""

import hashlib
import os
import tempfile
from contextlib import nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mistudio.artifacts import canonical_json
from mistudio.errors import SubjectError
from mistudio.plain_text import shortened
from mistudio.subject.gguf_plain import config_folder
from mistudio.subject.loading import loading_problem, quiet_transformers
from mistudio.subject.source import SubjectSource

_KERNELS = ("_attn_implementation", "_experts_implementation")
_MOST = {"num_hidden_layers": 10_000, "hidden_size": 1_000_000, "vocab_size": 100_000_000}


class ModelFacts(BaseModel):
    """What of a model's configuration enters recipes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_layers: int | None = Field(description="transformer blocks; None where the configuration does not say")
    max_positions: int | None = Field(description="longest sequence, in tokens; None where there is no bound")
    vocab_size: int | None = Field(description="token ids with an embedding; None where the configuration does not say")


def model_facts(source: SubjectSource, trust_remote_code: bool, folder: Path) -> ModelFacts:
    """The facts of a model, which are kept in ``folder`` from the first time on.

    Those of a model with Python code of its own are not kept: the code can come from elsewhere, and change.

    Raises:
        SubjectError: the configuration cannot be read, its architecture is unknown, or it needs code that is not
            trusted.
    """
    named = {"model": source.digest, "transformers": version("transformers")}
    path = folder / f"{hashlib.sha256(canonical_json(named)).hexdigest()[:32]}.json"
    if not trust_remote_code:
        try:
            return ModelFacts.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):  # not there, or nothing that this version wrote
            pass
    config = load_config(source, trust_remote_code)
    vocabulary = getattr(config.get_text_config(), "vocab_size", None)
    layers = num_layers(config) if hasattr(config.get_text_config(), "num_hidden_layers") else None
    facts = ModelFacts(num_layers=layers, max_positions=position_limit(config), vocab_size=vocabulary)
    if not trust_remote_code:
        with suppress(OSError):  # then transformers is asked again
            _write(path, facts)
    return facts


def load_config(source: SubjectSource, trust_remote_code: bool = False) -> Any:
    """The model's configuration.

    Raises:
        SubjectError: it cannot be read, its architecture is unknown, or it needs code that is not trusted.
    """
    from transformers import AutoConfig

    try:
        with config_folder(source) if source.is_gguf else nullcontext(source.path) as path, quiet_transformers():
            config = AutoConfig.from_pretrained(path, revision=source.revision, trust_remote_code=trust_remote_code)
    except SubjectError:
        raise
    except Exception as error:  # a broken file surfaces as any of a dozen exception types
        raise SubjectError(loading_problem("configuration", source, error)) from error
    _check_sizes(source, config)
    if not trust_remote_code:
        _check_kernels(source, config)
    return config


def _check_sizes(source: SubjectSource, config: Any) -> None:
    """Refuse sizes that no model has: laying it out, even without its weights, would never end.

    Raises:
        SubjectError: there is one.
    """
    text_config = config.get_text_config()
    for name, most in _MOST.items():
        value = getattr(text_config, name, None)
        if isinstance(value, int) and not 0 <= value <= most:
            message = (
                f"The configuration of {source.name} says {name} {shortened(value)}, and no model has more than "
                f"{most:,} or fewer than 0: is its config.json whole? Give another model."
            )
            raise SubjectError(message)


def _check_kernels(source: SubjectSource, config: Any) -> None:
    """Refuse a configuration that has transformers load kernels of somebody's repository, which are code.

    Raises:
        SubjectError: it does.
    """
    for part in (config, config.get_text_config()):
        for name in _KERNELS:
            kernel = getattr(part, name, None)
            if isinstance(kernel, str) and ("/" in kernel or ":" in kernel):
                message = (
                    f"The configuration of {source.name} asks for the kernel {shortened(kernel)} of the model hub, "
                    "which is code. Take that line out of its config.json, or read the code, and if you trust it set "
                    "trust_remote_code."
                )
                raise SubjectError(message)


def num_layers(config: Any) -> int:
    """Number of transformer blocks of a model of this configuration."""
    return int(config.get_text_config().num_hidden_layers)


def position_limit(config: Any, model: Any = None) -> int | None:
    """Longest sequence that a model of this configuration was made for, in tokens; None without such a bound.

    Args:
        config: of the model.
        model: it, to look at; by default built without memory for weights where that may tell more.
    """
    text_config = config.get_text_config()
    positions = getattr(text_config, "max_position_embeddings", None)
    if not positions or positions < 0:  # XLNet says -1
        return None
    if model is None:
        model = _with_learned_positions(config)
    return int(positions) - (_positions_left_out(model, positions) if model is not None else 0)


def _with_learned_positions(config: Any) -> Any:
    """The model without its weights, if it may learn a vector a position and leave some out; else None."""
    text_config = config.get_text_config()
    if getattr(text_config, "rope_parameters", None) or getattr(text_config, "pad_token_id", None) is None:
        return None
    from mistudio.subject.classes import empty_model

    with suppress(SubjectError):  # it cannot be studied; that is for those to say who want to
        return empty_model(config)
    return None


def _positions_left_out(model: Any, positions: int) -> int:
    """Rows of the table of positions that no token gets.

    RoBERTa and its like count from behind the padding index, and that is how the table shows: it has one too.
    """
    words = model.get_input_embeddings()
    for module in model.modules():
        padding, weight = getattr(module, "padding_idx", None), getattr(module, "weight", None)
        if module is not words and padding is not None and weight is not None and len(weight) == positions:
            return int(padding) + 1
    return 0


def _write(path: Path, facts: ModelFacts) -> None:
    """Keep the facts, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as staged:
        staged.write(facts.model_dump_json().encode())
    os.replace(staged.name, path)
