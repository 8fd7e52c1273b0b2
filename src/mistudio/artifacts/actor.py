"""Who acts: what is put on record of whoever runs a process."""

import base64
import getpass
import os
import re
import socket
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mistudio.guarded_json import RefusedJSON, parse_json
from mistudio.plain_text import without_surrogates

ACTOR_ENV = "MISTUDIO_ACTOR"
_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_MAX_TOKEN_BYTES = 65_536
_ACCOUNT = re.compile(r"system:serviceaccount:[a-z0-9-]{1,63}:[a-z0-9.-]{1,253}")
_MOST_CHARS = 200


class Actor(NamedTuple):
    """Who acts, as far as that is known.

    Attributes:
        user: who it is done for: ``MISTUDIO_ACTOR``, which a submission sets, else the user of the machine.
        account: the service account that it is done with, in a cluster.
        key: name of the key that a request to a server came with.
        host: the machine or pod.
    """

    user: str | None = None
    account: str | None = None
    key: str | None = None
    host: str | None = None


def this_actor() -> Actor:
    """Whoever runs this process. The names are taken on trust: whoever can write the store can say any."""
    user = os.environ.get(ACTOR_ENV, "").strip() or _user()
    shown = without_surrogates(user)[:_MOST_CHARS] if user else None
    return Actor(shown, _account(_TOKEN), None, socket.gethostname()[:_MOST_CHARS])


def _user() -> str | None:
    """The user of the machine; in a container there may be none but a number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


@cache
def _account(token: Path) -> str | None:
    """The service account that a pod's token says that it is of; the token itself goes nowhere."""
    try:
        with token.open("rb") as file:
            payload = file.read(_MAX_TOKEN_BYTES).split(b".")[1]
        claims = parse_json(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)).decode())
    except (OSError, IndexError, ValueError, RefusedJSON):
        return None
    subject = claims.get("sub") if isinstance(claims, dict) else None
    return subject if isinstance(subject, str) and _ACCOUNT.fullmatch(subject) else None
