"""Every setting of a step is reachable from the step's configuration, and so in its recipe.

A class of settings that is built from its defaults somewhere below a step can be set by nobody, and where a default
changes, the artifact of the old one is found. So each class is a field of a step's configuration, at any depth, or of
one of those that a step is given beside it.
"""

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
from pydantic import BaseModel

from mistudio.demo import DemoConfig
from mistudio.explain.llm_config import EndpointConfig, LocalModelConfig
from mistudio.explain.registry import MethodsConfig
from mistudio.sae.config import ArchitectureConfig
from mistudio.steps import STEPS
from mistudio.steps.memory_config import MemoryConfig
from mistudio.subject import SubjectConfig
from mistudio.train import TrainConfig

# What steps are given: their own configurations, as declared, and what they have in common.
ROOTS: tuple[type[BaseModel], ...] = (
    *(each for step in STEPS.values() for each in (step.config_class, step.runtime_class) if each is not None),
    *(SubjectConfig, DemoConfig, MemoryConfig),  # the last of check-memory
    *(EndpointConfig, LocalModelConfig),  # a judge is given beside the configuration; recipes hold its settings()
)
PACKAGES = (
    "mistudio.activations",
    "mistudio.corpus",
    "mistudio.demo",
    "mistudio.evaluate",
    "mistudio.explain",
    "mistudio.find",
    "mistudio.instrument",
    "mistudio.report",
    "mistudio.sae",
    "mistudio.score",
    "mistudio.steps",
    "mistudio.subject",
    "mistudio.train",
)
# Classes that no step is given, and why.
NOT_REACHED: dict[type[BaseModel], str] = {
    MethodsConfig: "base class of ExplainConfig and ScoreConfig",
}


def modules_of(package: str) -> Iterator[ModuleType]:
    """A package's modules, without the kernels that need a library of their own."""
    root = importlib.import_module(package)
    yield root
    for found in pkgutil.walk_packages(root.__path__, f"{package}."):
        if "triton" not in found.name:
            yield importlib.import_module(found.name)


def configs_of(package: str) -> set[type[BaseModel]]:
    """The classes of settings that a package defines."""
    return {
        each
        for module in modules_of(package)
        for name, each in vars(module).items()
        if name.endswith("Config") and isinstance(each, type) and issubclass(each, BaseModel)
        if each.__module__ == module.__name__
    }


def models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The models that an annotation names, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)


def subclasses_of(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """All classes below a model."""
    for each in model.__subclasses__():
        yield each
        yield from subclasses_of(each)


def reached(roots: tuple[type[BaseModel], ...]) -> set[type[BaseModel]]:
    """The roots, the models of their fields and the classes that they inherit fields from."""
    found: set[type[BaseModel]] = set()
    waiting = list(roots)
    while waiting:
        model = waiting.pop()
        if model not in found:
            found.add(model)
            waiting += [each for each in model.__bases__ if issubclass(each, BaseModel) and each is not BaseModel]
            if model is TrainConfig:  # its field sae names the architecture, whose class is looked up
                waiting += subclasses_of(ArchitectureConfig)
            for field in model.model_fields.values():
                waiting += models_in(field.annotation)
    return found


REACHED = reached(ROOTS)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_class_of_settings_is_reachable_from_a_steps_configuration(package: str) -> None:
    missed = configs_of(package) - REACHED - NOT_REACHED.keys()
    assert not missed, f"{missed}: make it a field of a step's configuration, or say in NOT_REACHED why not"


@pytest.mark.parametrize("package", PACKAGES)
def test_below_a_step_no_settings_are_built_from_their_defaults(package: str) -> None:
    names = {each.__name__ for each in REACHED} - {root.__name__ for root in ROOTS}
    built = []
    for module in modules_of(package):
        path = Path(str(module.__file__))
        if path.name == "config.py":
            continue  # fields of one configuration have others as defaults
        built += [
            f"{path.name}:{call.lineno} {call.func.id}()"
            for call in ast.walk(ast.parse(path.read_text()))
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
            if call.func.id in names and not call.args and not call.keywords
        ]
    assert not built, "take them from the step's configuration"


OWN = sorted((each for each in REACHED if each.__module__.startswith(("mistudio.explain", "mistudio.score"))), key=str)


@pytest.mark.parametrize("model", OWN, ids=lambda model: model.__name__)
def test_every_setting_of_explain_and_score_says_what_it_is(model: type[BaseModel]) -> None:
    assert [name for name, field in model.model_fields.items() if not field.description] == []
