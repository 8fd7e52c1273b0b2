"""Whether the sink answers at once while ten times as much comes as can be encoded, and whether nothing grows by it.

Run as ``python -m benchmarks.monitor_sink``; prints a table and writes ``build/bench/monitor_sink.json``. A server in a
process of its own takes CloudEvents as KServe's agent sends them (a chat, and a reply that was streamed), joins them,
and encodes on a thread beside: every exchange is read, and costs ``--encode-ms`` of products of matrices. What that
makes in a second is measured first. Then ten times as many exchanges come, at even times, whatever the answers take.
The time of an answer counts from when its event is sent, the wait for a free connection included. A second server,
which only answers, is asked now and then by the same sender: what it takes is what the machine and the sender take.

``--url`` overloads a server that is there instead, with ``--rate`` exchanges a second.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from benchmarks import reporting
from benchmarks.reporting import Row, row
from mistudio.monitor.priority import go_last
from mistudio.monitor.traffic.config import TrafficSettings
from mistudio.monitor.traffic.events import EventRefused, read_events
from mistudio.monitor.traffic.intake import Intake
from mistudio.monitor.traffic.payloads import read_exchange

OVERLOAD = 10
ANSWER_MS = 10.0
GROWTH = 1.02
BARE_RATE = 20.0
SETTINGS = TrafficSettings(recent_ids=5_000, max_queue=500)  # so that all bounds are reached within seconds
_CONNECTIONS = 64
_PATIENCE_S = 60.0


class Encoder(threading.Thread):
    """Takes exchanges, reads them, and is busy about as long as a model would be."""

    def __init__(self, intake: Intake, encode_ms: float) -> None:
        super().__init__(daemon=True)
        self.intake, self.encode_ms = intake, encode_ms
        self.num_encoded = 0
        self._matrix_DD = torch.randn(384, 384)

    def run(self) -> None:
        """Until the intake is closed."""
        torch.set_num_threads(1)
        go_last()
        while (joined := self.intake.take(_PATIENCE_S)) is not None:
            until = time.perf_counter() + self.encode_ms / 1e3
            assert read_exchange(joined, SETTINGS).exchange is not None
            while time.perf_counter() < until:
                self._matrix_DD @ self._matrix_DD
            self.num_encoded += 1


def application(intake: Intake, encoder: Encoder) -> Starlette:
    """The sink, and what it says of itself."""

    async def events(request: Request) -> Response:
        body = await request.body()
        try:
            found = read_events(request.headers, body, SETTINGS, time.time())
        except EventRefused as error:
            return JSONResponse({"error": str(error)}, 400)
        for event in found.events:
            intake.offer(event)
        return Response(status_code=202)

    async def status(_request: Request) -> Response:
        return JSONResponse(
            {
                "counts": intake.counts(),
                "depth": intake.depth()._asdict(),
                "encoded": encoder.num_encoded,
                "resident": resident_bytes(os.getpid()),
            }
        )

    async def nothing(request: Request) -> Response:
        await request.body()
        return Response(status_code=202)

    routes = [Route("/events", events, methods=["POST"]), Route("/nothing", nothing, methods=["POST"])]
    return Starlette(routes=[*routes, Route("/status", status)])


def serve(encode_ms: float) -> None:
    """Serve on a free port, which is printed."""
    intake = Intake(SETTINGS)
    encoder = Encoder(intake, encode_ms)
    encoder.start()
    config = uvicorn.Config(application(intake, encoder), port=0, log_level="warning", access_log=False)
    server = uvicorn.Server(config)

    async def run() -> None:
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        sys.stdout.write(f"{server.servers[0].sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()
        await task

    asyncio.run(run())


def resident_bytes(pid: int) -> int:
    """Memory that a process has of its own."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def event_bytes(host: str, path: str, kind: str, number: int, run: str, body: bytes) -> bytes:
    """A whole HTTP request, as the agent sends it."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"Ce-Id: {run}-{number}\r\nCe-Source: http://localhost:9081/\r\nCe-Specversion: 1.0\r\n"
        f"Ce-Type: org.kubeflow.serving.inference.{kind}\r\nCe-Inferenceservicename: tinyllama\r\n"
        "Ce-Namespace: default\r\nCe-Component: predictor\r\nCe-Endpoint: default\r\nCe-Metadata: {}\r\n\r\n"
    )
    return head.encode() + body


@cache
def bodies() -> tuple[bytes, bytes]:
    """A chat of about 2 kB, and a streamed reply of about 8 kB; exchanges differ by their ids."""
    words = "what is known of the river and the towns at it " * 40
    asked = {"model": "tinyllama", "stream": True, "messages": [{"role": "user", "content": words}]}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "tinyllama"}
    chunks = [{**chunk, "choices": [{"index": 0, "delta": {"content": f" word{n}"}}]} for n in range(50)]
    lines = [f"data: {json.dumps(each)}\n\n" for each in chunks] + ["data: [DONE]\n\n"]
    return json.dumps(asked).encode(), "".join(lines).encode()


class Load:
    """Sends events at even times over connections that are kept."""

    def __init__(self, url: str, run: str) -> None:
        parts = urlsplit(url)
        self.host, self.port, self.path, self.run = parts.hostname or "", parts.port or 80, parts.path, run
        self.answer_ms: list[float] = []
        self.late_ms: list[float] = []
        self.statuses: dict[int, int] = {}
        self._free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def send(self, rate: float, seconds: float) -> None:
        """So many exchanges a second, each as two events."""
        for _ in range(_CONNECTIONS):
            self._free.put_nowait(await asyncio.open_connection(self.host, self.port))
        started, tasks = time.perf_counter(), set[asyncio.Task[None]]()
        for number in range(int(2 * rate * seconds)):
            due = started + number / (2 * rate)
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            task = asyncio.create_task(self._event(number, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        while not self._free.empty():
            self._free.get_nowait()[1].close()

    async def _event(self, number: int, due: float) -> None:
        started = time.perf_counter()
        self.late_ms.append((started - due) * 1e3)
        exchange, half = divmod(number, 2)
        kind, body = ("request", "response")[half], bodies()[half]
        reader, writer = await self._free.get()
        writer.write(event_bytes(f"{self.host}:{self.port}", self.path, kind, exchange, self.run, body))
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        await reader.readexactly(length)
        self.answer_ms.append((time.perf_counter() - started) * 1e3)
        status = int(head[9:12])
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self._free.put_nowait((reader, writer))


async def status_of(url: str) -> dict[str, Any]:
    """What the server says of itself."""
    import httpx

    async with httpx.AsyncClient() as client:
        found: dict[str, Any] = (await client.get(url)).json()
        return found


async def capacity(url: str) -> float:
    """Exchanges that are encoded in a second while nothing else comes."""
    await Load(f"{url}/events", "capacity").send(400, 1)
    first, started = (await status_of(f"{url}/status"))["encoded"], time.perf_counter()
    await asyncio.sleep(4)
    last = (await status_of(f"{url}/status"))["encoded"]
    return float((last - first) / (time.perf_counter() - started))


async def overload(url: str, bare: str, seconds: float, overload: float) -> list[Row]:
    """The rows of the server of this benchmark."""
    can = await capacity(url)
    rate = overload * can
    warm = Load(f"{url}/events", "warm")
    await warm.send(rate, max(seconds / 2, 2 * SETTINGS.recent_ids / rate))
    before = await status_of(f"{url}/status")
    load, beside = Load(f"{url}/events", "load"), Load(f"{bare}/nothing", "bare")
    await asyncio.gather(load.send(rate, seconds), beside.send(BARE_RATE, seconds))
    after = await status_of(f"{url}/status")
    grown = after["resident"] / before["resident"]
    changed = {name: count - before["counts"][name] for name, count in after["counts"].items()}
    against = f"{rate:.0f} exchanges a second for {seconds:.0f} s, {overload:g} times what is encoded"
    counted = changed["dropped"] + changed["taken"] + after["depth"]["queued"] - before["depth"]["queued"]
    return [
        row("exchanges that are encoded, alone", round(can, 1), "1/s", ""),
        row("exchanges that are encoded, under overload", round(changed["taken"] / seconds, 1), "1/s", against),
        *answer_rows(load, against),
        row("answer of a server that only answers, p99", percentiles(beside.answer_ms)[1], "ms", "at the same time"),
        row("memory at the start", round(before["resident"] / 2**20, 1), "MiB", "all bounds reached"),
        row("memory at the end", round(after["resident"] / 2**20, 1), "MiB", f"{grown:.3f} x", GROWTH, grown <= GROWTH),
        row("exchanges that were joined", changed["joined"], "", f"{len(load.answer_ms) // 2} sent"),
        row("exchanges that were dropped, by the server's count", changed["dropped"], "", against),
        row("exchanges in no count", changed["joined"] - counted, "", "", 0, changed["joined"] == counted),
    ]


def answer_rows(load: Load, against: str) -> list[Row]:
    """Rows of the times of answers."""
    median, high, worst = percentiles(load.answer_ms)
    fine = load.statuses.get(202, 0)
    return [
        row(
            "answers 202",
            fine,
            "",
            f"of {len(load.answer_ms)}; {load.statuses}",
            len(load.answer_ms),
            fine == len(load.answer_ms),
        ),
        row("answer, p50", median, "ms", against),
        row("answer, p99", high, "ms", against, ANSWER_MS, high <= ANSWER_MS),
        row("answer, slowest", worst, "ms", against),
        row("sender behind its time, p99", percentiles(load.late_ms)[1], "ms", "not counted above"),
    ]


def percentiles(values_ms: Sequence[float]) -> tuple[float, float, float]:
    """The middle, p99 and the largest."""
    median, high, worst = (round(float(each), 2) for each in np.percentile(values_ms, [50, 99, 100]))
    return median, high, worst


def measure(options: argparse.Namespace) -> list[Row]:
    if options.url:
        load = Load(options.url, f"run-{os.getpid()}")
        asyncio.run(load.send(options.rate, options.seconds))
        return answer_rows(load, f"{options.rate:g} exchanges a second for {options.seconds:g} s")
    with served("--encode-ms", str(options.encode_ms)) as url, served("--encode-ms", "0") as bare:
        return asyncio.run(overload(url, bare, options.seconds, options.overload))


@contextmanager
def served(*arguments: str) -> Iterator[str]:
    """A server in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.monitor_sink", "--serve", *arguments]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.terminate()
        server.wait(30)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="of overload")
    parser.add_argument("--encode-ms", type=float, default=20.0, help="that an exchange takes to be encoded")
    parser.add_argument("--overload", type=float, default=OVERLOAD, help="times what is encoded")
    parser.add_argument("--url", default="", help="of a sink that is there")
    parser.add_argument("--rate", type=float, default=500.0, help="exchanges a second, with --url")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options.encode_ms)
        return
    rows = measure(options)
    used = reporting.versions("starlette", "uvicorn")
    reporting.publish("monitor_sink", "The monitor's sink under overload", rows, reporting.describe_machine(), used)


if __name__ == "__main__":
    main()
