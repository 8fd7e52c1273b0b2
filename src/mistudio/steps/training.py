"""The settings of a training from plain values: what the train step, sweeps and the checks before them share."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mistudio.artifacts import Artifact
from mistudio.errors import ConfigError
from mistudio.steps.defaults import CHOOSE, captured_width, choose_hook, choose_k, choose_width
from mistudio.steps.validation import json_object, validated

if TYPE_CHECKING:
    from mistudio.train import TrainConfig

# How sparse: the parameters that not every architecture has, and what stands for "not given".
_SPARSITY = {"k": CHOOSE, "target_l0": CHOOSE, "l1_coefficient": 0.02}
# What the checks assume where the step will choose: any valid value serves.
_ANY_WIDTH, _ANY_K, ANY_HOOK = 32_768, 1, "resid_post.0"
_ELSEWHERE = ("hook", "sae", "architecture")  # these decide what the other settings mean


def training_config(
    activations: Artifact,
    hook: str,
    architecture: str,
    width: int,
    sparsity: Mapping[str, float],
    others: Mapping[str, Any],
    train_settings: str,
) -> "TrainConfig":
    """What to train on captured activations.

    Args:
        activations: what to learn from; its width decides what is not given.
        hook: hook point, empty for the only one.
        architecture: name of the architecture.
        width: number of latents, or -1.
        sparsity: k, target_l0 and l1_coefficient, as far as they are given.
        others: further settings of the training and of the architecture.
        train_settings: the same as JSON; these win.

    Raises:
        ConfigError: a setting is out of range, unknown, or not one of this architecture.
        InputError: the activations have no such hook point.
    """
    from mistudio.train import TrainConfig

    point = choose_hook(hook, activations)
    d_in = captured_width(activations, point)
    sae = architecture_settings(architecture, choose_width(width, d_in), sparsity, choose_k(CHOOSE, d_in))
    of_training, of_architecture = split_settings(train_settings, architecture)
    training = {name: value for name, value in others.items() if name in TrainConfig.model_fields} | of_training
    if training.get("target_hook"):
        choose_hook(str(training["target_hook"]), activations)
    beside = {name: value for name, value in others.items() if name not in training}
    return validated(TrainConfig, {**training, "hook": point, "sae": {**sae, **beside, **of_architecture}})


def architecture_settings(
    architecture: str, width: int, sparsity: Mapping[str, float], default_k: int
) -> dict[str, object]:
    """The settings of an architecture.

    Args:
        architecture: its name.
        width: number of latents.
        sparsity: k, target_l0 and l1_coefficient as they were given.
        default_k: the k where none is given.

    Raises:
        ConfigError: there is no such architecture, or it has not what was given.
    """
    fields = _fields(architecture)
    settings: dict[str, object] = {"architecture": architecture, "width": width}
    for name, not_given in _SPARSITY.items():
        value = sparsity.get(name, not_given)
        is_given = value != not_given
        if name not in fields:
            if is_given:
                others = ", ".join(known for known in _SPARSITY if known in fields) or "settings of its own"
                message = f"{architecture} has no {name} (given: {value:g}): leave it out. It has {others}."
                raise ConfigError(message)
        elif name == "k":
            settings[name] = value if is_given else default_k
        else:
            settings[name] = None if value == CHOOSE else value
    return settings


def split_settings(train_settings: str, architecture: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings given as JSON: those of the training, and those of the architecture.

    Raises:
        ConfigError: that is no JSON object, or it names what neither has.
    """
    from mistudio.train import TrainConfig

    given = json_object("train_settings", train_settings, '{"ema_decay": 0.999}')
    of_training = {name for name in TrainConfig.model_fields if name not in _ELSEWHERE}
    of_architecture = {name for name in _fields(architecture) if name not in _ELSEWHERE}
    unknown = [name for name in given if name not in of_training | of_architecture]
    if unknown:
        message = (
            f"train_settings names {unknown[0]!r}, which neither training nor {architecture} has. Training has "
            f"{', '.join(sorted(of_training))}; {architecture} has {', '.join(sorted(of_architecture))}."
        )
        raise ConfigError(message)
    return (
        {name: value for name, value in given.items() if name in of_training},
        {name: value for name, value in given.items() if name in of_architecture},
    )


def check_training(
    architecture: str, width: int, sparsity: Mapping[str, float], train_settings: str = "", train_tokens: object = None
) -> None:
    """Refuse what the train step would refuse, as far as that can be told without activations.

    Raises:
        ConfigError: a value is out of range, unknown, or in conflict with another.
    """
    from mistudio.train import TrainConfig

    of_training, of_architecture = split_settings(train_settings, architecture)
    sae = architecture_settings(architecture, _ANY_WIDTH if width == CHOOSE else width, sparsity, _ANY_K)
    tokens = {} if train_tokens is None else {"tokens": train_tokens}
    settings = {**tokens, "hook": ANY_HOOK, "sae": {**sae, **of_architecture}, **of_training}
    validated(TrainConfig, settings, {"tokens": "train_tokens"})


def _fields(architecture: str) -> Mapping[str, Any]:
    from mistudio.sae import architecture_configs

    configs = architecture_configs()
    if architecture not in configs:
        message = f"architecture {architecture!r} is unknown: use one of {', '.join(configs)}."
        raise ConfigError(message)
    return configs[architecture].model_fields
