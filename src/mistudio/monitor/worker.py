"""The thread that reads traffic: what waits is taken, read together, and judged; nothing that it meets ends it.

Of a batch that fails each exchange is read alone, to see whose fault it is; that one is set aside with a count. Where
all that comes fails, though, it is not the traffic's fault, and the thread ends: whoever runs the process sees that.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

from mistudio.errors import InputError, StorageError
from mistudio.monitor.judging import Judging
from mistudio.monitor.live import Live
from mistudio.monitor.priority import go_last
from mistudio.monitor.records import Exchange, Observation
from mistudio.monitor.stats import Tally
from mistudio.monitor.traffic.config import TrafficSettings
from mistudio.monitor.traffic.intake import Intake
from mistudio.monitor.traffic.joining import Joined
from mistudio.monitor.traffic.payloads import read_exchange
from mistudio.monitor.traffic.recorder import EventRecorder
from mistudio.monitor.watch.watching import TokenValues, Watcher

logger = logging.getLogger(__name__)

_WAIT_S = 0.1  # for traffic, before looking at what else there is
_BYTES_PER_TOKEN = 4  # about, of a body
_MOST_FAILED = 64  # exchanges one after the other, behind which it is not their fault


class Handed(deque[Exchange | Observation]):
    """What others hand to the worker beside traffic from loggers: bounded, and the newest is dropped."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most, self.num_dropped = most, 0

    def put(self, one: Exchange | Observation) -> bool:
        """Let something wait; whether there was room. From any thread."""
        has_room = len(self) < self._most
        if has_room:
            self.append(one)
        else:
            self.num_dropped += 1
        return has_room


class Worker:
    """Reads what waits, until it is told to end.

    Args:
        intake: of traffic.
        handed: what else is to be read, or was read already.
        watcher: reads it.
        judging: judges it.
        live: says whether somebody follows values by token.
        settings: how bodies are read.
        at_once_tokens: that are read together, about.
        tally: where it is counted.
        recorder: keeps traffic as it came, and is closed with this; None: nothing does.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        intake: Intake,
        handed: Handed,
        watcher: Watcher,
        judging: Judging,
        live: Live,
        settings: TrafficSettings,
        at_once_tokens: int,
        tally: Tally,
        recorder: EventRecorder | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._intake, self._handed, self._watcher, self._judging = intake, handed, watcher, judging
        self._live, self._settings, self._clock, self._recorder = live, settings, clock, recorder
        self._most_bytes, self._tally = at_once_tokens * _BYTES_PER_TOKEN, tally
        self.problems: Counter[str] = Counter()
        self._num_failed = 0
        self._ends, self._is_idle = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="monitor", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether traffic is read."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def drain(self, timeout_s: float) -> bool:
        """Wait until nothing is left, up to a time; whether nothing is. The intake has to be closed before."""
        until = time.monotonic() + timeout_s
        while self.is_alive and time.monotonic() < until:
            self._is_idle.clear()
            if self._is_idle.wait(max(0.0, min(_WAIT_S * 5, until - time.monotonic()))) and not self._has_work():
                return True
        return not self._has_work()

    def close(self) -> None:
        """End behind the batch that is under way."""
        self._ends.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._recorder is not None:
            self._recorder.close()

    def _has_work(self) -> bool:
        depth = self._intake.depth()
        return bool(self._handed or depth.queued)

    def _work(self) -> None:
        go_last()
        while not self._ends.is_set() or self._handed:
            try:
                self._turn()
            except Exception:
                self._tally.failures["worker"] += 1
                logger.exception("A turn of the monitor failed")
                self._num_failed += 1
            if self._num_failed >= _MOST_FAILED:
                logger.critical("The monitor ends: the last %d exchanges could not be read", self._num_failed)
                return

    def _turn(self) -> None:
        exchanges, seen = self._next()
        if exchanges:
            self._read(exchanges)
        if seen:
            self._judging.judge(seen, is_traffic=False)
        if not exchanges and not seen:
            self._is_idle.set()

    def _next(self) -> tuple[list[Exchange], list[Observation]]:
        """What waits, as far as it is read together."""
        exchanges: list[Exchange] = []
        seen: list[Observation] = []
        num_bytes = 0
        while self._handed and num_bytes < self._most_bytes:
            one = self._handed.popleft()
            if isinstance(one, Observation):
                seen.append(one)
                num_bytes += _BYTES_PER_TOKEN
            else:
                exchanges.append(one)
                num_bytes += _size(one)
        wait_s = 0.0 if exchanges or seen else _WAIT_S
        while num_bytes < self._most_bytes and (joined := self._intake.take(wait_s)) is not None:
            wait_s = 0.0
            num_bytes += joined.num_bytes
            self._record(joined)
            found = read_exchange(joined, self._settings)
            self.problems.update({str(problem): count for problem, count in found.problems.items()})
            if found.exchange is not None:
                exchanges.append(found.exchange)
        return exchanges, seen

    def _record(self, joined: Joined) -> None:
        """Keep an exchange as it came, where that is wanted; traffic is read on where that fails."""
        if self._recorder is None:
            return
        try:
            for event in joined.events:
                self._recorder.record(event)
                self._tally.numbers["recorded"] += 1
        except StorageError as error:
            self._tally.failures["record"] += 1
            logger.error("Traffic is not recorded: %s", error)

    def _read(self, exchanges: Sequence[Exchange]) -> None:
        began = time.perf_counter()
        try:
            observations = self._watcher.observe(exchanges)
            tokens = self._tokens(exchanges, observations)
        except Exception as error:
            if len(exchanges) > 1:
                for exchange in exchanges:
                    self._read([exchange])
            else:
                self._set_aside(exchanges[0], error)
            return
        finally:
            self._tally.reading_s += time.perf_counter() - began
        self._num_failed = 0
        self._tally.numbers.update(
            batches=1, samples=len(observations), tokens=sum(one.num_tokens for one in observations)
        )
        self._judging.judge(observations, tokens)
        self._tally.lag_s = max(0.0, self._clock() - exchanges[-1].time)

    def _tokens(self, exchanges: Sequence[Exchange], observations: Sequence[Observation]) -> list[TokenValues | None]:
        """Values by token, where somebody follows them; that takes reading again."""
        if not self._live.wants_tokens:
            return [None] * len(observations)
        known = {(exchange.id, exchange.time): exchange for exchange in exchanges}
        samples = [known[one.exchange, one.time].samples[one.sample] for one in observations]
        return list(self._watcher.observe_tokens(samples))

    def _set_aside(self, exchange: Exchange, error: Exception) -> None:
        self._tally.numbers["set_aside"] += 1
        self._num_failed = 0 if isinstance(error, InputError) else self._num_failed + 1
        logger.error("An exchange is set aside", exc_info=error)


def _size(exchange: Exchange) -> int:
    """Bytes of an exchange, about."""
    return sum(_sample_size(sample.content) for sample in exchange.samples)


def _sample_size(content: str | tuple[object, ...]) -> int:
    if isinstance(content, str):
        return len(content)
    return sum(
        len(content_of) if (content_of := getattr(one, "content", None)) else _BYTES_PER_TOKEN for one in content
    )
