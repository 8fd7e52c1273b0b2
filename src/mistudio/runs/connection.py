"""How Kubeflow's API is reached: its address, the namespace of the runs, and the token of who asks.

What is not given comes from the environment. Where no address is named, a pod takes the service of its own cluster, and
any other machine the kubeconfig.
"""

import os
import shlex
import subprocess
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from mistudio.addresses import literal
from mistudio.errors import ConfigError, NotAllowed
from mistudio.plain_text import shortened
from mistudio.redaction import Secret

HOST_ENVS = ("MISTUDIO_KFP_HOST", "KF_PIPELINES_ENDPOINT")
DASHBOARD_ENVS = ("MISTUDIO_KFP_DASHBOARD", "KF_PIPELINES_UI_ENDPOINT")
NAMESPACE_ENV = "MISTUDIO_KFP_NAMESPACE"
TOKEN_ENV = "MISTUDIO_KFP_TOKEN"  # noqa: S105 -- a name
TOKEN_FILE_ENVS = ("MISTUDIO_KFP_TOKEN_FILE", "KF_PIPELINES_SA_TOKEN_PATH")
TOKEN_COMMAND_ENV = "MISTUDIO_KFP_TOKEN_COMMAND"  # noqa: S105 -- a name
CA_FILE_ENV = "MISTUDIO_KFP_CA_FILE"
CONTEXT_ENV = "MISTUDIO_KFP_CONTEXT"
# Where Kubeflow's profiles put the token of a pod's service account, made for the pipelines alone.
POD_TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")
_COMMAND_LIMIT_S = 60


