"""The record of who did what to a store: what was published, removed, named, signed, put to use.

``actions/<block>/<number>`` is a small file that is written once, a line as ``chain`` has them: who, what, when, to
which artifact, and the hash of the record before it. Writers on any number of machines go on with one chain, since of
all that want a number one gets it; a block is a thousand numbers, so that no listing grows without end. With a key in
``MISTUDIO_SIGNING_KEY`` a second line signs the first.

Recorded is what commands and steps do, by whoever starts them: figures, curves and settings are MLflow's and the
manifests'. What somebody does to the store by other means shows in no record, but to ``mistudio artifacts verify``.
"""

import datetime
import hmac
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from time import sleep
from typing import Any, NamedTuple

from mistudio.artifacts.actor import Actor, this_actor
from mistudio.artifacts.chain import FIRST_HASH, HASH, BadLine, Link, chained, read_line, sealed
from mistudio.artifacts.manifest import JsonScalar
from mistudio.artifacts.signing import SigningKey, signing_key
from mistudio.artifacts.store import Store
from mistudio.errors import ConfigError, DamagedArtifact, InputError, StorageError
from mistudio.plain_text import shortened, without_surrogates
from mistudio.redaction import redact
from mistudio.version import __version__

ACTIONS = "actions"
ACTION = "action"  # what every line says that it records
_DIGITS, _BLOCK_DIGITS = 10, 7
_BLOCK = 1000
_DAY_CHARS = 10
_MOST_CHARS = 500  # of a text that is recorded
_TRIES = 7  # of writing one number


class Action(NamedTuple):
    """One thing that was done.

    Attributes:
        name: of its file in the store.
        record: what it says: action, target, digest, actor, time, detail, number, version.
        hash: of its line.
    """

    name: str
    record: dict[str, Any]
    hash: str


class ActionsVerdict(NamedTuple):
    """Whether a record is what was written.

    Attributes:
        problems: what is not; empty where all is well.
        actions: how many were read and are as they were written, one behind the other.
        head: hash of the last of these: noted elsewhere, it shows later whether records were taken off the end.
        unsigned: how many of them have no signature; None where this process has no key to look with.
    """

    problems: tuple[str, ...]
    actions: int
    head: str
    unsigned: int | None


def record_action(
    store: Store,
    action: str,
    target: str,
    digest: str | None = None,
    *,
    actor: Actor | None = None,
    **detail: JsonScalar,
) -> Action:
    """Put on record that something was done.

    Args:
        store: that it was done to.
        action: one word, such as publish, remove, deploy or promote.
        target: what it was done to: the prefix of an artifact, or a name.
        digest: of the artifact, where there is one.
        actor: who did it; None: whoever runs this process.
        detail: what else is worth knowing, without secrets, which are hidden.

    Raises:
        StorageError: the store cannot be written, or something that is no record is in the way.
    """
    content = {
        "record": ACTION,
        "action": _plain(action),
        "target": _plain(target),
        "digest": digest,
        "actor": (actor or this_actor())._asdict(),
        "detail": {name: _plain(value) if isinstance(value, str) else value for name, value in detail.items()},
        "version": __version__,
    }
    refused = Counter[str]()
    while True:
        before = _last(store)
        previous, number = (before.hash, before.record["number"] + 1) if before else (FIRST_HASH, 0)
        name = _name(number)
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line, link = sealed(previous, {**content, "number": number, "time": time})
        key = signing_key()
        if store.create(name, line + key.signature(name, line) if key else line):
            return Action(name, link.record, link.hash)
        refused[name] += 1
        if refused[name] == _TRIES:
            message = f"Nothing can be put on record in {store.url}: {name} is there, and is no file that is listed."
            raise StorageError(message)
        if refused[name] > 1:  # another has written it, and the listing does not show it yet
            sleep(0.01 * 2.0 ** refused[name])


def actions(store: Store, since: str = "") -> Iterator[Action]:
    """What is on record, the oldest first.

    Args:
        store: whose record.
        since: a day, such as 2026-01-31, from which on; "": all.

    Raises:
        InputError: ``since`` is no day.
        DamagedArtifact: a file is none of a record.
    """
    if since:
        _check_day(since)
    for names in _blocks(store):
        if since and names and _day(_read(store, names[-1])) < since:
            continue  # all of the block is older
        for name in names:
            found = _read(store, name)
            if _day(found) >= since:
                yield found


