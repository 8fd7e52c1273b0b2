"""A server under many clients at once: steered and plain requests, streams, aborts, malformed ones.

Run as ``python -m benchmarks.soak --store STORE`` with a store that holds an autoencoder of a causal model. Starts a
server on a free port of this machine, sends ``--requests`` mixed requests from ``--clients`` clients, and stops it.
Prints a table and writes ``build/bench/soak.json``: answers by status, rows that are still taken at the end, and how
the server's memory grew from the time when a fifth of the requests were answered.
"""

import argparse
import asyncio
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter

import httpx
import psutil

from benchmarks import reporting
from benchmarks.reporting import row

WORDS = ("the", "a", "of", "and", "to", "in", "is", "def", "return", "class", "if", "for", "import", "self", "None")
_READY_S = 180


class Soak:
    """Clients that ask a server for all sorts of things.

    Args:
        url: of the server.
        process: of the server.
        model: its name there.
        features: how many its autoencoder has.
        requests: to send in all.
    """

    def __init__(self, url: str, process: psutil.Process, model: str, features: int, requests: int) -> None:
        self.url, self.process, self.model, self.features = url, process, model, features
        self.left, self.total = requests, requests
        self.statuses: Counter[str] = Counter()
        self.memory_mib: list[float] = []

    async def client(self, number: int) -> None:
        """Ask until all requests are sent."""
        draw = random.Random(number)  # noqa: S311
        async with httpx.AsyncClient(base_url=self.url, timeout=300) as http:
            while self.left > 0:
                self.left -= 1
                kind = draw.choices(list(KINDS), [KINDS[kind] for kind in KINDS])[0]
                try:
                    await getattr(self, f"_{kind}")(http, draw)
                except httpx.TransportError as error:
                    self.statuses[f"{kind}: {type(error).__name__}"] += 1
                if self.left % max(self.total // 20, 1) == 0:
                    self.memory_mib.append(self.process.memory_info().rss / 2**20)

    def _body(self, draw: random.Random) -> dict[str, object]:
        body: dict[str, object] = {
            "model": self.model,
            "prompt": " ".join(draw.choices(WORDS, k=draw.randint(1, 30))),
            "max_tokens": draw.randint(1, 24),
            "temperature": draw.choice([0, 0.7, 1.3]),
            "seed": draw.randint(0, 99),
        }
        if draw.random() < 0.7:  # noqa: PLR2004
            body["steering"] = {"edits": [self._edit(draw) for _ in range(draw.randint(1, 3))]}
        if draw.random() < 0.2:  # noqa: PLR2004
            body["n"] = draw.randint(1, 4)
        return body

    def _edit(self, draw: random.Random) -> dict[str, object]:
        feature = draw.randrange(self.features)
        where = draw.choice(["all", "prompt", "generated", {"window": [1, 5]}, {"positions": [-1, 2]}])
        kind = draw.choice(["add", "relative", "clamp", "scale", "ablate", "when"])
        match kind:
            case "relative":
                return {"op": "add", "feature": feature, "strength": 0.1, "unit": "relative", "where": where}
            case "clamp":
                return {"op": "clamp", "features": [feature, (feature + 1) % self.features], "value": 2.0}
            case "scale":
                return {"op": "scale", "feature": feature, "factor": 2.0, "where": where}
            case "ablate":
                return {"op": "ablate", "feature": feature}
            case "when":
                when = {"feature": draw.randrange(self.features), "above": 0.5, "lasting": draw.random() < 0.5}  # noqa: PLR2004
                return {"op": "add", "feature": feature, "strength": 1.0, "when": when}
        return {"op": "add", "feature": feature, "strength": draw.uniform(-3, 3), "where": where}

    async def _whole(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        reply = await http.post("/openai/v1/completions", json=self._body(draw))
        self.statuses[f"whole: {reply.status_code}"] += 1

    async def _compared(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        body = {**self._body(draw), "n": 1}
        body["steering"] = {"edits": [self._edit(draw)], "compare": True, "watch": [draw.randrange(self.features)]}
        reply = await http.post("/openai/v1/completions", json=body)
        self.statuses[f"compared: {reply.status_code}"] += 1

    async def _streamed(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        async with http.stream("POST", "/openai/v1/completions", json={**self._body(draw), "stream": True}) as reply:
            lines = [line async for line in reply.aiter_lines()]
        is_whole = reply.status_code != httpx.codes.OK or "data: [DONE]" in lines
        self.statuses[f"streamed: {reply.status_code}{'' if is_whole else ' cut off'}"] += 1

    async def _aborted(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        body = {**self._body(draw), "stream": True, "max_tokens": 60, "ignore_eos": True}
        async with http.stream("POST", "/openai/v1/completions", json=body) as reply:
            async for _ in reply.aiter_lines():
                break  # and leave
        self.statuses[f"aborted: {reply.status_code}"] += 1

    async def _malformed(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        body = self._body(draw)
        broken: bytes | dict[str, object] = draw.choice(
            [
                b"{", b"\xff\xfe", b"[]", b'{"model": NaN}',
                {**body, "temperature": "hot"}, {**body, "max_tokens": -1}, {**body, "model": "other"},
                {**body, "steering": {"edits": [{"op": "add", "feature": 10**9, "strength": 1}]}},
                {**body, "steering": {"edits": [{"op": "multiply", "feature": 1}]}},
                {**body, "max_tokens": 10**7}, {**body, "prompt": [10**6]}, {**body, "n": 10**4},
            ]
        )  # fmt: skip
        sent = {"content": broken} if isinstance(broken, bytes) else {"json": broken}
        headers = {"Content-Type": "application/json"}
        reply = await http.post("/openai/v1/completions", headers=headers, **sent)  # type: ignore[arg-type]
        self.statuses[f"malformed: {reply.status_code}"] += 1


KINDS = {"whole": 50, "streamed": 20, "compared": 5, "aborted": 10, "malformed": 15}


def main() -> None:
    """Start a server, send the requests, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True, help="holds an autoencoder; the newest is served")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=100)
    asked = parser.parse_args()
    port = _free_port()
    command = [sys.executable, "-m", "model_servers", "--store", asked.store, "--port", str(port), "--log-level",
               "warning", "--max-requests", "512", "--max-queue", "256"]  # fmt: skip
    server = subprocess.Popen(command, stdout=sys.stderr)  # noqa: S603
    try:
        rows = asyncio.run(_soak(f"http://127.0.0.1:{port}", server.pid, asked.requests, asked.clients))
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    rows.append(row("exit code of the server after SIGTERM", code, "", "", 0, code == 0))
    title = f"{asked.requests:,} requests from {asked.clients} clients"
    reporting.publish("soak", title, rows, reporting.describe_machine(), reporting.versions("kserve", "transformers"))


async def _soak(url: str, process: int, requests: int, clients: int) -> list[reporting.Row]:
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        described = await _described(http)
        width = described["autoencoders"][0]["width"]
        soak = Soak(url, psutil.Process(process), described["subject"]["name"], width, requests)
        start = time.perf_counter()
        await asyncio.gather(*(soak.client(number) for number in range(clients)))
        seconds = time.perf_counter() - start
        await asyncio.sleep(2)
        in_use = _number((await http.get("/metrics")).text, "rows_in_use")
    fifth = soak.memory_mib[len(soak.memory_mib) // 5]
    grown = soak.memory_mib[-1] - fifth
    failed = sum(count for status, count in soak.statuses.items() if re.search(r": 5|Error|cut off", status))
    return [
        *(row(status, count, "requests") for status, count in sorted(soak.statuses.items())),
        row("answered with a server's error, or cut off", failed, "requests", "", 0, failed == 0),
        row("rows taken at the end", in_use, "rows", "", 0, in_use == 0),
        row("memory grown after a fifth of the requests", round(grown, 1), "MiB", f"{fifth:.0f} MiB", 50, grown <= 50),  # noqa: PLR2004
        row("requests a second", round(requests / seconds, 1), "1/s"),
    ]


async def _described(http: httpx.AsyncClient) -> dict[str, object]:
    for _ in range(_READY_S):
        try:
            if (await http.get("/v2/health/ready")).is_success:
                return (await http.get("/describe")).json()
        except httpx.TransportError:
            pass
        await asyncio.sleep(1)
    message = f"The server was not ready after {_READY_S} s."
    raise TimeoutError(message)


def _number(metrics: str, name: str) -> float:
    """The value of the gauge whose name holds ``name``."""
    lines = [line for line in metrics.splitlines() if name in line and not line.startswith("#")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines) if lines else float("nan")


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main()