class Connection(BaseModel):
    """Where Kubeflow's API is, and who asks."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    host: str = Field(default="", description="address of the API; empty: the pod's own cluster, else the kubeconfig")
    dashboard: str = Field(default="", description="address of the dashboard, for links; empty: the host")
    namespace: str = Field(default="", description="of the runs, where Kubeflow has several users; empty: it has one")
    token: Secret = Field(default_factory=Secret)
    token_file: Path | None = None
    token_command: str = Field(default="", description="prints a token; no shell reads it")
    ca_file: Path | None = Field(default=None, description="certificates to trust; None: those of public authorities")
    context: str = Field(default="", description="of the kubeconfig; empty: the current one")

    def tokens(self) -> "Tokens":
        """Where the token comes from, if there is one."""
        if self.token:
            return _Given(self.token)
        if self.token_file:
            return _FileTokens(self.token_file)
        if self.token_command:
            return _CommandTokens(self.token_command)
        is_own_cluster = not self.host or _is_inside(urlsplit(self.host).hostname or "")
        return _FileTokens(POD_TOKEN) if is_own_cluster and POD_TOKEN.exists() else _Given(Secret())


class Tokens(Protocol):
    """Gives the token to send."""

    def current(self) -> Secret:
        """The token; an empty one where none is sent.

        Raises:
            NotAllowed: None can be had.
        """
        ...

    def renew(self) -> bool:
        """Forget a token that was refused; whether there may be another."""
        ...


def connection(
    *,
    host: str = "",
    namespace: str = "",
    token_file: Path | None = None,
    token_command: str = "",
    ca_file: Path | None = None,
    context: str = "",
) -> Connection:
    """The connection that was asked for, completed from the environment.

    Raises:
        ConfigError: Two tokens are given, a file is not there, or a token would be sent for all to read.
    """
    if token_file and token_command:
        message = "--token-file and --token-command both give a token: leave one out."
        raise ConfigError(message)
    asked = token_file or token_command
    environment_file = _first(TOKEN_FILE_ENVS)
    environment_ca = os.environ.get(CA_FILE_ENV)
    made = Connection(
        host=_with_scheme(host or _first(HOST_ENVS)),
        dashboard=_with_scheme(_first(DASHBOARD_ENVS)),
        namespace=namespace or os.environ.get(NAMESPACE_ENV, ""),
        token=Secret("" if asked else os.environ.get(TOKEN_ENV, "")),
        token_file=token_file or (Path(environment_file) if environment_file and not asked else None),
        token_command=token_command or ("" if asked else os.environ.get(TOKEN_COMMAND_ENV, "")),
        ca_file=ca_file or (Path(environment_ca) if environment_ca else None),
        context=context or os.environ.get(CONTEXT_ENV, ""),
    )
    _check(made)
    return made


def _check(made: Connection) -> None:
    for name, path in (("--token-file", made.token_file), ("--ca-file", made.ca_file)):
        if path is not None and not path.is_file():
            message = f"{name} {shortened(str(path))} is no file."
            raise ConfigError(message)
    if made.host and not _is_address(made.host):
        shown = "that holds a user or a password" if "@" in made.host else shortened(made.host)
        message = f"host {shown} is no address: write it as https://kubeflow.example.org/pipeline."
        raise ConfigError(message)
    address = urlsplit(made.host)
    has_token = made.token or made.token_file or made.token_command
    if has_token and address.scheme == "http" and not _is_inside(address.hostname or ""):
        message = f"host {shortened(made.host)} has no TLS, and a token would be sent for all to read: use https."
        raise ConfigError(message)


def _is_address(host: str) -> bool:
    """Whether it is where an API can be: no more than a scheme, a host, a port and a path."""
    try:
        parts = urlsplit(host)
        is_there = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # of a port that is none, or half a pair of brackets
        return False
    return is_there and not (parts.query or parts.fragment or "@" in parts.netloc)


def _is_inside(host: str) -> bool:
    """Whether a name is of this machine or of a cluster's own network; an address may be anybody's."""
    address = literal(host)
    if address is not None:
        return address.is_loopback
    return "." not in host or host.endswith((".svc", ".svc.cluster.local"))


def _with_scheme(host: str) -> str:
    return (host if "://" in host else f"https://{host}").rstrip("/") if host else ""


def _first(names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := os.environ.get(name))), "")


class _Given:
    """A token that was given as it is."""

    def __init__(self, token: Secret) -> None:
        self._token = token

    def current(self) -> Secret:
        return _sendable(self._token, TOKEN_ENV)

    def renew(self) -> bool:
        return False


class _FileTokens:
    """A token in a file, which whoever writes it replaces before it expires; read for every request."""

    def __init__(self, path: Path) -> None:
        self._path, self._sent = path, ""

    def current(self) -> Secret:
        try:
            token = _printed_token(self._path.read_text(encoding="utf-8"), str(self._path))
        except (OSError, UnicodeDecodeError) as error:
            message = f"The token in {self._path} cannot be read: {type(error).__name__}."
            raise NotAllowed(message) from error
        self._sent = token.reveal()
        return token

    def renew(self) -> bool:
        sent = self._sent
        return self.current().reveal() != sent


class _CommandTokens:
    """A token that a command prints: run when one is first needed, and again when a server refuses it."""

    def __init__(self, command: str) -> None:
        try:
            self._arguments = shlex.split(command)
        except ValueError as error:
            message = f"The command for a token cannot be read: {error}."
            raise ConfigError(message) from error
        if not self._arguments:
            message = "The command for a token is empty."
            raise ConfigError(message)
        self._token: Secret | None = None

    def current(self) -> Secret:
        if self._token is None:
            self._token = _printed_token(self._printed(), self._arguments[0])
        return self._token

    def renew(self) -> bool:
        self._token = None
        return True

    def _printed(self) -> str:
        """What the command prints; nothing of that gets into a message, for any of it may be a secret."""
        program = self._arguments[0]
        try:
            done = subprocess.run(  # noqa: S603 -- the user's own command, and no shell
                self._arguments, stdin=subprocess.DEVNULL, capture_output=True, timeout=_COMMAND_LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            message = f"The command for a token, {program}, took more than {_COMMAND_LIMIT_S} s."
            raise NotAllowed(message) from error
        except OSError as error:
            message = f"The command for a token, {program}, cannot be run: {error.strerror}."
            raise NotAllowed(message) from error
        if done.returncode:
            message = f"The command for a token, {program}, ended with status {done.returncode}: run it to see why."
            raise NotAllowed(message)
        return done.stdout.decode("utf-8", errors="replace")


def _printed_token(text: str, source: str) -> Secret:
    token = _sendable(Secret(text), source)
    if not token:
        message = f"What {source} gives is empty: a token was expected."
        raise NotAllowed(message)
    return token


def _sendable(token: Secret, source: str) -> Secret:
    if not token.is_sendable:
        message = f"What {source} gives is no token: one word of printable ASCII was expected."
        raise NotAllowed(message)
    return token
