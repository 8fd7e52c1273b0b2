"""A real MLflow server, as in a cluster: a database behind it, artifacts served by it.

The database is Postgres where Debian's package is installed, started as a user without rights in a folder of its own;
elsewhere SQLite.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

_PATIENCE_S = 240
_PAUSE_S = 0.1
_DRIVER = "postgresql+psycopg2"  # SQLAlchemy would take another
_USER = "postgres"  # of Debian's package; Postgres refuses to run as root


def find_postgres() -> Path | None:
    """The folder of Postgres' programs, the newest where there are several."""
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None, key=lambda folder: float(folder.parent.name))


class MlflowServer:
    """A server of MLflow on a port of its own.

    Args:
        database: address of its database.
        artifacts: folder of what it keeps.
        log: file for what it says.
    """

    def __init__(self, database: str, artifacts: Path, log: Path) -> None:
        self.database, self.artifacts, self._log = database, artifacts, log
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        own = ("MLFLOW_", "MISTUDIO_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        kept = ["--artifacts-destination", str(self.artifacts), "--serve-artifacts"]
        where = ["--backend-store-uri", self.database, *kept]
        listening = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        command = [sys.executable, "-P", "-m", "mlflow", "server", *where, *listening]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, cwd=self._log.parent, start_new_session=True
            )
        until(self._answers, f"MLflow does not start: {self._log}")

    def stop(self) -> None:
        """End it and its worker, so that its port refuses."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
            until(lambda: not _is_open(self.port), "the port stays open")

    def _answers(self) -> bool:
        assert self._process is None or self._process.poll() is None, self._log.read_text(errors="replace")[-2000:]
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False


@contextmanager
def mlflow_server(folder: Path) -> Iterator[MlflowServer]:
    """A server that answers, with what it keeps below ``folder``."""
    with _database(folder) as address:
        server = MlflowServer(address, folder / "artifacts", folder / "server.log")
        try:
            server.start()
            yield server
        finally:
            server.stop()


def dump(server: MlflowServer) -> str:
    """Everything that the server's database holds, as text."""
    if server.database.startswith("sqlite"):
        return Path(server.database.removeprefix("sqlite:///")).read_bytes().decode(errors="replace")
    import psycopg2

    with psycopg2.connect(server.database.replace(_DRIVER, "postgresql")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        tables = [row[0] for row in cursor.fetchall()]
        rows = []
        for table in tables:
            cursor.execute(f'SELECT * FROM "{table}"')
            rows += [str(row) for row in cursor.fetchall()]
    connection.close()
    return "\n".join(rows)


def until(holds: Callable[[], bool], message: str) -> None:
    """Wait for a condition."""
    pause = threading.Event()
    for _ in range(int(_PATIENCE_S / _PAUSE_S)):
        if holds():
            return
        pause.wait(_PAUSE_S)
    raise TimeoutError(message)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def _is_open(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _database(folder: Path) -> Iterator[str]:
    programs = find_postgres()
    if programs is None:
        yield f"sqlite:///{folder}/mlflow.db"
        return
    pytest.importorskip("psycopg2")
    # Beside pytest's folders, which no other user may enter.
    own = Path(tempfile.mkdtemp(prefix="postgres-"))
    user = _USER if os.getuid() == 0 else None
    if user is not None:
        os.chown(own, pwd.getpwnam(user).pw_uid, -1)
    port = free_port()
    control = (str(programs / "pg_ctl"), "-D", str(own / "data"), "-w", "-t", str(_PATIENCE_S))
    try:
        _run(user, own, str(programs / "initdb"), "-D", str(own / "data"), "-U", "mlflow", "-A", "trust", "-N")
        settings = ("listen_addresses=127.0.0.1", f"port={port}", "fsync=off", f"unix_socket_directories={own}")
        _run(user, own, *control, "-l", str(own / "log"), "-o", " ".join(f"-c {each}" for each in settings), "start")
        try:
            yield f"{_DRIVER}://mlflow@127.0.0.1:{port}/postgres"
        finally:
            _run(user, own, *control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _run(user: str | None, folder: Path, *command: str) -> None:
    quiet = subprocess.DEVNULL
    subprocess.run(
        command, check=True, cwd=folder, user=user, stdin=quiet, stdout=quiet, stderr=quiet, timeout=_PATIENCE_S
    )
