"""Whose requests they are: keys from the environment, by the names that AWS gives them.

Without keys, those of what a pod or a machine is given are asked for, by the minio client: web identity, a container's
or a host's role.
"""

import os
from collections.abc import Mapping

import urllib3
from minio.credentials.credentials import Credentials
from minio.credentials.providers import IamAwsProvider, Provider, StaticProvider
from urllib3.exceptions import HTTPError

from mistudio.errors import ConfigError

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_TOKEN = "AWS_SESSION_TOKEN"  # noqa: S105 -- the name of a variable
_ROLES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_HOST_WAIT_S = 3.0  # a machine without a role has nobody who would answer
_ROLE_WAIT_S = 20.0


def provider(region: str | None, environment: Mapping[str, str] | None = None) -> Provider:
    """Where the keys of each request come from; those of a role are taken anew before they expire.

    Raises:
        ConfigError: one of the two keys is missing.
    """
    environment = os.environ if environment is None else environment
    values = {
        name: environment.get(name, "").strip() for name in (*_KEYS, _TOKEN)
    }  # mounted secrets end in a line break
    given = [name for name in _KEYS if values[name]]
    if len(given) == 1:
        (missing,) = set(_KEYS) - set(given)
        message = f"{given[0]} is set and {missing} is not: set both, or neither where the machine has a role."
        raise ConfigError(message)
    if given:
        return StaticProvider(values[_KEYS[0]], values[_KEYS[1]], values[_TOKEN] or None)
    has_role = any(environment.get(name) for name in _ROLES)
    wait_s = _ROLE_WAIT_S if has_role else _HOST_WAIT_S
    http = urllib3.PoolManager(timeout=wait_s, retries=False)
    sts = environment.get("AWS_ENDPOINT_URL_STS") if environment.get("AWS_WEB_IDENTITY_TOKEN_FILE") else None
    return _Role(IamAwsProvider(custom_endpoint=sts, http_client=http, region=region), has_role)


class NoKeys(Exception):  # noqa: N818 -- what it says
    """There are no keys, or those of a role could not be had.

    Attributes:
        may_pass: whether to try again: a role is named, and who gives its keys does not answer.
    """

    def __init__(self, message: str, *, may_pass: bool) -> None:
        super().__init__(message)
        self.may_pass = may_pass


class _Role(Provider):  # type: ignore[misc,unused-ignore]
    """Keys of a role, or the word that there are none."""

    def __init__(self, inner: IamAwsProvider, has_role: bool) -> None:
        self._inner, self._has_role = inner, has_role

    def retrieve(self) -> Credentials:
        """The keys; taken anew before they expire."""
        try:
            return self._inner.retrieve()
        except (HTTPError, OSError, ValueError, LookupError, SyntaxError) as error:  # the last of XML
            if not self._has_role:
                message = (
                    f"there are no keys. Set {_KEYS[0]} and {_KEYS[1]}, or run where the machine or pod has a role"
                )
                raise NoKeys(message, may_pass=False) from error
            message = "the keys of the role cannot be had. Check the role, its token and AWS_ENDPOINT_URL_STS"
            raise NoKeys(message, may_pass=isinstance(error, HTTPError)) from error
