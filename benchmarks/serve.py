"""Look-ups, a watch on traffic, and steering in one process: each alone, then all at once, then a long time.

Run as ``python -m benchmarks.serve --store STORE`` with a store that holds a line of a causal model. Starts one server
with ``--models correlate,monitor,steer`` and asks it from threads of this process: look-ups of texts and of features,
completions under an edit, and events as KServe's payload logger sends them. Prints a table and writes
``build/bench/serve.json``: requests a second and the latency of each kind alone and beside the others, what the sink
took, memory, and answers that were none. Clients and server share this machine's cores, so that a latency says what it
does on a loaded machine; ratios of mixed to alone are of one run.
"""

import argparse
import http.client
import itertools
import json
import random
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from benchmarks import reporting
from benchmarks.reporting import Row, row
from benchmarks.serving import Server, started

WORDS = ("once", "upon", "a", "time", "little", "girl", "who", "liked", "to", "play", "with", "her", "dog", "and", "he")
SINK = "/v1/monitor/events"
_SINK_MS, _GROWN_MIB, _TIMEOUT_S = 10, 50, 300
_BY = {
    "look-ups of texts": "correlate",
    "look-ups of features": "correlate",
    "steered completions": "steer",
    "events": "monitor",
}
_TAKEN, _BUSY = (200, 202), (429, 503)


class Request(NamedTuple):
    """A request to a server."""

    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]


class Load(NamedTuple):
    """A kind of request, and how many ask at once.

    Attributes:
        make: the next request, by a source of chance.
        clients: threads that ask, each when it has its answer.
        pause_s: seconds that each waits between two.
    """

    make: Callable[[random.Random], Request]
    clients: int
    pause_s: float = 0.0


class Answers(NamedTuple):
    """What came back in a time."""

    latencies_s: list[float]
    statuses: Counter[int]
    seconds: float

    @property
    def rate(self) -> float:
        """Answered requests a second."""
        return sum(count for status, count in self.statuses.items() if status in _TAKEN) / self.seconds

    @property
    def failed(self) -> int:
        """Answers that are the server's fault; a refusal for want of room is none."""
        return sum(count for status, count in self.statuses.items() if status not in (*_TAKEN, *_BUSY))

    def percentile_ms(self, percent: int) -> float:
        """The latency that so many of a hundred stayed below."""
        return 1e3 * statistics.quantiles(self.latencies_s, n=100)[percent - 1]


def loads(described: Mapping[str, Any]) -> dict[str, Load]:
    """What is asked, by name."""
    model, width = described["subject"]["name"], described["autoencoders"][0]["width"]
    events = _events()
    known = {
        "look-ups of texts": Load(lambda draw: _asked("/v1/correlate/text", {"text": _text(draw), "top": 10}), 2),
        "look-ups of features": Load(
            lambda draw: _asked("/v1/correlate/feature", {"feature": draw.randrange(width), "relations": ["decoder"]}),
            2,
        ),
        "steered completions": Load(lambda draw: _completion(draw, model, width), 4),
        "events": Load(lambda draw: next(events), 2, pause_s=0.01),
    }
    return {name: load for name, load in known.items() if _BY[name] in described["predictors"]}


def _asked(path: str, body: Mapping[str, Any]) -> Request:
    return Request(path, body, {})


def _text(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(8, 64)))


def _completion(draw: random.Random, model: str, width: int) -> Request:
    edit = {"op": "add", "feature": draw.randrange(width), "strength": 0.1, "unit": "relative"}
    body = {"model": model, "prompt": _text(draw), "max_tokens": 16, "steering": {"edits": [edit]}}
    return _asked("/openai/v1/completions", body)