def verify_actions(store: Store, head: str | None = None) -> ActionsVerdict:
    """Check every record against the one before it, and against its signature where this process has a key.

    Args:
        store: whose record.
        head: hash of a record that has to be there.

    Raises:
        ConfigError: ``head`` is no hash, or the key is none.
    """
    if head is not None and not HASH.fullmatch(head):
        message = f"--head {shortened(head)} is no hash: give 64 hex digits, as verify prints them."
        raise ConfigError(message)
    key = signing_key()
    previous, count, seen = FIRST_HASH, 0, head is None
    unsigned = None if key is None else 0
    for name in chain.from_iterable(_blocks(store)):
        try:
            link, signed = _checked(store, name, previous, count, key)
        except BadLine as error:
            return ActionsVerdict((f"{name}: {error}.",), count, previous, unsigned)
        previous, count = link.hash, count + 1
        if unsigned is not None:
            unsigned += not signed
        seen = seen or previous == head
    problems = () if seen else (f"The record with hash {head} is not there: records at the end are gone.",)
    return ActionsVerdict(problems, count, previous, unsigned)


def _checked(store: Store, name: str, previous: str, number: int, key: SigningKey | None) -> tuple[Link, bool]:
    """A record, and whether it is signed.

    Raises:
        BadLine: it is not what was written, or not by who has the key.
    """
    line, _, signature = store.read(name).partition(b"\n")
    link = read_line(line)
    _check_says_all(link)
    if link.number != number or name.rpartition("/")[2] != f"{number:0{_DIGITS}d}":
        message = f"it is record {link.number}, where {number} has to be: others are gone or were put in"
        raise BadLine(message)
    if chained(previous, link.record) != link.hash:
        message = "it does not follow the record before it: one of them was changed"
        raise BadLine(message)
    if signature and key is not None and not hmac.compare_digest(signature, key.signature(name, line + b"\n")):
        message = "its signature is not that of this process's key"
        raise BadLine(message)
    return link, bool(signature)


def _blocks(store: Store) -> Iterator[list[str]]:
    """The names of the records, a list a block."""
    return (_names(store, folder) for folder in store.folders(ACTIONS))


def _names(store: Store, folder: str) -> list[str]:
    return [name for name in store.list(folder) if name.rpartition("/")[2].isdecimal()]


def _name(number: int) -> str:
    return f"{ACTIONS}/{number // _BLOCK:0{_BLOCK_DIGITS}d}/{number:0{_DIGITS}d}"


def _read(store: Store, name: str) -> Action:
    try:
        link = read_line(store.read(name).split(b"\n")[0])
        _check_says_all(link)
    except BadLine as error:
        message = f"{name} is damaged: {error}. See mistudio audit verify."
        raise DamagedArtifact(message) from error
    return Action(name, link.record, link.hash)


def _check_says_all(link: Link) -> None:
    """Refuse a line that is whole, and of something else.

    Raises:
        BadLine: it is no record of an action.
    """
    record = link.record
    texts = all(isinstance(record.get(name), str) for name in ("action", "target", "time"))
    maps = all(isinstance(record.get(name), dict) for name in ("actor", "detail"))
    maps = maps and set(Actor._fields) <= record["actor"].keys()
    if record["record"] != ACTION or not texts or not maps or not isinstance(record.get("digest"), str | None):
        message = "it is no record of an action"
        raise BadLine(message)


def _day(action: Action) -> str:
    return str(action.record["time"])[:_DAY_CHARS]


def _last(store: Store) -> Action | None:
    """The newest record; of a damaged one the next still follows, and ``verify`` names it."""
    for folder in reversed(list(store.folders(ACTIONS))):
        # What was put where no record can be says nothing of how far the record goes.
        names = [name for name in _names(store, folder) if name == _name(int(name.rpartition("/")[2]))]
        if names:
            number = int(names[-1].rpartition("/")[2])
            try:
                found = _read(store, names[-1])
            except DamagedArtifact:
                return Action(names[-1], {"number": number}, FIRST_HASH)
            return found._replace(record={**found.record, "number": number})
    return None


def _plain(text: str) -> str:
    """A text as it is put on record: without secrets and what cannot be written, and not without end."""
    return redact(without_surrogates(text))[:_MOST_CHARS]


def _check_day(day: str) -> None:
    try:
        datetime.date.fromisoformat(day)
    except ValueError as error:
        message = f"--since {shortened(day)} is no day: write it like 2026-01-31."
        raise InputError(message) from error
