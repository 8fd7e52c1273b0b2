"""What the URL of an S3 store and the environment say: which bucket, below which prefix, at which endpoint.

Nothing here imports the client: where a machine keeps its own files for a store is asked without opening one.
"""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from mistudio.artifacts.names import is_name
from mistudio.errors import ConfigError
from mistudio.plain_text import shortened

SCHEME = "s3"
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_AWS = "https://s3.amazonaws.com"
# What servers agree on; AWS allows fewer. Names with "_" or capitals cannot be part of a host name.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_IP_ADDRESS = re.compile(r"\d+(\.\d+){3}")


class Address(NamedTuple):
    """A bucket, and the folder in it that holds the store; "" is the whole bucket."""

    bucket: str
    prefix: str

    @property
    def url(self) -> str:
        """The one URL of the store."""
        return f"{SCHEME}://{self.bucket}/{self.prefix}".rstrip("/")

    def key(self, name: str) -> str:
        """The key of the object of that name."""
        return f"{self.prefix}/{name}" if self.prefix else name


class Endpoint(NamedTuple):
    """Where the server is."""

    host: str  # and its port, where it is not the usual one
    is_secure: bool

    @property
    def url(self) -> str:
        """Its address."""
        return f"{'https' if self.is_secure else 'http'}://{self.host}"


def is_s3(url: str) -> bool:
    """Whether the URL of a store names one in a bucket."""
    return url.partition(":")[0].lower() == SCHEME and ":" in url


def parse_address(url: str) -> Address:
    """The bucket and prefix that a URL names.

    Raises:
        ConfigError: it names none, or holds what belongs into the environment.
    """
    rest = url.partition(":")[2]
    bucket, _, prefix = rest.removeprefix("//").partition("/")
    prefix = prefix.strip("/")
    example = f"Write {SCHEME}://bucket or {SCHEME}://bucket/prefix."
    if "@" in bucket:  # the message does not repeat what stands there
        message = (
            f"The URL of the store holds a user or a key. {example} Keys are taken from the environment alone: "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
        raise ConfigError(message)
    if not rest.startswith("//") or not _BUCKET.fullmatch(bucket) or ".." in bucket or _IP_ADDRESS.fullmatch(bucket):
        message = (
            f"store {shortened(url)} names no bucket. {example} A bucket has 3 to 63 small letters, digits, '.' and "
            "'-'; the address of the server is taken from AWS_ENDPOINT_URL."
        )
        raise ConfigError(message)
    if prefix and not is_name(prefix):
        message = (
            f"store {shortened(url)} has the prefix {shortened(prefix)}, which no folder of a store can have. Use "
            "letters, digits, '.', '_' and '-' (not first '.' or '-'), with '/' between folders."
        )
        raise ConfigError(message)
    return Address(bucket, prefix)


def endpoint(environment: Mapping[str, str] | None = None) -> Endpoint:
    """The server that the environment names, else that of AWS.

    Raises:
        ConfigError: what the environment names is no address of a server.
    """
    environment = os.environ if environment is None else environment
    name = next((name for name in _ENDPOINTS if environment.get(name, "").strip()), None)
    url = environment[name].strip() if name else _AWS
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fits, parts = False, urlsplit("")
    if not fits or parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
        shown = "(it holds a user or a key)" if "@" in url else shortened(url)
        message = f"{name}={shown} is no address of an S3 server: write it like http://minio:9000 or https://host."
        raise ConfigError(message)
    return Endpoint(parts.netloc, parts.scheme == "https")


def region(environment: Mapping[str, str] | None = None) -> str | None:
    """The region that the environment names; None where it names none, and AWS is to be asked."""
    environment = os.environ if environment is None else environment
    given = next((environment[name] for name in ("AWS_REGION", "AWS_DEFAULT_REGION") if environment.get(name)), None)
    if given or any(environment.get(name, "").strip() for name in _ENDPOINTS):
        return given or "us-east-1"  # what other servers call theirs
    return None
