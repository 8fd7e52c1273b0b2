"""Checks of a pipeline's parameters that need neither model nor corpus, so that a typo costs no hour."""

from collections.abc import Mapping

from mistudio.errors import ConfigError
from mistudio.steps.batch import architecture_settings
from mistudio.steps.defaults import CHOOSE
from mistudio.steps.sweep import grid
from mistudio.steps.validation import validated

# What the checks assume where the step will choose: any valid value serves.
_ANY_WIDTH, _ANY_K = 32_768, 1


def check_settings(values: Mapping[str, object]) -> None:
    """Refuse settings that a later step would refuse.

    Raises:
        ConfigError: a value is out of range, unknown, or in conflict with another.
    """
    given = {name: value for name, value in values.items() if value != CHOOSE}
    _check_numbers(given)
    if given.keys() & {"architecture", "width", "k", "target_l0", "l1_coefficient", "skip"}:
        _check_architecture(given)
    axes = {name: str(given[name]) for name in ("architectures", "widths", "sparsities", "seeds") if name in given}
    if axes:
        grid(**axes)
    if "hook" in given:
        _check_hooks(str(given["hook"]))


def _check_architecture(given: Mapping[str, object]) -> None:
    from mistudio.sae import architecture_configs

    architecture = str(given.get("architecture", "topk"))
    settings = architecture_settings(
        architecture,
        _number(given, "width", _ANY_WIDTH),
        _number(given, "k", _ANY_K),
        float(str(given.get("target_l0", CHOOSE))),
        float(str(given.get("l1_coefficient", 0.02))),
        str(given.get("skip", "none")),
        allow_wide=bool(given.get("allow_wide", False)),
    )
    validated(architecture_configs()[architecture], settings)


def _check_numbers(given: Mapping[str, object]) -> None:
    for name in ("layer", "max_tokens", "train_tokens", "contexts", "context_length"):
        if name in given and _number(given, name, 1) < (0 if name == "layer" else 1):
            message = f"{name} {given[name]} is out of range: give a positive number, or -1 where the step may choose."
            raise ConfigError(message)


def _check_hooks(hooks: str) -> None:
    from mistudio.subject.points import KINDS

    unknown = [kind for kind in hooks.replace(" ", "").split(",") if kind not in KINDS]
    if unknown:
        message = f"hook {unknown[0]!r} is unknown: use one of {', '.join(KINDS)}."
        raise ConfigError(message)


def _number(values: Mapping[str, object], name: str, default: int) -> int:
    return int(str(values.get(name, default)))
