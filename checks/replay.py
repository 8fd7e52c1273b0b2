"""Containers of manifests, started as processes: the same program, arguments and environment.

What a cluster gives is replaced, and nothing else: the address and port to listen at, the folders of volumes, the
store, the artifact, and the values of secrets and config maps.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from checks.tools import ROOT, TOOLS

_READY_S = 180
_REFERENCE = re.compile(r"\$\((\w+)\)")
KEY = "replayed:0123456789abcdef0123456789abcdef"
# Values of secrets and config maps, by variable; another gets a text of letters.
_VALUES = {"MISTUDIO_API_KEYS": KEY, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}


@dataclass(frozen=True)
class Replayed:
    """A container that runs.

    Attributes:
        url: where it listens.
        process: of it.
        log: what it has said.
    """

    url: str
    process: "subprocess.Popen[str]"
    log: Path


def arguments_of(container: Mapping[str, Any]) -> list[str]:
    """Command and arguments as the kubelet makes them, `python` being this one."""
    values = {each["name"]: str(each.get("value", "")) for each in container.get("env") or ()}
    words = [*(container.get("command") or ()), *(container.get("args") or ())]
    expanded = [_REFERENCE.sub(lambda found: values.get(found[1]) or "pod-0", word) for word in words]
    return [sys.executable if word == "python" else word for word in expanded]


def environment_of(container: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, str]:
    """The variables that a container sets; those from secrets and config maps get ``values``, or some text."""
    found: dict[str, str] = {}
    for each in container.get("env") or ():
        name = each["name"]
        given = values.get(name) or _VALUES.get(name) or "replayed-" + "x" * 24
        text = str(each["value"]) if "value" in each else given
        found[name] = values.get(name) or _REFERENCE.sub(lambda match: found.get(match[1], ""), text)
    return found


@contextmanager
def replayed(
    container: Mapping[str, Any],
    more: Sequence[str],
    values: Mapping[str, str],
    replace: Mapping[str, str],
    kept: Path | None = None,
) -> Iterator[Replayed]:
    """Start a container, wait until its readiness probe holds, and end it as the kubelet does.

    Args:
        container: of a pod; its first port is the one that is asked.
        more: arguments that an InferenceService adds.
        values: of variables from secrets and config maps, and of those that have to be others here.
        replace: texts in arguments, by what stands for them.
        kept: where its volumes lie; None: in a folder that goes with it.

    Raises:
        RuntimeError: it ended, or was not ready in time; with what it said.
    """
    port = free_port()
    number = container["ports"][0]["containerPort"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        listening = {"0.0.0.0": "127.0.0.1", str(number): str(port), **replace}  # noqa: S104
        process = _start(container, more, values, listening, log, kept)
        try:
            running = Replayed(f"http://127.0.0.1:{port}", process, log)
            _wait_ready(running, container["readinessProbe"]["httpGet"]["path"])
            yield running
        finally:
            _end(process)


def ran(container: Mapping[str, Any], values: Mapping[str, str], replace: Mapping[str, str]) -> tuple[int, str]:
    """Run a container to its end; its status, and what it said. The arguments are those of `replayed`."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        process = _start(container, (), values, replace, log)
        try:
            status = process.wait(_READY_S)
        finally:
            _end(process)
        return status, log.read_text()


def _changed(text: str, changes: Mapping[str, str]) -> str:
    """A word, or the value of a flag, with the first of the changes that fits it."""
    flag, equals, value = text.partition("=")
    head, tail = (flag + equals, value) if equals else ("", text)
    for old, new in changes.items():
        if tail == old or tail.startswith(old + "/"):
            return head + new + tail[len(old) :]
    return text


def _volumes(container: Mapping[str, Any], folder: Path) -> dict[str, str]:
    paths = {each["mountPath"]: folder / each["name"] for each in container.get("volumeMounts") or ()}
    for path in paths.values():
        path.mkdir(exist_ok=True)
    return {mount: str(path) for mount, path in paths.items()}


def _start(
    container: Mapping[str, Any],
    more: Sequence[str],
    values: Mapping[str, str],
    replace: Mapping[str, str],
    log: Path,
    kept: Path | None = None,
) -> "subprocess.Popen[str]":
    changes = {**_volumes(container, kept or log.parent), **replace}
    # The interpreter is of this machine, wherever a container mounts something.
    words = [word if word == sys.executable else _changed(word, changes) for word in arguments_of(container)]
    given = environment_of(container, values)
    own = {name: _changed(value, changes) for name, value in given.items()} | dict(values)
    # Nothing of this process's own settings: only what Python needs to find the code, and what the container sets.
    path = os.pathsep.join([os.environ["PATH"], str(TOOLS / "bin")])
    base = {"PATH": path, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    base |= {name: os.environ[name] for name in ("OMP_NUM_THREADS",) if name in os.environ}
    with log.open("w") as said:
        return subprocess.Popen(  # noqa: S603 -- the command of a manifest of ours
            [*words, *more], env={**base, **own}, stdout=said, stderr=said, text=True, cwd=log.parent
        )


def _wait_ready(running: Replayed, path: str) -> None:
    wait = threading.Event()
    for _ in range(_READY_S * 10):
        if running.process.poll() is not None:
            break
        try:
            if httpx.get(running.url + path, timeout=10).status_code == 200:
                return
        except httpx.TransportError:
            pass
        wait.wait(0.1)
    message = f"{' '.join(map(str, running.process.args))} is not ready: {running.log.read_text()[-2000:]}"  # type: ignore[arg-type]
    raise RuntimeError(message)


def _end(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port of the loopback interface that nothing listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
