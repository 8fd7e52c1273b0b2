"""Whose requests they are: keys from the environment, by the names that AWS gives them.

The chain is that of the minio client: keys, then what a pod or a machine is given (web identity, a container's or a
host's role).
"""

import os
from collections.abc import Mapping

import urllib3
from minio.credentials.providers import ChainedProvider, IamAwsProvider, Provider, StaticProvider

from mistudio.errors import ConfigError

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_TOKEN = "AWS_SESSION_TOKEN"  # noqa: S105 -- the name of a variable
_ROLES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_WAIT_S = 3.0  # a machine without a role has nobody who would answer
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
    wait_s = _ROLE_WAIT_S if has_role else _WAIT_S
    http = urllib3.PoolManager(timeout=wait_s, retries=urllib3.Retry(total=2 if has_role else 0, backoff_factor=0.2))
    sts = environment.get("AWS_ENDPOINT_URL_STS") if environment.get("AWS_WEB_IDENTITY_TOKEN_FILE") else None
    return ChainedProvider([IamAwsProvider(custom_endpoint=sts, http_client=http, region=region)])
