"""Requests to one bucket: signed and sent by the minio client, tried again where that may help.

The client's own methods are used where they do what is needed. Conditional writes and single steps of a multipart
upload have none, so those go through the method that all of them use (``_execute``); hence the upper bound of its
version. Every request that failed for a while is repeated by itself: one lost part is one part sent again.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import NamedTuple, TypeVar

import certifi
import urllib3
from minio import Minio
from minio.datatypes import Object, Part
from minio.error import MinioException
from tenacity import (
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_any,
    stop_before_delay,
    stop_when_event_set,
    wait_exponential,
    wait_random,
)
from urllib3.exceptions import HTTPError, ProtocolError

from mistudio.artifacts.s3.address import Address, Endpoint
from mistudio.artifacts.s3.credentials import NoKeys, provider
from mistudio.artifacts.s3.limits import Limits
from mistudio.artifacts.s3.trouble import Place, Replaced, is_condition, is_missing, is_transient, told
from mistudio.errors import ConfigError, StorageError
from mistudio.plain_text import shortened

SHA256 = "x-amz-meta-sha256"
_ResultT = TypeVar("_ResultT")
_LISTED_AT_ONCE = 1000  # as S3 has it
_PARTIAL = 206  # the status of an answer that is a part


class Found(NamedTuple):
    """An object as the server describes it."""

    num_bytes: int
    etag: str
    sha256: str | None
    age_s: float  # since it was written, by the clock of the server


class Listed(NamedTuple):
    """An object, or a folder, in a listing."""

    key: str  # of a folder with "/" at its end
    num_bytes: int
    etag: str
    modified: float = 0.0  # seconds since the epoch, by the clock of the server


class Upload(NamedTuple):
    """A multipart upload that was begun."""

    key: str
    id: str
    begun: float  # seconds since the epoch, by the clock of the server


class Requests:
    """What is asked of a bucket, by key.

    Raises:
        ConfigError: the environment holds half a pair of keys, or names no file of certificates.
    """

    def __init__(self, address: Address, endpoint: Endpoint, region: str | None, limits: Limits) -> None:
        self.place = Place(address.url, endpoint.url)
        self.limits = limits
        self._bucket = address.bucket
        self._has_answered = False
        self._given_up = threading.Event()
        http = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=limits.connect_s, read=limits.read_s),
            maxsize=2 * limits.threads + 2,
            cert_reqs="CERT_REQUIRED",
            ca_certs=_trusted(),
            retries=False,
        )
        keys = provider(region)
        self._minio = Minio(endpoint.host, secure=endpoint.is_secure, region=region, credentials=keys, http_client=http)

    def until(self, given_up: threading.Event) -> "Requests":
        """The same, whose tries end when an event is set: for threads that somebody waits for."""
        other = object.__new__(Requests)
        other.__dict__.update(self.__dict__, _given_up=given_up)
        return other

    def find(self, key: str, doing: str) -> Found | None:
        """What is known of an object; None where there is none."""
        try:
            response = self._ask(doing, lambda: self._execute("HEAD", key))
        except _Missing:
            return None
        return _found(response.headers)

    def get(self, key: str, doing: str) -> tuple[bytes, Found] | None:
        """A whole small object; None where there is none."""

        def read() -> tuple[bytes, Found]:
            with self._open(key, None) as response:
                return response.read(), _found(response.headers)

        try:
            return self._ask(doing, read)
        except _Missing:
            return None

    def receive(
        self, key: str, start: int, length: int, etag: str, take: Callable[[int, bytes], None], doing: str
    ) -> None:
        """Read a range in blocks, each given to ``take`` with its place; a broken connection is gone on with.

        Raises:
            Replaced: the object was written anew since, or removed.
            OSError: ``take`` raised it.
        """
        done = 0

        def read() -> None:
            nonlocal done
            with self._open(key, (start + done, length - done)) as response:
                if _etag(response.headers) != etag:
                    raise Replaced
                if start + done and response.status != _PARTIAL:
                    raise StorageError(self._ignores_ranges(doing))
                while done < length:
                    block = response.read(min(self.limits.block_bytes, length - done))
                    if not block:
                        message = "the answer ended before all of it was there"
                        raise ProtocolError(message)
                    try:
                        take(start + done, block)
                    except OSError as error:  # of what it is written to, not of the connection
                        raise _NotTaken(error) from error
                    done += len(block)

        if not length:
            return
        try:
            self._ask(doing, read)
        except _Missing as error:
            raise Replaced from error
        except _NotTaken as error:
            raise error.of from error

    def _ignores_ranges(self, doing: str) -> str:
        return (
            f"Cannot {doing} the store {self.place.url} at {self.place.endpoint}: a part was asked for, and the whole "
            "came. The server, or a proxy before it, ignores ranges: use one that does not."
        )

    def put(self, key: str, data: bytes, doing: str, sha256: str | None = None) -> str:
        """Write an object, whatever was there; its ETag."""
        headers = {} if sha256 is None else {SHA256: sha256}
        return _etag(self._ask(doing, lambda: self._execute("PUT", key, data, headers)).headers)

    def put_if(self, key: str, data: bytes, condition: Mapping[str, str], doing: str) -> str | None:
        """Write a small object if a condition holds; its ETag, or None where it does not.

        A request that broke off may have been done. So where the condition does not hold at a later try, what is there
        counts as written by this one if it has the same bytes. A condition on an object that is gone does not hold.
        """
        tries = 0

        def write() -> str:
            nonlocal tries
            tries += 1
            return _etag(self._execute("PUT", key, data, condition).headers)

        try:
            return self._ask(doing, write)
        except _Missing:  # as AWS answers If-Match where nothing is
            return None
        except _Refused:
            there = self.get(key, doing) if tries > 1 else None
            return there[1].etag if there is not None and there[0] == data else None

    def remove(self, key: str, doing: str) -> None:
        """Remove an object; one that is not there is no error."""
        try:
            self._ask(doing, lambda: self._minio.remove_object(self._bucket, key))
        except _Missing:
            return

    def has_any(self, prefix: str, doing: str) -> bool:
        """Whether there is an object whose key begins with ``prefix``."""
        first = self._ask(doing, lambda: next(iter(self._minio.list_objects(self._bucket, prefix)), None))
        return first is not None

    def objects(self, prefix: str, doing: str, after: str = "") -> Iterator[Listed]:
        """The objects whose key begins with ``prefix`` and lies behind ``after``, by key."""
        for each in self._listed(prefix, doing, after, deep=True):
            modified = each.last_modified.timestamp() if each.last_modified else 0.0
            yield Listed(each.object_name or "", each.size or 0, each.etag or "", modified)

    def folders(self, prefix: str, doing: str) -> Iterator[str]:
        """The beginnings up to the next "/" of keys that begin with ``prefix``, each once, by key; "/" at their end."""
        last = ""
        for each in self._listed(prefix, doing, "", deep=False):
            if each.is_dir and each.object_name and each.object_name > last:
                last = each.object_name
                yield last

    def _listed(self, prefix: str, doing: str, after: str, *, deep: bool) -> Iterator[Object]:
        """A listing, page by page; one that breaks off is gone on with where it was."""
        pages: Iterator[Object] | None = None

        def more() -> list[Object]:
            nonlocal pages
            if pages is None:
                start = after or None
                pages = iter(self._minio.list_objects(self._bucket, prefix, recursive=deep, start_after=start))
            try:
                return list(islice(pages, _LISTED_AT_ONCE))
            except BaseException:
                pages = None
                raise

        while some := self._ask(doing, more):
            yield from some
            after = max(each.object_name or "" for each in some) if deep else after

    def begin_upload(self, key: str, sha256: str, doing: str) -> str:
        """Begin a multipart upload; its id."""
        return self._ask(doing, lambda: self._minio._create_multipart_upload(self._bucket, key, {SHA256: sha256}))

    def upload_part(self, key: str, upload: str, number: int, data: bytes, doing: str) -> Part:
        """Send one part, counted from 1."""
        return Part(
            number, self._ask(doing, lambda: self._minio._upload_part(self._bucket, key, data, None, upload, number))
        )

    def complete_upload(self, key: str, upload: str, parts: list[Part], sha256: str, doing: str) -> str:
        """Let the object appear that the parts make up; its ETag."""
        try:
            done = self._ask(doing, lambda: self._minio._complete_multipart_upload(self._bucket, key, upload, parts))
        except _Missing as error:  # done by a try whose answer was lost, or ended by somebody else
            there = self.find(key, doing)
            if there is not None and there.sha256 == sha256:
                return there.etag
            raise told(error.of, doing, self.place) from error
        return _plain(done.etag or "")

    def abort_upload(self, key: str, upload: str, doing: str) -> None:
        """Drop the parts of an upload; one that is not there is no error."""
        try:
            self._ask(doing, lambda: self._minio._abort_multipart_upload(self._bucket, key, upload))
        except _Missing:
            return

    def uploads(self, prefix: str, doing: str) -> list[Upload]:
        """Multipart uploads that were begun for keys that begin with ``prefix``: at most a thousand."""
        found = self._ask(doing, lambda: self._minio._list_multipart_uploads(self._bucket, prefix=prefix)).uploads
        return [
            Upload(
                each.object_name, each.upload_id or "", each.initiated_time.timestamp() if each.initiated_time else 0.0
            )
            for each in found
        ]

    def _execute(
        self, method: str, key: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> urllib3.BaseHTTPResponse:
        return self._minio._execute(method, self._bucket, key, body=body, headers=dict(headers or {}))

    @contextmanager
    def _open(self, key: str, part: tuple[int, int] | None) -> Iterator[urllib3.BaseHTTPResponse]:
        """An answer to be read; its connection is used again if all of it was."""
        offset, length = part or (0, 0)
        response = self._minio.get_object(self._bucket, key, offset, length)
        try:
            yield response
            response.drain_conn()
        except BaseException:
            response.close()
            raise
        finally:
            response.release_conn()

    def _ask(self, doing: str, request: Callable[[], _ResultT]) -> _ResultT:
        """Make a request, again after a pause where it failed in a way that passes.

        Raises:
            _Missing: the server says that there is no such object.
            _Refused: the condition of a write does not hold.
            StorageError: all else, with what to do.
            ConfigError: no request could be made with what the environment holds.
        """
        started = time.monotonic()
        try:
            result = self._tries()(request)
        except Replaced:
            raise
        except (MinioException, HTTPError, OSError, ValueError, SyntaxError, NoKeys) as error:  # SyntaxError: of XML
            if is_missing(error):
                raise _Missing(error, str(told(error, doing, self.place))) from error
            if is_condition(error):
                raise _Refused from error
            raise told(error, doing, self.place, time.monotonic() - started) from error
        self._has_answered = True
        return result

    def _tries(self) -> Retrying:
        limits = self.limits
        patience_s = limits.patience_s if self._has_answered else limits.opening_s
        return Retrying(
            retry=retry_if_exception(lambda error: is_transient(error, has_answered=self._has_answered)),
            wait=wait_exponential(limits.first_wait_s, limits.longest_wait_s) + wait_random(0, limits.first_wait_s),
            stop=stop_any(stop_before_delay(patience_s), stop_when_event_set(self._given_up)),
            sleep=sleep_using_event(self._given_up),
            reraise=True,
        )


class _Missing(StorageError):
    """There is no such object, or no such upload any more; an error for the user where none was expected."""

    def __init__(self, of: Exception, message: str) -> None:
        super().__init__(message)
        self.of = of


class _NotTaken(Exception):
    """What was read could not be written where it was wanted."""

    def __init__(self, of: OSError) -> None:
        super().__init__()
        self.of = of


class _Refused(Exception):
    """The condition of a write does not hold."""


def _trusted() -> str:
    """The file of the certificates that are trusted.

    Raises:
        ConfigError: AWS_CA_BUNDLE names no file.
    """
    given = os.environ.get("AWS_CA_BUNDLE", "")
    if given and not os.path.isfile(given):
        message = f"AWS_CA_BUNDLE={shortened(given)} is no file: name the file with the certificates, or unset it."
        raise ConfigError(message)
    return given or os.environ.get("SSL_CERT_FILE") or certifi.where()


def _found(headers: Mapping[str, str]) -> Found:
    return Found(int(headers.get("content-length", "0")), _etag(headers), headers.get(SHA256), _age_s(headers))


def _etag(headers: Mapping[str, str]) -> str:
    return _plain(headers.get("etag", ""))


def _plain(etag: str) -> str:
    """An ETag as servers take it in a condition: all without the quotes, some with them."""
    return etag.replace('"', "")


def _age_s(headers: Mapping[str, str]) -> float:
    """Seconds between two times of the same clock, that of the server; 0 where it does not say."""
    try:
        now, written = (parsedate_to_datetime(headers[name]) for name in ("date", "last-modified"))
        return (now - written).total_seconds()
    except (KeyError, ValueError, TypeError):
        return 0.0
