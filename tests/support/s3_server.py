"""A real S3 server for tests and for a developer: Ceph's radosgw over a monitor and an object store in memory.

``python -m tests.support.s3_server`` (``make s3``) starts one until Ctrl-C and prints what to set. It needs Debian's
packages ceph-mon, ceph-osd, radosgw and ceph-common (--no-install-recommends).

The programs are children that stay in the foreground and are stopped by their process ids. Should their parent be
killed, the kernel kills them too. The tests of one run share a server (:func:`shared_server`): a process of its own,
which ends when no test process is left that has used it, however those ended.
"""

import argparse
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple, Self

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "ceph", "ceph-authtool", "monmaptool", "radosgw-admin", "setpriv")
PACKAGES = "ceph-mon ceph-osd radosgw ceph-common"
REGION = "us-east-1"
_ROOT = Path(__file__).parents[2]
_PATIENCE_S = 120.0
_TRIES = 3
_MEMORY_BYTES = 4 << 30
_CONFIGURATION = """
[global]
fsid = {fsid}
mon initial members = a
mon host = v2:127.0.0.1:{mon_port}/0
public network = 127.0.0.0/8
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
osd pool default pg num = 1
osd pool default pgp num = 1
osd objectstore = memstore
memstore device bytes = {memory}
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
pid file = {folder}/$name.pid
keyring = {folder}/keyring
mon data = {folder}/mon
osd data = {folder}/osd
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw gc obj min wait = 2
rgw gc processor period = 2
rgw gc processor max time = 2
"""


