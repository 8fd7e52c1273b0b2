"""Dropping what writers that are gone left in a bucket: parts of uploads, and leases that nobody holds."""

import time
from collections.abc import Callable

from mistudio.artifacts.s3.lease import standing
from mistudio.artifacts.s3.requests import Requests

_SETTLED_S = 3600.0  # nothing is uploaded for longer without a lease


def drop_uploads(requests: Requests, below: str, doing: str) -> int:
    """Abort all uploads below a prefix whose lease is held by this process; say how many."""
    return _drop(requests, below, doing, lambda _key, _begun: True)


def drop_given_up(requests: Requests, below: str, lease_key: Callable[[str], str], doing: str) -> int:
    """Abort uploads that are not young and below no lease that is held; say how many."""
    now = time.time()

    def is_given_up(key: str, begun: float) -> bool:
        parts = key[len(below) :].split("/")
        above = ("/".join(parts[:end]) for end in range(1, len(parts)))
        return now - begun > _SETTLED_S and not any(_is_held(requests, lease_key(each), doing) for each in above)

    return _drop(requests, below, doing, is_given_up)


def _is_held(requests: Requests, key: str, doing: str) -> bool:
    there = standing(requests, key, doing)
    return there is not None and not there.is_over


def _drop(requests: Requests, below: str, doing: str, is_wanted: Callable[[str, float], bool]) -> int:
    """Abort uploads, a thousand with a listing, until none is shown that is wanted."""
    dropped: set[tuple[str, str]] = set()
    while True:
        shown = requests.uploads(below, doing)
        wanted = [each for each in shown if (each.key, each.id) not in dropped and is_wanted(each.key, each.begun)]
        for each in wanted:
            requests.abort_upload(each.key, each.id, doing)
            dropped.add((each.key, each.id))
        if not wanted:
            return len(dropped)
