"""Recorded traffic as the same exchanges that the sink makes of live traffic, so that the same rules run over it.

Memory is bounded: one file is open at a time, and of that some rows; halves of exchanges wait within the bounds of the
settings. Where files do not say when an event came, nothing times out: a logger's batch may hold a request, and a later
one the response.
"""

from collections import Counter
from collections.abc import Iterator

from mistudio.monitor.records import Exchange
from mistudio.monitor.traffic.config import TrafficSettings
from mistudio.monitor.traffic.events import LoggedEvent
from mistudio.monitor.traffic.joining import Joined, Joiner, JoinOutcome
from mistudio.monitor.traffic.payloads import read_exchange
from mistudio.monitor.traffic.recorded_files import MAX_FILE_BYTES, RecordedFile, recorded_files
from mistudio.monitor.traffic.recorded_rows import BROKEN_FILE, TOO_LARGE_FILE, BrokenFile, events_in
from mistudio.monitor.traffic.unread import Problems

_SHOWN_NOTES = 10
_LINES = ".jsonl"  # of our own recorder, whose events have times
_LONGEST_SKEW_S = 1e9  # recorded traffic may be of any time


class RecordedTraffic:
    """The traffic in a file, a folder or a bucket; to be read once.

    Attributes:
        counts: of what became of files, rows and events, by reason.
        joined: what became of halves of exchanges.
        problems: what of bodies could not be read, by reason.
        notes: the first few messages about what could not be read.

    Args:
        url: a path, or ``s3://bucket/prefix``.
        settings: bounds, and names of fields.

    Raises:
        InputError: there is none.
        ConfigError: the address is none.
        StorageError: the bucket cannot be read.
    """

    def __init__(self, url: str, settings: TrafficSettings | None = None) -> None:
        given = settings or TrafficSettings()
        self._settings = given.model_copy(update={"max_clock_skew_s": _LONGEST_SKEW_S})
        self._files = recorded_files(url)
        self._joiner = Joiner(self._settings)
        self.counts: Counter[str] = Counter()
        self.problems = Problems()
        self.notes: list[str] = []

    @property
    def joined(self) -> Counter[JoinOutcome]:
        """What became of halves of exchanges."""
        return +self._joiner.counts

    def exchanges(self) -> Iterator[Exchange]:
        """All exchanges that hold something to watch."""
        for joined in self._all_joined():
            found = read_exchange(joined, self._settings)
            self.problems.update(found.problems)
            self.counts["exchanges" if found.exchange is not None else "nothing_to_watch"] += 1
            if found.exchange is not None:
                yield found.exchange

    def _all_joined(self) -> Iterator[Joined]:
        latest = 0.0
        for file in self._files:
            for event in self._events_in(file):
                self.counts["events"] += 1
                if file.suffix == _LINES:
                    latest = max(latest, event.time)
                yield from self._joiner.add(event, latest)
        yield from self._joiner.flush()

    def _events_in(self, file: RecordedFile) -> Iterator[LoggedEvent]:
        def told(reason: str, message: str) -> None:
            self._tell(reason, f"{file.name}, {message}")

        self.counts["files"] += 1
        if file.num_bytes > MAX_FILE_BYTES:
            told(TOO_LARGE_FILE, f"it has {file.num_bytes:,} bytes, and at most {MAX_FILE_BYTES:,} are read")
            return
        try:
            with file.open() as path:
                yield from events_in(path, file.suffix, self._settings, file.time, told)
        except BrokenFile as error:
            told(BROKEN_FILE, str(error))

    def _tell(self, reason: str, message: str) -> None:
        self.counts[reason] += 1
        if len(self.notes) < _SHOWN_NOTES:
            self.notes.append(message)
