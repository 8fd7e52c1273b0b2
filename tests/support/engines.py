"""A container engine for tests: the machine's own, or one started for them, with a base of Debian's packages."""

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
_DISK_BYTES = 40 << 30  # at most; it takes what is written to it
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
    with (
        tempfile.TemporaryDirectory(prefix="engine-") as name,
        _own_disk(Path(name)) as disk,
        _own_docker(Path(name), disk),
    ):
        yield Engine(_DEBIANS_DOCKER, make_base(_DEBIANS_DOCKER))


def _machines_engine() -> Engine | str:
    try:
        return Engine(find_engine(os.environ.get("ENGINE")), os.environ.get("MISTUDIO_BASE_IMAGE"))
    except EngineError as error:
        return f"{error} Or, as root, install docker.io and debootstrap."


@contextmanager
def _own_disk(folder: Path) -> Iterator[Path]:
    """A file system in a file: images are some hundred thousand files, and this is removed as one."""
    file, mounted = folder / "disk", folder / "mounted"
    mounted.mkdir()
    with file.open("wb") as disk:
        disk.truncate(_DISK_BYTES)
    made = [["mkfs.ext4", "-q", "-O", "^has_journal", "-E", "nodiscard", str(file)]]
    made += [["mount", "-o", "loop,noatime", str(file), str(mounted)]]
    if any(subprocess.run(command, capture_output=True, check=False).returncode != 0 for command in made):
        yield mounted  # no such device here: a folder as any other
        return
    try:
        yield mounted
    finally:
        # With what an engine that was stopped in the middle of a build has left mounted in it.
        subprocess.run(["umount", "--recursive", "--lazy", str(mounted)], check=True)


@contextmanager
def _own_docker(folder: Path, data: Path) -> Iterator[None]:
    """A Docker engine with everything it writes in these folders; it leaves the machine's network alone."""
    socket = f"unix://{folder}/socket"
    alone = ["--iptables=false", "--bridge=none", "--storage-driver=overlay2", "--oom-score-adjust=0"]
    places = [f"--data-root={data}", f"--exec-root={folder / 'run'}", f"--pidfile={folder / 'pid'}"]
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


def let_anyone_in(folder: Path) -> None:
    """Let whoever a container runs as read and write all that is in a folder."""
    for path in folder.rglob("*"):
        path.chmod(0o777 if path.is_dir() else 0o666)
