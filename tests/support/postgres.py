"""A real Postgres for tests, from Debian's package: a server of its own, on a free port of the loopback interface."""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.support.s3_server import free_ports

USER = "mlflow"
PASSWORD = secrets.token_hex(8)
PACKAGE = "postgresql"


class Postgres(NamedTuple):
    """How a server is reached."""

    port: int
    programs: Path  # the folder of its client programs

    @property
    def environment(self) -> dict[str, str]:
        """What libpq reads."""
        return {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": USER, "PGPASSWORD": PASSWORD}

    def run(self, database: str, *statements: str) -> str:
        """Run statements, and return what they print."""
        command = [
            self.programs / "psql",
            "--no-psqlrc",
            "--quiet",
            "--tuples-only",
            "--no-align",
            "--dbname",
            database,
        ]
        asked = [word for statement in statements for word in ("--command", statement)]
        done = subprocess.run(
            [*command, "--set", "ON_ERROR_STOP=1", *asked],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()


def programs() -> Path | None:
    """The folder of the newest version's programs; None where the package is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


@contextmanager
def serving() -> Iterator[Postgres]:
    """A server with the role that MLflow has, and no more databases than a new one has."""
    folder = programs()
    assert folder is not None
    (port,) = free_ports(1)
    # The server refuses to run as root, and its user has to reach its files: not below a folder of pytest's.
    as_user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    own = Path(tempfile.mkdtemp(prefix="mistudio-postgres-"))
    try:
        (own / "password").write_text(PASSWORD)
        if as_user:
            for path in (own, own / "password"):
                shutil.chown(path, "postgres", "postgres")
        made = [folder / "initdb", "--pgdata", own / "data", "--username", USER, "--pwfile", own / "password"]
        quick = ["--no-sync", "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"]
        subprocess.run([*made, *quick], cwd=own, check=True, capture_output=True, **as_user)
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
        given = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (own / "log").open("w") as said:
            process = subprocess.Popen(
                [folder / "postgres", "-D", own / "data", *given], cwd=own, stdout=said, stderr=said, **as_user
            )
        try:
            server = Postgres(port, folder)
            _wait(server, process, own / "log")
            yield server
        finally:
            process.terminate()
            process.wait(60)
    finally:
        shutil.rmtree(own)


def _wait(server: Postgres, process: "subprocess.Popen[bytes]", log: Path) -> None:
    ready = [server.programs / "pg_isready", "--quiet", "--timeout", "1", "--dbname", "postgres"]
    for _ in range(600):
        if process.poll() is not None:
            break
        if subprocess.run(ready, env={**os.environ, **server.environment}).returncode == 0:
            return
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    raise RuntimeError(log.read_text())
