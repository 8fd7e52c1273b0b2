"""Checks of a pipeline's parameters that need neither model nor corpus, so that a typo costs no hour."""

from collections.abc import Mapping

from mistudio.errors import ConfigError
from mistudio.steps.defaults import CHOOSE, name_hooks
from mistudio.steps.sweep import grid
from mistudio.steps.training import check_training


def check_settings(values: Mapping[str, object]) -> None:
    """Refuse settings that a later step would refuse.

    Raises:
        ConfigError: a value is out of range, unknown, or in conflict with another.
    """
    given = {name: value for name, value in values.items() if value != CHOOSE}
    _check_numbers(given)
    axes = {name: str(given[name]) for name in ("architectures", "widths", "sparsities", "seeds") if name in given}
    if axes:
        grid(**axes, train_settings=str(given.get("train_settings", "")))
    elif given.keys() & {"architecture", "width", "k", "target_l0", "l1_coefficient", "train_settings"}:
        _check_training(given)
    if "hook" in given:
        name_hooks(str(given["hook"]), _number(given, "layer", CHOOSE))


def _check_training(given: Mapping[str, object]) -> None:
    names = given.keys() & {"k", "target_l0", "l1_coefficient"}
    check_training(
        str(given.get("architecture", "topk")),
        _number(given, "width", CHOOSE),
        {name: float(str(given[name])) for name in names},
        str(given.get("train_settings", "")),
    )


def _check_numbers(given: Mapping[str, object]) -> None:
    for name in ("layer", "max_tokens", "train_tokens", "contexts", "context_length"):
        if name in given and _number(given, name, 1) < (0 if name == "layer" else 1):
            message = f"{name} {given[name]} is out of range: give a positive number, or -1 where the step may choose."
            raise ConfigError(message)


def _number(values: Mapping[str, object], name: str, default: int) -> int:
    return int(str(values.get(name, default)))
