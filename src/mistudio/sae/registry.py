"""The architectures: those built in, and those of other packages.

Another package adds one by an entry point in the group ``mistudio.architectures`` that names a subclass of
:class:`~mistudio.sae.base.SparseAutoencoder`. Its ``Config`` fixes the name under which it is chosen.
"""

from functools import cache
from importlib.metadata import entry_points
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError
from pydantic_core import ErrorDetails

from mistudio.errors import ConfigError
from mistudio.sae.base import SparseAutoencoder
from mistudio.sae.batchtopk import BatchTopKAutoencoder
from mistudio.sae.config import ArchitectureConfig
from mistudio.sae.gated import GatedAutoencoder
from mistudio.sae.jumprelu import JumpReLUAutoencoder
from mistudio.sae.matryoshka import MatryoshkaAutoencoder
from mistudio.sae.standard import StandardAutoencoder
from mistudio.sae.topk import TopKAutoencoder

ENTRY_POINTS = "mistudio.architectures"
_BUILT_IN: tuple[type[SparseAutoencoder], ...] = (
    TopKAutoencoder,
    BatchTopKAutoencoder,
    MatryoshkaAutoencoder,
    StandardAutoencoder,
    GatedAutoencoder,
    JumpReLUAutoencoder,
)


@cache
def architectures() -> dict[str, type[SparseAutoencoder]]:
    """The classes by name; a built-in one is never replaced.

    Raises:
        ConfigError: an installed package offers something that is not an architecture, or a name twice.
    """
    found = {_name(kind): kind for kind in _BUILT_IN}
    for entry in entry_points(group=ENTRY_POINTS):
        kind = entry.load()
        if not (isinstance(kind, type) and issubclass(kind, SparseAutoencoder)):
            message = f"Entry point {entry.name} ({entry.value}) is not a subclass of SparseAutoencoder."
            raise ConfigError(message)
        if found.setdefault(_name(kind), kind) is not kind:
            message = f"Entry point {entry.name} ({entry.value}) has the name {_name(kind)!r}, which is taken."
            raise ConfigError(message)
    return found


def new_autoencoder(config: ArchitectureConfig, d_in: int, d_out: int | None = None) -> SparseAutoencoder:
    """An autoencoder of the architecture that ``config`` names, with zero weights; E wide if ``d_out`` is given."""
    return architectures()[config.architecture](config, d_in, d_out)


def _name(kind: type[SparseAutoencoder]) -> str:
    return str(kind.Config.model_fields["architecture"].default)


def _parse(value: Any) -> Any:
    """The configuration of the class that ``architecture`` names."""
    if not isinstance(value, dict):
        return value
    kind = architectures().get(value.get("architecture", ""))
    if kind is None:
        message = f"architecture {value.get('architecture')!r} is unknown: use one of {', '.join(architectures())}"
        raise ValueError(message)
    try:
        return kind.Config.model_validate(value)
    except ValidationError as error:
        # One line for each problem: pydantic would put this whole error into the message of another.
        raise ValueError("; ".join(_reason(problem) for problem in error.errors())) from error


def _reason(problem: ErrorDetails) -> str:
    text = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return text  # our own validators name the field themselves
    return f"{'.'.join(map(str, problem['loc']))}: {text[:1].lower()}{text[1:]}, not {problem['input']!r}"


# A field of this type holds the configuration of any architecture.
SAEConfig = Annotated[SerializeAsAny[ArchitectureConfig], BeforeValidator(_parse)]
