"""What a step was given: sorted by what it is of, completed by what the step chooses, and checked before a run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mistudio.errors import ConfigError
from mistudio.settings import Leaf, find_leaf, get, has, nested, put, validated
from mistudio.steps.context import Context, as_object, loading_given
from mistudio.steps.spec import Asked, Inputs, Step

# Named by every step that can be given them; all other names are settings.
_OF_THE_STEP = frozenset(
    {"model", "revision", "model_settings", "seed", "store", "judge_url", "judge_model", "judge_tokens"}
    | {"judge_settings"}
)


_EXAMPLE = '{"ema_decay": 0.999}'


@dataclass(frozen=True)
class Given:
    """What a step was given, sorted by what it is of."""

    inputs: Mapping[str, Any]
    own: Mapping[str, Any]  # arguments, and what steps have in common
    content: Mapping[str, Any]  # of the configuration, nested
    runtime: Mapping[str, Any]
    loading: Mapping[str, Any]


def sort_given(step: Step, values: Mapping[str, Any]) -> Given:
    """Sort what a step was given by what it is of; settings given as JSON win over those given by name.

    Raises:
        ConfigError: a name is unknown, an input is missing, or a setting is not one of what was chosen.
    """
    inputs = {each.name: values.get(each.name) for each in step.inputs}
    for each in step.inputs:
        if not inputs[each.name] and not each.optional:
            message = f"{step.name} needs {each.name}: {each.text}"
            raise ConfigError(message)
    arguments = {each.name for each in step.arguments}
    own: dict[str, Any] = {}
    of: dict[str, dict[str, Any]] = {"config": {}, "runtime": {}, "loading": {}}
    source = f"mistudio {step.name}"
    offered = _OF_THE_STEP | arguments
    for name, value in values.items():
        if name in inputs or (name == step.json_option and step.has_others):
            continue
        if name in arguments or (name in offered and any(leaf.name == name for leaf in step.options)):
            own |= {} if value is None else {name: value}
        else:
            of[_section(step, name, value, source)][name] = value
    json_given = as_object(step.json_option, values.get(step.json_option), _EXAMPLE) if step.has_others else {}
    for name, value in json_given.items():
        section = _section(step, name, value, step.json_option)
        by_name = find_leaf(_all(step), name, step.json_option).name if not isinstance(value, Mapping) else name
        of[section].pop(by_name, None)
        of[section][name] = value
    loading = nested(step.loading, of["loading"], source)
    return Given(
        inputs,
        own,
        nested(step.settings, of["config"], source),
        nested(step.runtime_settings, of["runtime"], source),
        loading_given(step, loading, own.pop("model_settings", None)),
    )


def configure(step: Step, context: Context, inputs: Inputs, content: Mapping[str, Any]) -> Any:
    """The configuration of a step: what was given, and what it chooses by its inputs.

    Raises:
        ConfigError: a value is refused.
        InputError: the inputs do not go with it.
    """
    if step.config_class is None:
        return None
    filled: dict[str, Any] = json.loads(json.dumps(content))
    for path, choice in step.choices.items():
        if has(step.settings, filled, path):
            put(filled, path, choice.value(context, inputs, filled, get(filled, path)))
    return validated(step.config_class, filled, names_of(step.settings))


def check(step: Step, values: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Asked:
    """Refuse what a step would refuse, as far as that can be told without its inputs.

    Args:
        step: its declaration.
        values: options by name.
        names: what people call those that they know by another name.

    Raises:
        ConfigError: a value is refused.
    """
    given = sort_given(step, {**{each.name: "later" for each in step.inputs}, **values})
    filled: dict[str, Any] = json.loads(json.dumps(given.content))
    for path, choice in step.choices.items():
        if has(step.settings, filled, path) and choice.stand_in is not None:
            put(filled, path, choice.complete(get(filled, path)))
    config = None
    if step.config_class is not None:
        config = validated(step.config_class, filled, {**names_of(step.settings), **(names or {})})
    return Asked(config, given.own, given.content, given.loading)


def names_of(settings: tuple[Leaf, ...]) -> dict[str, str]:
    """What people call the settings whose field has another name, by path."""
    return {leaf.path: leaf.name for leaf in settings if leaf.name != leaf.path}


def _all(step: Step) -> tuple[Leaf, ...]:
    return step.settings + step.runtime_settings + step.loading


def _section(step: Step, name: str, value: Any, source: str) -> str:
    """What a setting is of."""
    if isinstance(value, Mapping) and any(leaf.path.startswith(f"{name}.") for leaf in step.settings):
        return "config"
    leaf = find_leaf(_all(step), name, source)
    return "config" if leaf in step.settings else "runtime" if leaf in step.runtime_settings else "loading"