def _events() -> Iterator[Request]:
    """Both halves of exchanges, one after the other; for any number of threads."""
    draw, numbers = random.Random(0), itertools.count()  # noqa: S311

    def halves() -> Iterator[Request]:
        for number in numbers:
            text = _text(draw)
            bodies = {"request": {"model": "m", "prompt": text}, "response": {"choices": [{"index": 0, "text": text}]}}
            for half, body in bodies.items():
                headers = {
                    "ce-id": f"exchange-{number}",
                    "ce-type": f"org.kubeflow.serving.inference.{half}",
                    "ce-source": "http://localhost:9081/",
                    "ce-specversion": "1.0",
                    "ce-inferenceservicename": "assistant",
                    "ce-namespace": "models",
                }
                yield Request(SINK, body, headers)

    return _Shared(halves())


class _Shared(Iterator[Request]):
    """An iterator that threads may share, unlike a generator."""

    def __init__(self, inner: Iterator[Request]) -> None:
        self._inner, self._lock = inner, threading.Lock()

    def __next__(self) -> Request:
        with self._lock:
            return next(self._inner)


class Asking:
    """Clients of some loads, until they are told to end.

    Args:
        server: that is asked.
        chosen: the loads, by name.
        most: requests in all; None: until the time is over.
    """

    def __init__(self, server: Server, chosen: Mapping[str, Load], most: int | None = None) -> None:
        self._server, self._chosen = server, chosen
        self._left = most
        self._lock, self._ends = threading.Lock(), threading.Event()
        self._latencies: dict[str, list[float]] = {name: [] for name in chosen}
        self._statuses: dict[str, Counter[int]] = {name: Counter() for name in chosen}

    def for_seconds(self, seconds: float) -> dict[str, Answers]:
        """What comes back in so many seconds."""
        threads = self._threads()
        began = time.perf_counter()
        self._ends.wait(seconds)
        self._ends.set()
        return self._answers(threads, began)

    def to_the_end(self, each_second: Callable[[], None]) -> dict[str, Answers]:
        """What comes back of all requests."""
        threads = self._threads()
        began = time.perf_counter()
        while any(thread.is_alive() for thread in threads):
            each_second()
            threads[0].join(1)
        return self._answers(threads, began)

    def _threads(self) -> list[threading.Thread]:
        threads = [
            threading.Thread(target=self._client, args=(name, load, random.Random(number)))  # noqa: S311
            for name, load in self._chosen.items()
            for number in range(load.clients)
        ]
        for thread in threads:
            thread.start()
        return threads

    def _answers(self, threads: list[threading.Thread], began: float) -> dict[str, Answers]:
        seconds = time.perf_counter() - began
        for thread in threads:
            thread.join()
        return {name: Answers(self._latencies[name], self._statuses[name], seconds) for name in self._chosen}

    def _client(self, name: str, load: Load, draw: random.Random) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=_TIMEOUT_S)
        while self._goes_on():
            request = load.make(draw)
            content = json.dumps(request.body).encode()
            headers = {"content-type": "application/json", **request.headers}
            began = time.perf_counter()
            connection.request("POST", request.path, content, headers)
            answer = connection.getresponse()
            answer.read()
            self._latencies[name].append(time.perf_counter() - began)
            self._statuses[name][answer.status] += 1
            if load.pause_s:
                time.sleep(load.pause_s)
        connection.close()

    def _goes_on(self) -> bool:
        with self._lock:
            if self._left is not None:
                self._left -= 1
                return self._left >= 0
            return not self._ends.is_set()


