"""A lease of a prefix: a small object that says who works there, written on conditions that one writer alone can meet.

It is taken by creating it, or by replacing one that is free or has expired as it was read (If-None-Match, If-Match).
Its holder writes it anew while it works. Whether it has expired is told by the clock of the server alone, or by its not
having changed for so long while somebody waited. A holder of this machine that is gone is seen at once (``writers``).

A lease can be lost by a process that stood still, or heard nothing of the server, for longer than it lasts. From then
on it writes nothing more below the prefix (:meth:`Held.check`), where another may be at work.
"""

import json
import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from mistudio.artifacts.s3.requests import Requests
from mistudio.errors import StorageError
from mistudio.progress import say

logger = logging.getLogger(__name__)

LASTS_S = 60.0
_RENEWALS = 4  # in the time that a lease lasts
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 2.0


class Standing(NamedTuple):
    """A lease as it is read."""

    holder: str  # "" where it is free
    lasts_s: float
    etag: str
    age_s: float

    @property
    def is_over(self) -> bool:
        """Whether another may take it."""
        return not self.holder or self.age_s > self.lasts_s


@contextmanager
def held(requests: Requests, key: str, prefix: str, holder: str, is_gone: Callable[[str], bool]) -> Iterator["Held"]:
    """Hold the lease at ``key`` for the time of the block; wait where another has it.

    Args:
        requests: of the bucket.
        key: of the lease.
        prefix: what is leased, for messages.
        holder: the name of this writer.
        is_gone: whether a writer of that name is known to have ended.

    Raises:
        StorageError: the bucket cannot be written.
    """
    etag = _taken(requests, key, prefix, holder, is_gone)
    ended = threading.Event()
    renewing = Held(requests.until(ended), key, prefix, holder, etag, ended)
    renewing.start()
    try:
        yield renewing
    finally:
        ended.set()
        renewing.join()
        renewing.release(requests)


def standing(requests: Requests, key: str, doing: str) -> Standing | None:
    """The lease at ``key``; None where there never was one. What nobody can have written counts as free."""
    there = requests.get(key, doing)
    if there is None:
        return None
    content, found = there
    try:
        said = json.loads(content)
        return Standing(str(said["holder"]), float(said["lasts_s"]), found.etag, found.age_s)
    except (ValueError, KeyError, TypeError, RecursionError):
        return Standing("", 0.0, found.etag, found.age_s)


def _taken(requests: Requests, key: str, prefix: str, holder: str, is_gone: Callable[[str], bool]) -> str:
    """Wait for the lease, and take it; its ETag."""
    doing = f"lock {prefix} in"
    wait_s, seen, seen_at, has_said = _FIRST_WAIT_S, "", 0.0, False
    etag = requests.put_if(key, _content(holder), {"If-None-Match": "*"}, doing)
    while etag is None:
        there = standing(requests, key, doing)
        if there is None:
            etag = requests.put_if(key, _content(holder), {"If-None-Match": "*"}, doing)
            continue
        now = time.monotonic()
        if there.etag != seen:
            seen, seen_at = there.etag, now
        if there.is_over or now - seen_at > there.lasts_s or is_gone(there.holder):
            etag = _replace(requests, key, there.etag, _content(holder), doing)
            wait_s = _FIRST_WAIT_S
            continue
        if not has_said:
            say(f"Another process is working on {prefix}: waiting for it.")
            has_said = True
        time.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 -- so that those who wait do not ask all at once
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
    return etag


def _replace(requests: Requests, key: str, etag: str, content: bytes, doing: str) -> str | None:
    """Write over what has this ETag, which some servers want with quotes and others without; None where it changed."""
    written = requests.put_if(key, content, {"If-Match": etag}, doing)
    return written or requests.put_if(key, content, {"If-Match": f'"{etag}"'}, doing)


def _content(holder: str) -> bytes:
    """What a lease says; never the same twice, so that each writing has an ETag of its own."""
    return json.dumps({"holder": holder, "lasts_s": LASTS_S, "written": uuid.uuid4().hex}).encode()


class Held(threading.Thread):
    """A lease that is held: written anew until it is to end, or is lost."""

    def __init__(
        self, requests: Requests, key: str, prefix: str, holder: str, etag: str, ended: threading.Event
    ) -> None:
        super().__init__(name=f"lease of {prefix}", daemon=True)
        self._requests, self._key, self._prefix = requests, key, prefix
        self._holder, self._ended = holder, ended
        self._etag: str | None = etag
        self._renewed_at = time.monotonic()
        self._process = os.getpid()
        self._renewing = threading.Lock()

    def run(self) -> None:
        """Renew it again and again."""
        while self._etag is not None and not self._ended.wait(LASTS_S / _RENEWALS):
            try:
                self._renew()
            except StorageError as error:
                logger.info("The lease of %s could not be renewed: %s", self._prefix, error)

    def check(self, doing: str) -> None:
        """Refuse what is about to be written where the lease was lost; one that may have expired is renewed first.

        Args:
            doing: what is about to be done, as "write x in".

        Raises:
            StorageError: it was lost, or the server cannot be asked.
        """
        if self._process != os.getpid():  # a child that was forked, whose parent renews it
            return
        if self._etag is not None and time.monotonic() - self._renewed_at > LASTS_S:
            self._renew()
        if self._etag is None:
            message = (
                f"Cannot {doing} the store {self._requests.place.url}: the lease of {self._prefix} was lost, because "
                "this process stood still or heard nothing of the server for too long, and another may be working on "
                "it. Run the same command again: what is there is gone on with."
            )
            raise StorageError(message)

    def _renew(self) -> None:
        with self._renewing:
            if self._etag is None:
                return
            asked_at = time.monotonic()
            etag = _replace(self._requests, self._key, self._etag, _content(self._holder), self._doing)
            if etag is None:  # or by a request of our own, whose answer never came
                there = standing(self._requests, self._key, self._doing)
                etag = there.etag if there is not None and there.holder == self._holder else None
            self._etag, self._renewed_at = etag, asked_at
        if etag is None:
            logger.warning(
                "The lease of %s was lost: this process stood still for too long, and another may be working on it. "
                "What is published first is kept.",
                self._prefix,
            )

    def release(self, requests: Requests) -> None:
        """Let others have it at once; where that fails, it expires."""
        if self._etag is None:
            return
        try:
            _replace(requests, self._key, self._etag, _content(""), self._doing)
        except StorageError as error:
            logger.info("The lease of %s is left to expire: %s", self._prefix, error)

    @property
    def _doing(self) -> str:
        return f"lock {self._prefix} in"
