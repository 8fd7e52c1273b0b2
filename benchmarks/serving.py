"""A server of a store as a process, for benchmarks: started, waited for, and ended."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
import psutil

_READY_S = 180


class Server(NamedTuple):
    """A server that answers.

    Attributes:
        url: where it is.
        port: of that.
        process: what it is.
        described: what it says of itself.
    """

    url: str
    port: int
    process: psutil.Process
    described: dict[str, Any]

    def memory_mib(self) -> float:
        """Memory that it has now."""
        return float(self.process.memory_info().rss) / 2**20

    def metrics(self) -> dict[str, float]:
        """What it counts now, by the name of the metric with its labels."""
        lines = httpx.get(f"{self.url}/metrics", timeout=60).text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[:1] not in ("#", "")}


@contextmanager
def started(*arguments: str) -> Iterator[Server]:
    """A server with these options on a free port of this machine, from when it is ready until it has ended.

    Raises:
        TimeoutError: it was not ready in time.
        RuntimeError: it did not end as it should.
    """
    port = _free_port()
    command = [sys.executable, "-m", "model_servers", "--port", str(port), "--log-level", "warning", *arguments]
    process = subprocess.Popen(command, stdout=sys.stderr, env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})  # noqa: S603
    try:
        url = f"http://127.0.0.1:{port}"
        yield Server(url, port, psutil.Process(process.pid), _described(url, process))
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(120)
    if status:
        message = f"The server ended with status {status}."
        raise RuntimeError(message)


def _described(url: str, process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    for _ in range(_READY_S):
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/v2/health/ready").is_success:
                found: dict[str, Any] = httpx.get(f"{url}/describe", timeout=60).json()
                return found
        except httpx.TransportError:
            pass
        time.sleep(1)
    message = f"The server has ended, or was not ready after {_READY_S} s."
    raise TimeoutError(message)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