def main() -> None:
    """Start a server, ask it, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True, help="holds an autoencoder; the newest line is served")
    parser.add_argument("--models", default="correlate,monitor,steer", help="what is served, steer at least")
    parser.add_argument("--seconds", type=float, default=15, help="of each load alone, and of all at once")
    parser.add_argument("--requests", type=int, default=10_000, help="of the soak")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kept = ("--monitor-folder", folder) if "monitor" in asked.models else ()
        with started("--store", asked.store, "--models", asked.models, *kept) as server:
            rows = [*_mixed(server, asked.seconds), *_soaked(server, asked.requests)]
    title = f"Look-ups, a watch and steering in one process; {asked.seconds:g} s of each"
    reporting.publish("serve", title, rows, reporting.describe_machine(), reporting.versions("kserve", "transformers"))


def _mixed(server: Server, seconds: float) -> Iterator[Row]:
    chosen = loads(server.described)
    for name, load in chosen.items():  # what is loaded and compiled at first use is no figure of either
        Asking(server, {name: load}, most=2 * load.clients).to_the_end(lambda: None)
    yield row("memory of the server before", round(server.memory_mib()), "MiB")
    yield row("an answer without any work, p99: the machine's own", _idle_p99_ms(server), "ms")
    alone = {name: Asking(server, {name: load}).for_seconds(seconds)[name] for name, load in chosen.items()}
    mixed = Asking(server, chosen).for_seconds(seconds)
    for name in chosen:
        yield from _of_load(name, alone[name], mixed[name])
    if "events" in mixed:
        yield from _of_sink(server, mixed["events"])
    failed = sum(answers.failed for answers in (*alone.values(), *mixed.values()))
    yield row("answers that were errors", failed, "requests", "", 0, failed == 0)


def _idle_p99_ms(server: Server) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_TIMEOUT_S)

    def ask() -> None:
        connection.request("GET", "/v2/health/live")
        connection.getresponse().read()

    times_s = [reporting.timed(ask) for _ in range(1000)]
    connection.close()
    return round(1e3 * statistics.quantiles(times_s, n=100)[98], 1)


def _of_load(name: str, alone: Answers, mixed: Answers) -> Iterator[Row]:
    yield row(f"{name}, mixed", round(mixed.rate, 1), "1/s", f"{alone.rate:.1f} alone")
    yield row(f"{name}, mixed over alone", round(mixed.rate / alone.rate, 2), "x")
    for percent in (50, 99):
        against = f"{alone.percentile_ms(percent):.1f} ms alone"
        yield row(f"{name}, mixed, p{percent}", round(mixed.percentile_ms(percent), 1), "ms", against)


def _of_sink(server: Server, mixed: Answers) -> Iterator[Row]:
    """What a client saw, and what the server itself counted: the rest is this machine's."""
    p99 = round(mixed.percentile_ms(99), 1)
    yield row("events beside all else, p99 at the client", p99, "ms", "", _SINK_MS, p99 <= _SINK_MS)
    counted, name = server.metrics(), "mistudio_processing_duration_seconds"
    within = counted[f'{name}_bucket{{le="0.01",route="{SINK}"}}'] / counted[f'{name}_count{{route="{SINK}"}}']
    yield row("events that the server answered within 10 ms", round(within, 4), "", "", 0.99, within >= 0.99)  # noqa: PLR2004


def _soaked(server: Server, requests: int) -> Iterator[Row]:
    memory_mib: list[float] = []
    answers = Asking(server, loads(server.described), most=requests).to_the_end(
        lambda: memory_mib.append(server.memory_mib())
    )
    counted = {name: sum(each.statuses.values()) for name, each in answers.items()}
    failed = sum(each.failed for each in answers.values())
    fifth, last = memory_mib[len(memory_mib) // 5], memory_mib[-1]
    grown = round(last - fifth, 1)
    yield row(
        "soak: requests",
        sum(counted.values()),
        "requests",
        ", ".join(f"{each} {name}" for name, each in counted.items()),
    )
    yield row("soak: answers that were errors", failed, "requests", "", 0, failed == 0)
    yield row("soak: memory at the start", round(memory_mib[0]), "MiB")
    yield row("soak: memory at the end", round(last), "MiB")
    yield row("soak: memory grown after a fifth", grown, "MiB", f"{fifth:.0f} MiB", _GROWN_MIB, grown <= _GROWN_MIB)
    left = server.metrics()["mistudio_requests_active"]
    yield row("soak: requests that are left at the end", left, "requests", "", 0, left == 0)


if __name__ == "__main__":
    main()
