"""Bearer keys: who may ask. Each has a name, which logs and limits know it by; the secret itself is not kept.

A file has a line ``name:secret`` for each key; empty lines and those that begin with ``#`` say nothing. The variable
MISTUDIO_API_KEYS may hold such lines too, with line ends or commas between them.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mistudio.errors import ConfigError
from model_servers.base.settings import ServerSettings, is_loopback

ENVIRONMENT = "MISTUDIO_API_KEYS"
NOBODY = "none"  # stands for the name where no key is asked for
MIN_CHARACTERS = 16
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Keys:
    """Names of keys, each with the digest of its secret; empty: no key is asked for."""

    digests: tuple[tuple[str, bytes], ...] = ()

    def __bool__(self) -> bool:
        """Whether a key is asked for."""
        return bool(self.digests)

    def name_of(self, secret: str) -> str | None:
        """The name of the key, or None where there is no such key; what is alike takes no longer to refuse."""
        given = _digest(secret)
        found: str | None = None
        for name, digest in self.digests:
            if hmac.compare_digest(given, digest):
                found = name
        return found

    @property
    def names(self) -> frozenset[str]:
        """Of all keys."""
        return frozenset(name for name, _ in self.digests)

    def named_by(self, authorization: str) -> str | None:
        """The name of the key in an ``Authorization`` header, or None.

        ``Bearer KEY``; or ``Basic``, whose password is the key and whose user is its name or nothing: that is what
        programs send that can be told an address alone, such as ``http://name:$KEY@host``.
        """
        scheme, _, sent = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return self.name_of(sent.strip())
        if scheme.lower() != "basic":
            return None
        user, secret = _user_and_secret(sent.strip())
        name = self.name_of(secret)
        return name if user in ("", name) else None


def read_keys(settings: ServerSettings, environment: Mapping[str, str] = os.environ) -> Keys:
    """The keys in the file and in the environment.

    Raises:
        ConfigError: a line is no key, a name or a secret is there twice, or the server would listen beyond this machine
            without any.
    """
    lines = [*_lines_of(settings.keys_file), *environment.get(ENVIRONMENT, "").replace(",", "\n").splitlines()]
    keys = Keys(tuple(_parsed(lines)))
    if not keys and not is_loopback(settings.host) and not settings.allow_no_keys:
        message = (
            f"Whoever reaches {settings.host} could use this server, for no key is asked for: give keys by --keys-file "
            f"or {ENVIRONMENT} (lines of name:secret), listen at 127.0.0.1, or say --allow-no-keys."
        )
        raise ConfigError(message)
    return keys


def _lines_of(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            message = f"--keys-file {path} has more than {_MAX_FILE_BYTES:,} bytes: it is no file of keys."
            raise ConfigError(message)
        return content.decode().splitlines()
    except (OSError, ValueError) as error:
        message = f"--keys-file {path} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}."
        raise ConfigError(message) from error


def _parsed(lines: Iterable[str]) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for number, line in enumerate((line.strip() for line in lines), start=1):
        if not line or line.startswith("#"):
            continue
        name, colon, secret = (part.strip() for part in line.partition(":"))
        if not colon or not _NAME.fullmatch(name) or name == NOBODY:
            message = f"Line {number} of the keys is no name:secret; a name has letters, digits and _.- only."
            raise ConfigError(message)
        if len(secret) < MIN_CHARACTERS or not secret.isascii() or not secret.isprintable() or " " in secret:
            message = f"The secret of key {name} has to be one word of {MIN_CHARACTERS} or more ASCII characters."
            raise ConfigError(message)
        digest = _digest(secret)
        if any(name == other or digest == known for other, known in found):
            message = f"Key {name} is there twice, by its name or its secret: leave one of them out."
            raise ConfigError(message)
        found.append((name, digest))
    return found


def _user_and_secret(sent: str) -> tuple[str, str]:
    try:
        user, _, secret = base64.b64decode(sent, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return user, secret


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
