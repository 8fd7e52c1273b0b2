"""The architectures: those built in, and those of other packages.

Another package adds one by an entry point in the group ``mistudio.architectures`` that names a subclass of
:class:`~mistudio.sae.autoencoder.SparseAutoencoder`. Its ``Config`` fixes the name under which it is chosen.
"""

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError
from pydantic_core import ErrorDetails

from mistudio.errors import ConfigError
from mistudio.plain_text import shortened
from mistudio.sae.config import BUILT_IN, ArchitectureConfig
from mistudio.settings import Variants

if TYPE_CHECKING:
    from mistudio.sae.autoencoder import SparseAutoencoder

ENTRY_POINTS = "mistudio.architectures"


@cache
def architectures() -> "dict[str, type[SparseAutoencoder]]":
    """The classes by name; a built-in one is never replaced.

    Raises:
        ConfigError: an installed package offers something that is not an architecture, or a name twice.
    """
    from mistudio.sae.autoencoder import SparseAutoencoder

    found = {_name(config): _implementation(config) for config in BUILT_IN}
    for entry in entry_points(group=ENTRY_POINTS):
        kind = entry.load()
        if not (isinstance(kind, type) and issubclass(kind, SparseAutoencoder)):
            message = f"Entry point {entry.name} ({entry.value}) is not a subclass of SparseAutoencoder."
            raise ConfigError(message)
        if found.setdefault(_name(kind.Config), kind) is not kind:
            message = f"Entry point {entry.name} ({entry.value}) has the name {_name(kind.Config)!r}, which is taken."
            raise ConfigError(message)
    return found


@cache  # to look through what is installed takes milliseconds
def architecture_configs() -> dict[str, type[ArchitectureConfig]]:
    """The configurations of the architectures by name; classes are imported only where another package has some.

    Raises:
        ConfigError: as :func:`architectures`.
    """
    if entry_points(group=ENTRY_POINTS):
        return {name: kind.Config for name, kind in architectures().items()}
    return built_in_configs()


def built_in_configs() -> dict[str, type[ArchitectureConfig]]:
    """The configurations of the architectures that come with miStudio, by name."""
    return {_name(config): config for config in BUILT_IN}


def architecture_config(name: str) -> type[ArchitectureConfig]:
    """The configuration of one architecture.

    Raises:
        ConfigError: there is none of that name; or as :func:`architectures`.
    """
    configs = architecture_configs()
    if name not in configs:
        message = f"architecture {shortened(name)} is unknown: use one of {', '.join(configs)}."
        raise ConfigError(message)
    return configs[name]


def new_autoencoder(config: ArchitectureConfig, d_in: int, d_out: int | None = None) -> "SparseAutoencoder":
    """An autoencoder of the architecture that ``config`` names, with zero weights; E wide if ``d_out`` is given."""
    return architectures()[config.architecture](config, d_in, d_out)


def _name(config: type[ArchitectureConfig]) -> str:
    return str(config.model_fields["architecture"].default)


def _implementation(config: type[ArchitectureConfig]) -> "type[SparseAutoencoder]":
    module, _, name = config.implementation.partition(":")
    kind: type[SparseAutoencoder] = getattr(import_module(module), name)
    return kind


def _parse(value: Any) -> Any:
    """The configuration of the class that ``architecture`` names."""
    if not isinstance(value, dict):
        return value
    value = {_VARIANTS.field: _VARIANTS.default, **value}
    config = architecture_configs().get(value["architecture"])
    if config is None:
        known = ", ".join(architecture_configs())
        message = f"architecture {shortened(value['architecture'])} is unknown: use one of {known}"
        raise ValueError(message)
    try:
        return config.model_validate(value)
    except ValidationError as error:
        # One line for each problem: pydantic would put this whole error into the message of another.
        raise ValueError("; ".join(_reason(problem) for problem in error.errors())) from error


def _reason(problem: ErrorDetails) -> str:
    text = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return text  # our own validators name the field themselves
    return f"{'.'.join(map(str, problem['loc']))}: {text[:1].lower()}{text[1:]}, not {shortened(problem['input'])}"


_VARIANTS = Variants("architecture", "topk", "kind of autoencoder", architecture_configs)
# A field of this type holds the configuration of any architecture.
SAEConfig = Annotated[SerializeAsAny[ArchitectureConfig], BeforeValidator(_parse), _VARIANTS]
