"""How often a key may ask: a bucket of tokens for each, which fills evenly."""

import threading
import time
from collections.abc import Callable


class Rates:
    """Buckets by the names of keys, which are few and known.

    Args:
        per_minute: tokens that come into a bucket; None: there is no limit.
        burst: tokens that a bucket holds.
        clock: seconds, from anywhere.
    """

    def __init__(self, per_minute: float | None, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = None if per_minute is None else per_minute / 60
        self._burst = float(burst)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, and when they were counted
        self._lock = threading.Lock()  # requests come from HTTP and from gRPC

    def wait_s(self, name: str) -> float:
        """Take a token: 0 where there is one, else the seconds until there is, and nothing is taken."""
        if self._per_second is None:
            return 0.0
        with self._lock:
            now = self._clock()
            tokens, before = self._buckets.get(name, (self._burst, now))
            tokens = min(self._burst, tokens + (now - before) * self._per_second)
            is_enough = tokens >= 1
            self._buckets[name] = (tokens - 1 if is_enough else tokens, now)
            return 0.0 if is_enough else (1 - tokens) / self._per_second
