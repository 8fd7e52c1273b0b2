"""Which language model explains and judges: an endpoint, a local model, or none."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.errors import ConfigError
from mistudio.explain.llm_config import KEY_VARIABLES, EndpointConfig, LocalModelConfig
from mistudio.subject import SubjectConfig

if TYPE_CHECKING:
    from mistudio.explain.endpoint import Endpoint
    from mistudio.explain.llm_local import LocalModel

_NAMED = {"base_url", "model", "token_budget", "subject"}

JudgeChoice = EndpointConfig | LocalModelConfig


def judge_config(
    url: str,
    model: str,
    token_budget: int | None = None,
    subject: SubjectConfig | None = None,
    settings: Mapping[str, Any] | None = None,
) -> JudgeChoice | None:
    """The language model that an address and a name stand for: without an address it is a local one, without both none.

    Args:
        url: address of an OpenAI-compatible endpoint.
        model: name of the model there; without ``url`` a folder in Hugging Face format, a GGUF file, or a hub id.
        token_budget: most tokens to use at an endpoint.
        subject: how a local model is loaded.
        settings: others of :class:`EndpointConfig`, or of :class:`LocalModelConfig`.

    Raises:
        ConfigError: an address or settings come without a model, or settings hold what has a parameter of its own.
        ValidationError: the address is none, or a setting is unknown or out of range.
    """
    others = dict(settings or {})
    if twice := sorted(others.keys() & _NAMED):
        message = f"The judge's settings hold {', '.join(twice)}, for which there are parameters: use those."
        raise ConfigError(message)
    if url and not model:
        message = f"There is an endpoint, {url}, but no name of a model there. Ask it for its models: {url}/models"
        raise ConfigError(message)
    if others and not model:
        message = f"There are settings of a judge ({', '.join(others)}), but no model: name it (judge_model)."
        raise ConfigError(message)
    if url:
        return EndpointConfig(base_url=url, model=model, token_budget=token_budget, **others)
    return LocalModelConfig(model=model, subject=subject or SubjectConfig(), **others) if model else None


def open_judge(config: JudgeChoice | None, wanted_by: str, answers: Path | None = None) -> "Endpoint | LocalModel":
    """The judge that is configured, for a ``with`` block; its answers are kept in the folder ``answers``.

    Raises:
        ConfigError: none is configured, though ``wanted_by`` (explainers or scorers by name) needs one.
        SubjectError: the local model cannot be loaded.
    """
    if isinstance(config, EndpointConfig):
        from mistudio.explain.endpoint import Endpoint

        return Endpoint(config, answers)
    if config is not None:
        from mistudio.explain.llm_local import LocalModel

        return LocalModel(config, answers)
    message = (
        f"{wanted_by} needs a language model, and none is named. Give address and model (--judge-url, --judge-model) "
        "of an OpenAI-compatible endpoint (for example http://localhost:8000/v1 of vLLM, http://localhost:11434/v1 of "
        f"Ollama), with its key, if it wants one, in the environment variable {KEY_VARIABLES[0]}; or the folder of a "
        "local model as --judge-model. The program explainer and the program score need none."
    )
    raise ConfigError(message)