class Access(NamedTuple):
    """How a server is reached."""

    endpoint: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """What to set, by the names of AWS."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
        }

    def make_bucket(self, name: str) -> None:
        """Make a bucket, unless it is there."""
        from minio import Minio

        host = self.endpoint.partition("://")[2]
        client = Minio(host, self.access_key, self.secret_key, secure=False, region=REGION)
        if not client.bucket_exists(name):
            client.make_bucket(name)


def missing_programs() -> list[str]:
    """The programs that are needed and not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class Server:
    """The server, running from the start of a block to its end."""

    def __init__(self, folder: Path) -> None:
        self._top = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        for number in range(_TRIES):  # another program may take a port that was free just before
            self._folder = self._top / str(number)
            self.port, self._mon_port = free_ports(2)
            self.access = Access(f"http://127.0.0.1:{self.port}", secrets.token_hex(8), secrets.token_hex(16))
            try:
                self._start()
                return self
            except RuntimeError:
                self.stop()
                if number == _TRIES - 1:
                    raise
            except BaseException:
                self.stop()
                raise
        raise AssertionError

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        """The processes that are running."""
        return [process.pid for process in self._processes]

    def stop(self) -> None:
        """End all processes, and wait for them; there is nothing that they could lose."""
        for process in reversed(self._processes):
            process.kill()
        for process in self._processes:
            process.wait()
        self._processes.clear()

    def _start(self) -> None:
        for name in ("mon", "osd"):
            (self._folder / name).mkdir(parents=True)
        fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
        known = {"fsid": fsid, "folder": self._folder, "port": self.port, "mon_port": self._mon_port}
        configuration = _CONFIGURATION.format(**known, memory=_MEMORY_BYTES)
        (self._folder / "ceph.conf").write_text(configuration)
        self._make_keys()
        mon = f"[v2:127.0.0.1:{self._mon_port}]"
        self._do("monmaptool", "--create", "--addv", "a", mon, "--fsid", fsid, "monmap")
        self._do("ceph-mon", "-c", "ceph.conf", "--mkfs", "-i", "a", "--monmap", "monmap", "--keyring", "keyring")
        self._serve("ceph-mon", "-i", "a")
        self._do("ceph", "-c", "ceph.conf", "osd", "new", osd)
        known_osd = ["-i", "0", "--mkfs", "--osd-uuid", osd, "--keyring", "keyring"]
        self._do("ceph-osd", "-c", "ceph.conf", *known_osd)
        self._serve("ceph-osd", "-i", "0")
        self._serve("radosgw", "-n", "client.rgw")
        self._wait_for_port()
        keys = [f"--access-key={self.access.access_key}", f"--secret-key={self.access.secret_key}"]
        self._do("radosgw-admin", "-c", "ceph.conf", "user", "create", "--uid=tests", "--display-name=tests", *keys)

    def _make_keys(self) -> None:
        caps = {
            "mon.": ["mon", "allow *"],
            "client.admin": ["mon", "allow *", "osd", "allow *", "mgr", "allow *"],
            "client.rgw": ["mon", "allow rw", "osd", "allow rwx"],
            "osd.0": ["mon", "allow profile osd", "osd", "allow *"],
        }
        for number, (name, allowed) in enumerate(caps.items()):
            pairs = [
                argument
                for of, what in zip(allowed[::2], allowed[1::2], strict=True)
                for argument in ("--cap", of, what)
            ]
            make = ["--create-keyring"] if number == 0 else []
            self._do("ceph-authtool", *make, "keyring", "--gen-key", "-n", name, *pairs)

    def _do(self, *command: str) -> None:
        """Run a command to its end, in the folder of the server."""
        done = subprocess.run(command, cwd=self._folder, capture_output=True, timeout=_PATIENCE_S)
        if done.returncode:
            message = (
                f"{command[0]} ended with status {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}"
            )
            raise RuntimeError(message)

    def _serve(self, program: str, *arguments: str) -> None:
        """Start a server, which stays in the foreground and out of the terminal's reach."""
        command = ["setpriv", "--pdeathsig", "KILL", program, "-f", "-c", "ceph.conf", *arguments]
        with (self._folder / f"{program}.out").open("wb") as out:
            process = subprocess.Popen(command, cwd=self._folder, stdout=out, stderr=out, start_new_session=True)
        self._processes.append(process)

    def _wait_for_port(self) -> None:
        end = time.monotonic() + _PATIENCE_S
        while time.monotonic() < end:
            gone = next((process for process in self._processes if process.poll() is not None), None)
            if gone is not None:
                message = f"{gone.args!r} ended with status {gone.returncode}: see {self._folder}"
                raise RuntimeError(message)
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        message = f"radosgw does not listen after {_PATIENCE_S:.0f} s: see {self._folder}"
        raise RuntimeError(message)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def shared_server(folder: Path) -> Access:
    """The server of a run of tests, started by the first that wants it; this process uses it until it ends.

    Args:
        folder: of the run, the same for all of its processes.
    """
    folder.mkdir(exist_ok=True)
    if folder not in _used:
        with (folder / "starting.lock").open("w") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            users = os.open(folder / "users.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
            fcntl.flock(users, fcntl.LOCK_SH)  # waits for a server that is ending
            if not _is_serving(folder):
                _start_shared(folder)
            _used[folder] = users
    return Access(*json.loads((folder / "access.json").read_text()))


_used: dict[Path, int] = {}  # the lock of each, which ends with this process


def _is_serving(folder: Path) -> bool:
    with (folder / "serving.lock").open("w") as serving:
        try:
            fcntl.flock(serving, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return (folder / "access.json").exists()
        return False


def _start_shared(folder: Path) -> None:
    command = [sys.executable, "-m", "tests.support.s3_server", "--shared", str(folder)]
    with (folder / "server.out").open("wb") as out:
        process = subprocess.Popen(
            command, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=out, start_new_session=True
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    process.stdout.close()
    process.returncode = 0  # nobody waits for it
    if line.strip() != b"serving":
        message = f"The S3 server did not start: {(folder / 'server.out').read_text()[-2000:]}"
        raise RuntimeError(message)


def _serve_shared(folder: Path) -> None:
    """Serve for as long as there are users."""
    with (folder / "serving.lock").open("w") as serving, (folder / "users.lock").open("w") as users:
        fcntl.flock(serving, fcntl.LOCK_EX)
        with tempfile.TemporaryDirectory(prefix="mistudio-s3-") as own, Server(Path(own)) as server:
            (folder / "access.json").write_text(json.dumps(server.access))
            print("serving", flush=True)
            fcntl.flock(users, fcntl.LOCK_EX)
            (folder / "access.json").unlink()


def main() -> None:
    """Serve until Ctrl-C or SIGTERM, or until no test uses it any more."""
    parser = argparse.ArgumentParser(description="A real S3 server on this machine, in memory.")
    parser.add_argument("--bucket", default="mistudio", help="a bucket to make")
    parser.add_argument("--shared", type=Path, help="the folder of a run of tests, to serve that alone")
    options = parser.parse_args()
    if missing := missing_programs():
        sys.exit(f"{', '.join(missing)} not found: apt-get install --no-install-recommends {PACKAGES}")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    with suppress(KeyboardInterrupt):
        if options.shared:
            _serve_shared(options.shared)
            return
        with tempfile.TemporaryDirectory(prefix="mistudio-s3-") as own, Server(Path(own)) as server:
            server.access.make_bucket(options.bucket)
            exports = server.access.environment | {"MISTUDIO_STORE": f"s3://{options.bucket}/store"}
            print(
                "\n".join([*(f"export {name}={value}" for name, value in exports.items()), "# Ctrl-C ends it."]),
                flush=True,
            )
            signal.pause()


def _end(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
