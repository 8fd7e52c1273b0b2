"""Finding the checkout that holds the pipelines: they are compile-time code and not installed."""

import importlib
import inspect
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mistudio.errors import ConfigError
from mistudio.plain_text import shortened
from mistudio.settings import assignments, parse_plain

_ENV = "MISTUDIO_CHECKOUT"


def checkout() -> Path:
    """The folder with ``pipelines`` and ``components``: ``MISTUDIO_CHECKOUT``, here and above, or the library's.

    Raises:
        ConfigError: there is none.
    """
    given = os.environ.get(_ENV)
    here = Path.cwd()
    candidates = [Path(given)] if given else [here, *here.parents, Path(__file__).parents[3]]
    for folder in candidates:
        if (folder / "pipelines" / "interpret.py").is_file():
            return folder
    message = (
        "The pipelines are not here: they are part of miStudio's checkout, not of the installed package. "
        f"Run this in the checkout, or point {_ENV} to it."
    )
    raise ConfigError(message)


def pipeline_names() -> list[str]:
    """Names of the pipelines in the checkout."""
    return sorted(path.stem for path in (checkout() / "pipelines").glob("*.py") if not path.stem.startswith("_"))


def load_pipeline(name: str) -> Any:
    """The KFP pipeline of that name.

    Raises:
        ConfigError: there is no such pipeline, or kfp is not installed.
    """
    names = pipeline_names()
    if name not in names:
        message = f"There is no pipeline {shortened(name)}; there is {', '.join(names)}."
        raise ConfigError(message)
    root = str(checkout())
    if root not in sys.path:
        sys.path.insert(0, root)
    try:
        return getattr(importlib.import_module(f"pipelines.{name}"), name)
    except ModuleNotFoundError as error:
        if error.name != "kfp":
            raise
        message = "Pipelines need kfp: pip install 'mistudio[pipelines]'."
        raise ConfigError(message) from error


def kfp_functions() -> Any:
    """The checkout's module that runs and compiles pipelines; the library itself does not import kfp."""
    return importlib.import_module("pipelines._kfp")


def signature(pipeline: Any) -> dict[str, inspect.Parameter]:
    """The parameters of a pipeline, by name."""
    return dict(inspect.signature(kfp_functions().function_of(pipeline)).parameters)


def check_settings(pipeline: Any, values: dict[str, object]) -> None:
    """Refuse what a later step would refuse, so that a typo costs no hour.

    Raises:
        ConfigError: a value is out of range, unknown, or in conflict with another.
        SubjectError: the model cannot be loaded so on this machine.
    """
    from mistudio.steps import check_together

    refuse_unknown(values, signature(pipeline))
    check_together(kfp_functions().function_of(pipeline).takes, values)


def refuse_unknown(names: Iterable[str], parameters: Mapping[str, inspect.Parameter]) -> None:
    """Refuse what is no parameter of a pipeline.

    Raises:
        ConfigError: a name is none.
    """
    for name in names:
        if name not in parameters:
            message = (
                f"{shortened(name)} is no parameter of this pipeline; it has {', '.join(parameters)}. Other settings "
                "of a step go into its JSON, such as train_settings."
            )
            raise ConfigError(message)


def parse_settings(pipeline: Any, settings: list[str]) -> dict[str, object]:
    """Read ``name=value`` pairs as the pipeline's parameters.

    Raises:
        ConfigError: a parameter is unknown, or its value is not of its type.
    """
    parameters = signature(pipeline)
    values: dict[str, object] = {}
    for name, text in assignments(settings):
        refuse_unknown([name], parameters)
        values[name] = parse_plain(name, text, parameters[name].annotation)
    return values
