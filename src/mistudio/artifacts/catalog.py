"""The catalogue of a store: its artifacts by kind, age, digest, and by what was made from what.

Every question begins with a listing of the store, so that what other processes publish or remove is seen at once;
manifests are read when they are new.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice
from typing import Self

from mistudio.artifacts.artifact import Artifact, open_artifact
from mistudio.artifacts.graph import Graph, ancestry
from mistudio.artifacts.index import INDEX_NAME, Entry, Index
from mistudio.artifacts.kinds import qualified_kind, schema_version
from mistudio.artifacts.line import LINE_STARTS, Line
from mistudio.artifacts.manifest import MANIFEST_NAME, Manifest
from mistudio.artifacts.record import ACTIONS
from mistudio.artifacts.refs import REFS, RUNS
from mistudio.artifacts.scratch import scratch_folder
from mistudio.artifacts.store import Store
from mistudio.errors import DamagedArtifact, InputError, NotFound, StorageError
from mistudio.plain_text import shortened

logger = logging.getLogger(__name__)

_READERS = 8
_FEWEST_DIGITS = 6

Where = Callable[[Entry], bool]


class Catalog:
    """What a store holds. May be asked from several threads.

    Close it, or use it in ``with``, where there are many.

    Args:
        store: the store; it is not written to.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.RLock()  # what is asked for may ask again
        self._index = self._open_index()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file of the index; a catalogue that is closed can be asked nothing."""
        with self._lock:
            self._index.close()

    def entries(self, kind: str | None = None) -> list[Entry]:
        """All artifacts, or those of one kind, by prefix; those with a damaged manifest say so."""
        found = self._ask(lambda index: index.entries())
        return [entry for entry in found if kind is None or entry.short_kind == kind]

    def newest(self, *kinds: str, where: Where | None = None, limit: int | None = None) -> list[Entry]:
        """Those of some kinds, in the versions that this library reads, newest first; at most ``limit`` of them."""
        return self._ask(lambda index: islice(filter(where, index.newest(map(_readable, kinds))), limit))

    def latest(self, kind: str, where: Where | None = None) -> Artifact:
        """The newest artifact of a kind, or the newest of those that ``where`` is true of.

        Raises:
            NotFound: there is none.
            DamagedArtifact: it was damaged since its manifest was last read.
        """
        return self._first(lambda: self.newest(kind, where=where, limit=1), f"of kind {_readable(kind)}")

    def by_digest(self, digits: str) -> Artifact:
        """The artifact of a digest, of which the first six digits or more may be given.

        Raises:
            InputError: these are too few digits, or there are several that begin with them.
            NotFound: there is none.
        """
        if len(digits) < _FEWEST_DIGITS or not set(digits) <= set("0123456789abcdef"):
            message = f"{shortened(digits)} is no digest: give {_FEWEST_DIGITS} of its hexadecimal digits or more."
            raise InputError(message)
        return self._first(lambda: self._with_digest(digits), f"with digest {digits}")

    def _with_digest(self, digits: str) -> list[Entry]:
        found = self._ask(lambda index: index.with_digest(digits))
        if len({entry.digest for entry in found}) > 1:
            uris = ", ".join(entry.uri for entry in found)
            message = f"Several digests begin with {digits}: {uris}. Give more digits."
            raise InputError(message)
        return found

    def parents(self, artifact: Artifact) -> dict[str, Artifact]:
        """What an artifact was made from, by role; what lies outside the store, is gone or damaged is left out."""
        nodes = dict(self.graph(artifact).inputs(f"{artifact.uri}@{artifact.digest}"))
        return {role: node.artifact for role, node in nodes.items() if node.artifact is not None}

    def children(self, artifact: Artifact, kind: str | None = None) -> list[Entry]:
        """What was made from this very artifact, or what of one kind was, by prefix."""
        found = self._ask(lambda index: index.with_input(digest=artifact.digest))
        return [entry for entry in found if kind is None or entry.short_kind == kind]

    def newest_from(self, artifact: Artifact, kind: str, where: Where | None = None) -> Artifact | None:
        """The newest of a kind that was made from this very artifact, and of which ``where`` is true; or None."""

        def fits(entry: Entry) -> bool:
            of = entry.inputs.get(artifact.manifest.short_kind)
            return of is not None and of.digest == artifact.digest and (where is None or where(entry))

        newest = self.newest(kind, where=fits, limit=1)
        return open_artifact(self.store, newest[0].uri, kind) if newest else None

    def dependents(self, uri: str) -> list[str]:
        """Prefixes of the artifacts that name the prefix ``uri`` as an input, whatever was there then.

        Those with a damaged manifest cannot tell.
        """
        return [entry.uri for entry in self._ask(lambda index: index.with_input(uri=uri))]

    def graph(self, *artifacts: Artifact) -> Graph:
        """Some artifacts and everything that they were made from."""
        return ancestry(self.store, {artifact.uri: artifact for artifact in artifacts})

    def line(self, artifact: Artifact) -> Line:
        """The line that an artifact stands on, from there back to text and model."""
        return Line(self.store, artifact)

    def newest_line(self) -> Line:
        """The line that was worked on last: that of the newest scores, explanations, features or autoencoder.

        Raises:
            NotFound: there is none.
        """
        return self.line(self._first(self._newest_starts, "that a line starts with"))

    def _newest_starts(self) -> list[Entry]:
        """Where the newest line can start; of what was made in the same second, what was made from the other."""
        newest = self._ask(
            lambda index: chain.from_iterable(islice(index.newest([_readable(kind)]), 1) for kind in LINE_STARTS)
        )
        return sorted(newest, key=lambda entry: entry.created_at, reverse=True)

    def _first(self, ask: Callable[[], list[Entry]], what: str) -> Artifact:
        """The first artifact of an answer; asked again where it was removed since."""
        while found := ask():
            with suppress(NotFound):
                return open_artifact(self.store, found[0].uri)
        message = f"There is no artifact {what} in the store {self.store.url}. See mistudio artifacts list."
        raise NotFound(message)

    def _ask(self, question: Callable[[Index], Iterable[Entry]]) -> list[Entry]:
        """Bring the index up to date, and ask it; where its file fails, an index in memory takes its place."""
        with self._lock:
            try:
                self._refresh()
                return list(question(self._index))
            except (sqlite3.Error, ValueError) as error:  # another's content in the file
                logger.info("The index of %s cannot be used (%s): reading the store anew", self.store.url, error)
                self._index.close()
                self._index = Index(None)
                self._refresh()
                return list(question(self._index))

    def _refresh(self) -> None:
        known = self._index.versions()
        there = {
            file.name.removesuffix(f"/{MANIFEST_NAME}"): file.version
            for file in self.store.outermost(MANIFEST_NAME, skip=(ACTIONS, REFS, RUNS))
        }
        gone = [uri for uri in known if uri not in there]
        new = [uri for uri, version in there.items() if known.get(uri) != version]
        if gone or new:
            with ThreadPoolExecutor(_READERS) as pool:
                entries = zip(new, pool.map(self._read, new), strict=True)
                read = {uri: (there[uri], entry) for uri, entry in entries if entry is not None}
            self._index.update(gone, read)

    def _read(self, uri: str) -> Entry | None:
        """What the manifest of an artifact says; None if it was removed since it was listed."""
        name = f"{uri}/{MANIFEST_NAME}"
        try:
            return Entry.of(uri, Manifest.from_json(self.store.read(name), name))
        except (DamagedArtifact, StorageError) as error:
            return Entry.damaged(uri, str(error))
        except NotFound:
            return None

    def _open_index(self) -> Index:
        path = scratch_folder(self.store) / INDEX_NAME
        try:
            try:
                return Index(path)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):  # such as a full disk
                    raise
                path.unlink()  # it is no index, and can be made anew
                return Index(path)
        except (sqlite3.Error, OSError) as error:
            logger.info("No index of %s can be kept (%s)", self.store.url, error)
            return Index(None)


def _readable(kind: str) -> str:
    return qualified_kind(kind, schema_version(kind))
