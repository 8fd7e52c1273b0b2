"""A container engine for tests: the machine's own, or a Docker engine started for them, with a base of Debian's packages."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from images.base import make_base
from images.engine import EngineError, find_engine

ROOT = Path(__file__).parents[2]
# The client beside Debian's engine: another on the path may be of a version that builds far slower with this engine.
_DEBIANS_DOCKER = "/usr/bin/docker"
_STARTED_WITHIN_S = 120
# What pods are allowed to do, and no more.
_AS_IN_A_POD = ("--read-only", "--user=65532:65532", "--cap-drop=ALL", "--security-opt=no-new-privileges")
_WRITABLE = ("--tmpfs=/tmp:mode=1777", "--tmpfs=/scratch:mode=1777")


@dataclass(frozen=True)
class Engine:
    """An engine that answers, and what images are built on with it; None: what the Containerfiles name."""

    command: str
    base: str | None

    def run(self, *arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command of the engine; its output as text."""
        command = [self.command, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)

    def run_image(self, image: str, command: Sequence[str], *flags: str) -> subprocess.CompletedProcess[str]:
        """Run a command in an image without a network, as a pod would be."""
        return self.run("run", "--rm", "--network=none", *_AS_IN_A_POD, *_WRITABLE, *flags, image, *command)


@contextmanager
def an_engine() -> Iterator[Engine | str]:
    """The machine's engine, else one of the tests' own; without either, why there is none."""
    found = _machines_engine()
    missing = [each for each in ("dockerd", "debootstrap", _DEBIANS_DOCKER) if shutil.which(each) is None]
    if isinstance(found, Engine) or "ENGINE" in os.environ or missing or os.geteuid() != 0:
        yield found
        return
    with tempfile.TemporaryDirectory(prefix="engine-") as name, _own_docker(Path(name)):
        yield Engine(_DEBIANS_DOCKER, make_base(_DEBIANS_DOCKER))


def _machines_engine() -> Engine | str:
    try:
        return Engine(find_engine(os.environ.get("ENGINE")), os.environ.get("MISTUDIO_BASE_IMAGE"))
    except EngineError as error:
        return f"{error} Or, as root, install docker.io and debootstrap."


@contextmanager
def _own_docker(folder: Path) -> Iterator[None]:
    """A Docker engine with everything it writes below ``folder``; it leaves the machine's network alone."""
    socket = f"unix://{folder}/socket"
    alone = ["--iptables=false", "--bridge=none", "--storage-driver=overlay2", "--oom-score-adjust=0"]
    places = [f"--{name}={folder / name}" for name in ("data-root", "exec-root", "pidfile")]
    with (folder / "log").open("w") as log:
        daemon = subprocess.Popen(["dockerd", *alone, *places, f"--host={socket}"], stdout=log, stderr=log)
    before = os.environ.get("DOCKER_HOST")
    os.environ["DOCKER_HOST"] = socket
    try:
        _wait_until_it_answers(daemon, folder / "log")
        yield
    finally:
        _remove_containers()
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(120)
        os.environ.pop("DOCKER_HOST")
        if before is not None:
            os.environ["DOCKER_HOST"] = before


def _wait_until_it_answers(daemon: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _STARTED_WITHIN_S
    while subprocess.run([_DEBIANS_DOCKER, "info"], capture_output=True, check=False).returncode != 0:
        if daemon.poll() is not None or time.monotonic() > until:
            raise AssertionError(log.read_text()[-4000:])
        time.sleep(0.2)


def _remove_containers() -> None:
    """What still runs keeps its file system mounted, and a mounted folder cannot be removed."""
    listed = subprocess.run([_DEBIANS_DOCKER, "ps", "--all", "--quiet"], capture_output=True, text=True, check=False)
    for container in listed.stdout.split():
        subprocess.run([_DEBIANS_DOCKER, "rm", "--force", container], capture_output=True, check=False)
