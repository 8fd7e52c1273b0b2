"""Signatures of manifests: who has the key can tell that a manifest is the one that was published.

A digest says that bytes belong together, and whoever can write the store can write digests. A signature (HMAC-SHA256,
by a key shared by those who publish and those who check) is over the prefix and the whole manifest, so that a signed
manifest serves under no other name. It lies beside the manifest: digests and recipes do not depend on it, and a store
may be signed later.
"""

import hashlib
import hmac
from typing import Literal

from mistudio.artifacts.manifest import SIGNATURE_NAME
from mistudio.artifacts.store import Store
from mistudio.errors import ConfigError, NotFound
from mistudio.redaction import Secret

SIGNING_KEY_ENV = "MISTUDIO_SIGNING_KEY"
_MIN_KEY_CHARS = 16
_SCHEME = "hmac-sha256"

Signed = Literal["right", "wrong", "missing"]


class SigningKey:
    """The key of this process, which signs and checks."""

    def __init__(self, secret: Secret) -> None:
        self._secret = secret

    def sign(self, store: Store, uri: str, manifest: bytes) -> None:
        """Put the signature beside a manifest, in place of another.

        Raises:
            StorageError: the store cannot be written.
        """
        with store.put(f"{uri}/{SIGNATURE_NAME}") as staged, staged.open() as file:
            file.write(self.signature(uri, manifest))

    def finds(self, store: Store, uri: str, manifest: bytes) -> Signed:
        """Whether the signature of a manifest is there, and is that of this key."""
        try:
            found = store.read(f"{uri}/{SIGNATURE_NAME}")
        except NotFound:
            return "missing"
        return "right" if hmac.compare_digest(found, self.signature(uri, manifest)) else "wrong"

    def signature(self, uri: str, manifest: bytes) -> bytes:
        """The signature of what stands under a name, as a line."""
        content = b"mistudio manifest\n" + uri.encode() + b"\n" + manifest
        signature = hmac.new(self._secret.reveal().encode(), content, hashlib.sha256).hexdigest()
        return f"{_SCHEME} {signature}\n".encode()


def signing_key() -> SigningKey | None:
    """The key that ``MISTUDIO_SIGNING_KEY`` holds; None where it holds none.

    Raises:
        ConfigError: it is too short to be one.
    """
    secret = Secret.from_environment([SIGNING_KEY_ENV])
    if not secret:
        return None
    if len(secret.reveal()) < _MIN_KEY_CHARS:
        message = (
            f"{SIGNING_KEY_ENV} holds fewer than {_MIN_KEY_CHARS} characters. Make a key that nobody guesses, for "
            "example with openssl rand -hex 32."
        )
        raise ConfigError(message)
    return SigningKey(secret)
