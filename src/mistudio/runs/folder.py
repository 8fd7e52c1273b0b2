"""A run's folder on this machine: what was asked for, which processes do it, its events, its log, how it ended.

Each file is written once, by one process: ``request.json`` by who starts the run, ``process.json`` and ``outcome.json``
by the run. The kernel's lock of ``process.json`` is held from before the request is there until the run's first process
is gone, however it ends: so a run that was killed is never taken for one that goes on, nor another process for it that
has got its number.
"""

import fcntl
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from mistudio.artifacts import scratch_folder
from mistudio.errors import DamagedArtifact, NotFound
from mistudio.events import EventReader, Finished
from mistudio.plain_text import shortened
from mistudio.runs.run import Run, RunArtifact, State, Target

Model = TypeVar("Model", bound=BaseModel)

_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
_DIED = "its process ended without a result: was it killed? Run it again: it goes on where it stopped."


SETTINGS = TypeAdapter(dict[str, JsonValue])


class Request(BaseModel):
    """What a run was asked to do."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    id: str
    target: Target
    settings: dict[str, JsonValue]
    store: str
    created_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))


class Outcome(BaseModel):
    """How a run ended."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    state: Literal["finished", "failed", "cancelled"]
    exit_code: int
    message: str = ""
    artifacts: tuple[RunArtifact, ...] = ()
    ended_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))


def runs_folder(store_url: str) -> Path:
    """The folder that holds the folders of a store's runs."""
    return scratch_folder(store_url) / "runs"


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events, self.log, self.kfp = path / "events.jsonl", path / "steps.log", path / "kfp"
        self._request, self._process, self._outcome = (
            path / f"{name}.json" for name in ("request", "process", "outcome")
        )

    @property
    def id(self) -> str:
        """The id of the run."""
        return self.path.name

    def request(self) -> Request:
        """What the run was asked to do.

        Raises:
            NotFound: this is no run's folder.
            DamagedArtifact: it was written by another version, or is damaged.
        """
        request = _read(self._request, Request)
        if request is None:
            message = f"There is no run {self.id}: mistudio runs list shows those of a store."
            raise NotFound(message)
        return request

    def write_request(self, request: Request) -> None:
        """Make this the folder of a run."""
        _create(self._request, request)

    @contextmanager
    def held(self) -> Iterator[IO[str]]:
        """The locked file that a new run's process is to inherit: as long as it has it, the run goes on."""
        with self._process.open("w", encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle

    def is_held(self) -> bool:
        """Whether the run's first process is there; or whoever is about to start it."""
        try:
            with self._process.open(encoding="utf-8") as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            pass
        return False

    def write_process_group(self) -> None:
        """Note this process as the first of the run."""
        self._process.write_text(str(os.getpgrp()), encoding="ascii")

    def process_group(self) -> int | None:
        """The number of the run's process group, as soon as it is known."""
        try:
            return int(self._process.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None

    def write_outcome(self, outcome: Outcome) -> None:
        """Note how the run ended, unless that was noted before."""
        _create(self._outcome, outcome)

    def made(self) -> tuple[RunArtifact, ...]:
        """What the run published or found until now."""
        ended = [event for event in EventReader(self.events).read() if isinstance(event, Finished)]
        return tuple(RunArtifact(step=each.step, uri=each.uri, digest=each.digest, found=each.found) for each in ended)

    def read(self) -> Run:
        """The run, as it stands.

        Raises:
            NotFound: this is no run's folder.
            DamagedArtifact: it was written by another version, or is damaged.
        """
        request = self.request()
        is_held = self.is_held()
        outcome = _read(self._outcome, Outcome)  # after the lock: a run writes it, and is gone then
        state: State = outcome.state if outcome else "running" if is_held else "died"
        return Run(
            **request.model_dump(exclude={"version"}),
            state=state,
            ended_at=outcome.ended_at if outcome else None,
            exit_code=outcome.exit_code if outcome else None,
            message=outcome.message if outcome else _DIED if state == "died" else "",
            artifacts=outcome.artifacts if outcome else self.made(),
            process_group=self.process_group(),
            log=str(self.log),
        )


def new_folder(store_url: str) -> RunFolder:
    """Make a folder for a new run; ids sort by time."""
    run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    path = runs_folder(store_url) / run_id
    path.mkdir(parents=True)
    return RunFolder(path)


def find_folder(store_url: str, run_id: str) -> RunFolder:
    """The folder of a run, which may not be there."""
    if not _ID.fullmatch(run_id):
        message = (
            f"{shortened(run_id)} is no id of a run: they look like 20260131-235959-0a1b2c. See mistudio runs list."
        )
        raise NotFound(message)
    return RunFolder(runs_folder(store_url) / run_id)


def all_folders(store_url: str) -> list[RunFolder]:
    """The folders of all runs, the newest first."""
    paths = runs_folder(store_url).glob("*/request.json")
    folders = sorted((path.parent for path in paths if _ID.fullmatch(path.parent.name)), reverse=True)
    return [RunFolder(path) for path in folders]


def _read(path: Path, model: type[Model]) -> Model | None:
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        message = f"{path} was not written by this version of miStudio, or is damaged: remove {path.parent}."
        raise DamagedArtifact(message) from error


def _create(path: Path, content: BaseModel) -> None:
    """Write a file that appears whole, unless there is one."""
    staged = path.with_suffix(f".{uuid.uuid4().hex}")
    staged.write_text(content.model_dump_json(indent=1) + "\n", encoding="utf-8")
    try:
        os.link(staged, path)
    except FileExistsError:
        pass
    finally:
        staged.unlink()
