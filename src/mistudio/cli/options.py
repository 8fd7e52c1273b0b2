"""Options of a command, made from the declarations of what they set."""

import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from mistudio.settings import Leaf, parse_plain
from mistudio.steps.spec import STORE

StoreOption = Annotated[str, typer.Option("--store", help=STORE.shown(), show_default=False)]
AuthorOption = Annotated[str, typer.Option(help="Who says so. [default: you]")]
_NUMBERS = {int: "INTEGER", float: "FLOAT"}  # as typer calls them


def with_parameters(command: Callable[..., None], parameters: Iterable[inspect.Parameter]) -> Callable[..., None]:
    """``command``, which takes any keywords, with these parameters for typer to read."""
    made = list(parameters)
    command.__signature__ = inspect.Signature(made)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in made}
    return command


def option_of(leaf: Leaf) -> inspect.Parameter:
    """The option of a setting."""
    is_text = leaf.many or leaf.kind is dict
    return option(leaf.name, str if is_text else leaf.kind, leaf.shown(), leaf.default)


def option(name: str, kind: type, text: str, default: Any) -> inspect.Parameter:
    """An option by its name; one that is on by default can be turned off."""
    flag = f"--{name.replace('_', '-')}"
    names = f"{flag}/--no-{flag[2:]}" if default is True else flag
    return parameter(name, kind, typer.Option(names, help=text, **number(name, kind)), default)


def number(name: str, kind: type) -> dict[str, Any]:
    """How typer is told to read a number: its own refusal does not say what was given."""
    if kind not in _NUMBERS:
        return {}
    return {"parser": lambda text: parse_plain(name, str(text), kind), "metavar": _NUMBERS[kind]}


def parameter(name: str, kind: Any, info: Any, default: Any) -> inspect.Parameter:
    """A parameter of a command, of which typer is told ``info``."""
    hint: Any = kind | None if default is None else kind
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=Annotated[hint, info])


def user_name() -> str:
    """The name of who runs the command, for what is put on record.

    Raises:
        ConfigError: this machine does not know its user, as in a container.
    """
    import getpass

    from mistudio.errors import ConfigError

    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        message = "Who gives the name? This machine does not know its user: say it with --author."
        raise ConfigError(message) from error
