"""What a step was given: sorted by what it is of, completed by what the step chooses, and checked before a run."""

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from mistudio.artifacts import Artifact
from mistudio.errors import ConfigError
from mistudio.plain_text import shortened
from mistudio.settings import Leaf, by_path, check_seed, get, has, nested, put, validated
from mistudio.steps.context import Context, as_object, judge_choice, loading_given
from mistudio.steps.spec import Asked, Input, Inputs, Step

# Named by every step that can be given them; all other names are settings.
_OF_THE_STEP = frozenset(
    {"model", "revision", "model_settings", "seed", "store", "judge_url", "judge_model", "judge_tokens"}
    | {"judge_settings"}
)


@dataclass(frozen=True)
class Given:
    """What a step was given, sorted by what it is of."""

    inputs: Mapping[str, Sequence[str]]  # prefixes
    own: Mapping[str, Any]  # arguments, and what steps have in common
    content: Mapping[str, Any]  # of the configuration, nested
    runtime: Mapping[str, Any]
    loading: Mapping[str, Any]


def sort_given(step: Step, values: Mapping[str, Any]) -> Given:
    """Sort what a step was given by what it is of; settings given as JSON win over those given by name.

    Raises:
        ConfigError: a name is unknown, an input is missing, or a setting is not one of what was chosen.
    """
    inputs = {each.name: _uris(step, each, values.get(each.name)) for each in step.inputs}
    options = {leaf.name: leaf for leaf in step.options}
    own: dict[str, Any] = {}
    by_name: dict[str, Any] = {}
    source = f"mistudio {step.command}"
    offered = _OF_THE_STEP | {each.name for each in step.arguments}
    for name, value in values.items():
        if name in inputs or (name == step.json_option and step.has_others):
            continue
        if name in offered and name in options:
            own |= {} if value is None else {name: options[name].checked(value)}
        else:
            by_name[name] = value
    for each in step.arguments:
        if each.required and each.name not in own:
            message = f"{step.command} needs {each.name}: {each.text}"
            raise ConfigError(message)
    check_seed(own.get("seed", 0))
    known = (step.settings, step.runtime_settings, step.loading)
    everything = step.settings + step.runtime_settings + step.loading
    given = by_path(everything, by_name, source) | by_path(everything, json_settings(step, values), step.json_option)
    content, runtime, loading = (
        nested(part, {leaf.path: given[leaf.path] for leaf in part if leaf.path in given}, source) for part in known
    )
    return Given(inputs, own, content, runtime, loading_given(step, loading, own.pop("model_settings", None)))


def _uris(step: Step, declared: Input, given: Any) -> Sequence[str]:
    """The prefixes that an input names: texts with commas between them, artifacts, or a list of such.

    Raises:
        ConfigError: it names none and is needed, several and takes one, or something else.
    """
    several = [] if given is None else list(given) if isinstance(given, Sequence | Set) else [given]
    texts = several if not isinstance(given, str) else given.split(",")
    uris = [each.uri if isinstance(each, Artifact) else each for each in texts]
    if not all(isinstance(each, str) for each in uris):
        message = f"{declared.name} takes artifacts, such as {declared.kind}/0123456789abcdef, not {given!r:.60}."
        raise ConfigError(message)
    found = [each.strip() for each in uris if each.strip()]
    if not found and not declared.optional:
        message = f"{step.command} needs {declared.name}: {declared.text}"
        raise ConfigError(message)
    if len(found) > 1 and not declared.many:
        message = f"{declared.name} takes one artifact, not {len(found)}: {shortened(', '.join(found))}."
        raise ConfigError(message)
    return found


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
    _check_others(step, given)
    return Asked(config, given.own, given.content, given.loading)


def _check_others(step: Step, given: Given) -> None:
    """Refuse what is not of the configuration: how the step runs, loads the model, and asks a language model.

    Raises:
        ConfigError: a value is refused.
    """
    from mistudio.subject import SubjectConfig

    subject = validated(SubjectConfig, given.loading)
    if step.runtime_class is not None:
        validated(step.runtime_class, given.runtime)
    if "judge" in step.uses:
        judge_choice(given.own, subject)


def names_of(settings: tuple[Leaf, ...]) -> dict[str, str]:
    """What people call the settings whose field has another name, by path."""
    return {leaf.path: leaf.name for leaf in settings if leaf.name != leaf.path}
