"""What a step was given: sorted by what it is of, completed by what the step chooses, and checked before a run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mistudio.errors import ConfigError
from mistudio.settings import Leaf, by_path, get, has, nested, put, validated
from mistudio.steps.context import Context, as_object, loading_given
from mistudio.steps.spec import Asked, Inputs, Step

# Named by every step that can be given them; all other names are settings.
_OF_THE_STEP = frozenset(
    {"model", "revision", "model_settings", "seed", "store", "judge_url", "judge_model", "judge_tokens"}
    | {"judge_settings"}
)


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
            message = f"{step.command} needs {each.name}: {each.text}"
            raise ConfigError(message)
    arguments = {each.name for each in step.arguments}
    own: dict[str, Any] = {}
    by_name: dict[str, Any] = {}
    source = f"mistudio {step.command}"
    offered = _OF_THE_STEP | arguments
    for name, value in values.items():
        if name in inputs or (name == step.json_option and step.has_others):
            continue
        if name in arguments or (name in offered and any(leaf.name == name for leaf in step.options)):
            own |= {} if value is None else {name: value}
        else:
            by_name[name] = value
    known = (step.settings, step.runtime_settings, step.loading)
    everything = step.settings + step.runtime_settings + step.loading
    given = by_path(everything, by_name, source) | by_path(everything, json_settings(step, values), step.json_option)
    content, runtime, loading = (
        nested(part, {leaf.path: given[leaf.path] for leaf in part if leaf.path in given}, source) for part in known
    )
    return Given(inputs, own, content, runtime, loading_given(step, loading, own.pop("model_settings", None)))


def json_settings(step: Step, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a step that were given as one JSON object.

    Raises:
        ConfigError: what was given is no object.
    """
    if not step.has_others:
        return {}
    (example, *_) = (leaf for leaf in step.settings + step.runtime_settings if leaf.place == "settings")
    shown = json.dumps({example.path: example.default})
    return as_object(step.json_option, values.get(step.json_option), shown)


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
