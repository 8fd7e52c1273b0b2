"""What a step works with beside its inputs and its configuration: the store, the model, the judge, the run."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mistudio.artifacts import Artifact, Line, Store, open_to_read, scratch_folder
from mistudio.errors import ConfigError, InputError
from mistudio.settings import json_object, nested, refused, validated
from mistudio.steps.spec import Step
from mistudio.tracking import Run

if TYPE_CHECKING:
    from mistudio.explain import JudgeSource
    from mistudio.explain.llm_open import JudgeChoice
    from mistudio.subject import SubjectConfig, SubjectSource
    from mistudio.subject.facts import ModelFacts


@dataclass(frozen=True)
class Context:
    """What a step works with.

    Attributes:
        step: its declaration.
        store_url: where the store is; empty: the default one.
        run: the MLflow run, silent where nothing is tracked.
        given: what was given by name, without what was not.
        loading: settings given of how the model is loaded.
        runtime: how the step runs, as it was given.
    """

    step: Step
    store_url: str
    run: Run
    given: Mapping[str, Any]
    loading: Mapping[str, Any]
    runtime: Mapping[str, Any]

    @cached_property
    def store(self) -> Store:
        """Where everything is, opened when it is first asked for; from one that cannot be written, what is there."""
        return open_to_read(self.store_url, make=True)

    @property
    def seed(self) -> int:
        """The seed of everything random."""
        return int(self.given.get("seed", 0))

    def argument(self, name: str) -> Any:
        """A plain value beside the configuration, or its default."""
        (argument,) = (each for each in self.step.arguments if each.name == name)
        return self.given.get(name, argument.default)

    def source(self, made_from: Artifact | None = None) -> "SubjectSource":
        """The model that is named; if none is, the one behind the artifact ``made_from``.

        Raises:
            InputError: there is no such model, or nothing says which it was.
            ConfigError: there is a revision, of a model that is not named.
        """
        model, revision = str(self.given.get("model", "")), str(self.given.get("revision", ""))
        if made_from is None:
            return named_source(self.store, model or "demo", revision)
        return named_source(self.store, model, revision, made_from)

    def subject(self, made_from: Artifact | None = None) -> "SubjectConfig":
        """How the model is loaded: as it was given, and what was not given as it was when it was captured.

        Raises:
            ConfigError: a setting is refused.
        """
        from mistudio.activations import captured_config
        from mistudio.subject import SubjectConfig

        activations = None if made_from is None else activations_behind(self.store, made_from)
        captured = captured_config(activations).model_dump(exclude_defaults=True) if activations is not None else {}
        return validated(SubjectConfig, {**captured, **self.loading})

    @property
    def device(self) -> str:
        """The name of the device to compute on."""
        from mistudio.subject import device_name

        return device_name(str(self.loading.get("device", "auto")))

    def model_facts(self, made_from: Artifact | None = None) -> "ModelFacts":
        """What the configuration of the model says, remembered beside the store; the model as :meth:`source` has it."""
        from mistudio.subject.facts import model_facts

        trust = bool(self.loading.get("trust_remote_code", False))
        return model_facts(self.source(made_from), trust, scratch_folder(self.store) / "models")

    def judge(self, subject: "SubjectConfig", wanted_by: str) -> "JudgeSource | None":
        """The language model that is named to be asked, if one is; its answers are remembered beside the store.

        Raises:
            ConfigError: an address or settings come without a model, or are refused.
            SubjectError: a model is named without an address, and there is no such model here.
        """
        from mistudio.explain import JudgeSource
        from mistudio.explain.llm_open import open_judge

        config = judge_choice(self.given, subject)
        if config is None:
            return None
        answers = scratch_folder(self.store) / "answers"
        return JudgeSource(config.settings(), lambda: open_judge(config, wanted_by, answers))


def named_source(store: Store, model: str, revision: str, made_from: Artifact | None = None) -> "SubjectSource":
    """Find a model by name; without a name the one that ``made_from`` is of.

    That is the one that the activations behind it were captured from, or that a corpus was tokenised for.

    Raises:
        InputError: there is no such model, nothing says which it was, or it is the demo and another was captured.
        ConfigError: there is a revision, of a model that is not named.
    """
    from mistudio.demo import DEMO, resolve_model

    if made_from is not None and not model:
        return captured_subject(store, made_from, revision)
    if made_from is not None and model == DEMO:
        check_demo(store, made_from)
    if "@" in model and not revision and not os.path.exists(model):
        model, _, revision = model.rpartition("@")
    return resolve_model(model, revision or None, store)


def loading_given(step: Step, values: Mapping[str, Any], model_settings: Any) -> dict[str, Any]:
    """The settings given of how the model is loaded; those in ``model_settings`` (JSON) win.

    Raises:
        ConfigError: a setting is unknown.
    """
    given = {name: value for name, value in values.items() if value is not None}
    others = as_object("model_settings", model_settings, '{"device_map": "auto"}')
    return given | nested(step.loading, others, "model_settings")


def as_object(name: str, value: Any, example: str) -> dict[str, Any]:
    """Settings that were given as JSON, or as an object already.

    Raises:
        ConfigError: it is neither.
    """
    return dict(value) if isinstance(value, Mapping) else json_object(name, str(value or ""), example)


def judge_choice(given: Mapping[str, Any], subject: "SubjectConfig") -> "JudgeChoice | None":
    """How the language model is configured that a step is told to ask; None if none is named.

    Raises:
        ConfigError: an address or settings come without a model, or are refused.
    """
    from mistudio.explain.llm_open import judge_config

    others = as_object("judge_settings", given.get("judge_settings"), '{"concurrency": 32}')
    url, model = (str(given.get(name, "")) for name in ("judge_url", "judge_model"))
    try:
        return judge_config(url, model, given.get("judge_tokens"), subject, others)
    except ValidationError as error:
        raise refused(error) from error


def captured_subject(store: Store, artifact: Artifact, revision: str) -> "SubjectSource":
    """The model that was captured, found where the capture says; of a corpus the one that it was tokenised for.

    Raises:
        InputError: nothing says which model it was, or it is not to be found.
        ConfigError: there is a revision, of a model that is not named.
    """
    from mistudio.activations import captured_source, tokenised_for

    if revision:
        message = f"revision {revision} is of no model: name the model too, or leave both out for the one captured."
        raise ConfigError(message)
    if artifact.manifest.short_kind == "corpus":
        return tokenised_for(store, artifact)
    activations = activations_behind(store, artifact)
    if activations is None:
        message = f"{artifact.uri} does not say which model its activations came from: name it as model."
        raise InputError(message)
    return captured_source(store, activations)


def check_demo(store: Store, artifact: Artifact) -> None:
    """Refuse the demo subject where another model was captured or tokenised for, before it is trained for nothing.

    Raises:
        InputError: it was another model.
    """
    from mistudio.demo import DEMO, demo_uri

    is_corpus = artifact.manifest.short_kind == "corpus"
    made = artifact if is_corpus else activations_behind(store, artifact)
    if made is None:
        return
    uri = made.manifest.inputs["tokenizer" if is_corpus else "subject"].uri.removeprefix("tokenizer:")
    if uri != demo_uri():
        message = (
            f"{made.uri} was {'tokenised for' if is_corpus else 'captured from'} {uri}, and model {DEMO} is "
            f"{demo_uri()}: leave model out, or name that one."
        )
        raise InputError(message)


def activations_behind(store: Store, artifact: Artifact) -> Artifact | None:
    """The activations that an artifact was made from, itself or by way of others; None where it names none."""
    return Line(store, artifact).find("activations")
