"""Where a run is: on this machine or on Kubeflow, told by its id; and the options that lead to Kubeflow."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mistudio.cli.options import with_parameters

if TYPE_CHECKING:
    from mistudio.runs import Runner
    from mistudio.runs.connection import Connection

_HOST = "Address of Kubeflow's API. [default: MISTUDIO_KFP_HOST, else the cluster of the kubeconfig]"
_OPTIONS: dict[str, Any] = {
    "host": Annotated[str, typer.Option(help=_HOST, metavar="URL", show_default=False)],
    "namespace": Annotated[
        str, typer.Option(help="Namespace of Kubeflow's runs. [default: MISTUDIO_KFP_NAMESPACE]", show_default=False)
    ],
    "token_file": Annotated[Path | None, typer.Option(help="File with the token to send to Kubeflow.")],
    "token_command": Annotated[
        str,
        typer.Option(help="Command that prints the token; no shell runs it.", show_default=False),
    ],
    "ca_file": Annotated[Path | None, typer.Option(help="Certificates to trust for Kubeflow's address.")],
    "context": Annotated[str, typer.Option(help="Context of the kubeconfig.", show_default=False)],
}
_DEFAULTS: dict[str, object] = {name: None if name.endswith("file") else "" for name in _OPTIONS}


def reaching_kubeflow(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, which takes a ``connection``, the options that say how Kubeflow is reached."""
    own = [each for each in inspect.signature(command).parameters.values() if each.name != "connection"]
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter(name, keyword, default=_DEFAULTS[name], annotation=kind) for name, kind in _OPTIONS.items()
    ]

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        from mistudio.runs.connection import connection

        asked = {name: given.pop(name) for name in _OPTIONS}
        command(**given, connection=functools.partial(connection, **asked))

    return with_parameters(wrapped, [*own, *added])


def runner_of(run_id: str, store: str, connection: "Callable[[], Connection]") -> "Runner":
    """The place of a run: Kubeflow's ids and those of this machine look different."""
    from mistudio.runs.kubeflow import ID

    return kubeflow(connection, store) if ID.fullmatch(run_id) else here(store)


def kubeflow(connection: "Callable[[], Connection]", store: str = "") -> "Runner":
    """Kubeflow, as the options and the environment lead to it."""
    from mistudio.runs import KubeflowRunner

    return KubeflowRunner(connection(), store)


def here(store: str) -> "Runner":
    """This machine."""
    from mistudio.runs import LocalRunner

    return LocalRunner(store)
