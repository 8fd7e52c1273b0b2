"""Finding the pipelines: beside the library in a checkout, in the package where it was installed.

They are named by their place, not looked for along the path: a folder that happens to be called ``pipelines`` where a
command is run is data, and no code of it runs.
"""

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from mistudio.errors import ConfigError
from mistudio.plain_text import shortened
from mistudio.settings import assignments, parse_plain

_ENV = "MISTUDIO_CHECKOUT"
_LIBRARY = Path(__file__).parents[1]
_BUNDLED = _LIBRARY / "bundled"  # setup.py puts a copy there when it builds the package
_PACKAGES = ("components", "pipelines")
_NO_PIPELINES = ("placement",)  # modules beside them


def checkout() -> Path:
    """The folder with ``pipelines`` and ``components``: ``MISTUDIO_CHECKOUT``, else what came with this library.

    Raises:
        ConfigError: there is none.
    """
    given = os.environ.get(_ENV)
    if given:
        if not _has_pipelines(Path(given)):
            message = f"{_ENV} is {given:.200}, which is no checkout of miStudio: point it to one, or leave it out."
            raise ConfigError(message)
        return Path(given).absolute()
    for folder in (_BUNDLED, _LIBRARY.parents[1]):
        if _has_pipelines(folder):
            return folder
    message = f"This copy of miStudio came without its pipelines: install it anew, or point {_ENV} to a checkout."
    raise ConfigError(message)


def compiled_folder() -> Path:
    """Where compiled pipelines go: in the checkout, else in a folder here."""
    folder = checkout()
    return Path("compiled") if folder == _BUNDLED else folder / "pipelines" / "compiled"


def pipeline_names() -> list[str]:
    """Names of the pipelines."""
    names = (path.stem for path in (checkout() / "pipelines").glob("*.py"))
    return sorted(name for name in names if not name.startswith("_") and name not in _NO_PIPELINES)


def load_pipeline(name: str) -> Any:
    """The KFP pipeline of that name.

    Raises:
        ConfigError: there is no such pipeline, or kfp is not installed.
    """
    names = pipeline_names()
    if name not in names:
        message = f"There is no pipeline {shortened(name)}; there is {', '.join(names)}."
        raise ConfigError(message)
    return getattr(_module(name), name)


def kfp_functions() -> Any:
    """The module that runs and compiles pipelines; the library itself does not import kfp."""
    return _module("_kfp")


def cluster_functions() -> Any:
    """The module that asks Kubeflow's API; the library itself does not import kfp."""
    return _module("_cluster")


def placement_functions() -> Any:
    """The module that says where on a cluster each step runs."""
    return _module("placement")


def _has_pipelines(folder: Path) -> bool:
    return (folder / "pipelines" / "interpret.py").is_file()


def _module(name: str) -> ModuleType:
    """A module of the pipelines, from the checkout alone."""
    root = checkout()
    for package in _PACKAGES:
        _import_from(root / package)
    try:
        return importlib.import_module(f"pipelines.{name}")
    except ModuleNotFoundError as error:
        if error.name not in ("kfp", "kfp_server_api", "tenacity"):
            raise
        message = "Pipelines need kfp: pip install 'mistudio[pipelines]'."
        raise ConfigError(message) from error


def _import_from(folder: Path) -> None:
    """Import the package in this folder under its name, whatever of that name the path has.

    Raises:
        ConfigError: this process has imported another package of that name.
    """
    name, file = folder.name, folder / "__init__.py"
    there = sys.modules.get(name)
    if there is not None:
        if there.__file__ is None or not file.samefile(there.__file__):
            message = (
                f"This process has imported another package {name}, from {there.__file__}: run pipelines from a "
                "process without it."
            )
            raise ConfigError(message)
        return
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[str(folder)])
    if spec is None or spec.loader is None:
        message = f"{file} cannot be imported: install miStudio anew."
        raise ConfigError(message)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


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
