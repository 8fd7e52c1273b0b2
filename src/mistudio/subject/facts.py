"""What a model's configuration says: its layers, and the longest sequence it was made for.

Recipes of ``ingest`` and ``capture`` depend on these where the step chooses. Only transformers knows them for every
architecture, and importing it takes longer than finding a published artifact. So they are remembered, by the content
of the model and the version of transformers.
"""

import hashlib
import os
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mistudio.artifacts import canonical_json
from mistudio.errors import SubjectError
from mistudio.plain_text import shortened
from mistudio.subject.source import SubjectSource
from mistudio.subject.tokens import loading_problem, quiet_transformers

_MOST = {"num_hidden_layers": 10_000, "hidden_size": 1_000_000, "vocab_size": 100_000_000}


class ModelFacts(BaseModel):
    """What of a model's configuration enters recipes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_layers: int | None = Field(description="transformer blocks; None where the configuration does not say")
    max_positions: int | None = Field(description="longest sequence, in tokens; None where there is no bound")


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
    layers = num_layers(config) if hasattr(config.get_text_config(), "num_hidden_layers") else None
    facts = ModelFacts(num_layers=layers, max_positions=position_limit(config))
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
        with quiet_transformers():
            config = AutoConfig.from_pretrained(
                source.path, revision=source.revision, trust_remote_code=trust_remote_code
            )
    except Exception as error:  # a broken file surfaces as any of a dozen exception types
        raise SubjectError(loading_problem("configuration", source, error)) from error
    _check_sizes(source, config)
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


def num_layers(config: Any) -> int:
    """Number of transformer blocks of a model of this configuration."""
    return int(config.get_text_config().num_hidden_layers)


def position_limit(config: Any) -> int | None:
    """Longest sequence that a model of this configuration was made for, in tokens; None without such a bound."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(positions) if positions else None


def _write(path: Path, facts: ModelFacts) -> None:
    """Keep the facts, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as staged:
        staged.write(facts.model_dump_json().encode())
    os.replace(staged.name, path)
