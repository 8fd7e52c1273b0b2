"""Runs on this machine: each is a child process in a session of its own, which its starter need not outlive."""

import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from mistudio.artifacts import open_store, store_url
from mistudio.errors import DamagedArtifact, InputError
from mistudio.events import EVENTS_ENV, Event, EventReader, Finished
from mistudio.runs.checking import check_request, refuse_cancel, refuse_retry
from mistudio.runs.folder import SETTINGS, Outcome, Request, RunFolder, all_folders, find_folder, new_folder
from mistudio.runs.processes import ATTACHED, end_members
from mistudio.runs.run import Run, Settings, Target
from mistudio.settings import refused
from mistudio.stopping import Stopped

logger = logging.getLogger(__name__)

_POLL_S = 0.1


class LocalRunner:
    """Runs of a store on this machine; see :class:`mistudio.runs.Runner`.

    Args:
        store: a folder, or s3://bucket/prefix; empty: MISTUDIO_STORE, else the user's data folder.
        environment: Environment variables of the runs; this process's where none are given.
        attached: Runs end with this process, however it ends.
        grace_s: Seconds that a run has to close what it has open when it is cancelled; then it is killed.
    """

    def __init__(
        self,
        store: str = "",
        environment: Mapping[str, str] | None = None,
        *,
        attached: bool = False,
        grace_s: float = 20.0,
    ) -> None:
        self.store = store_url(store)
        self._environment, self._attached, self._grace_s = environment, attached, grace_s

    def start(self, target: Target, settings: Settings) -> Run:
        """Start a run, and return at once.

        Raises:
            ConfigError: a setting is refused.
            StorageError: the store cannot be written.
        """
        settings = {name: value for name, value in settings.items() if value is not None}
        check_request(target, settings)
        try:
            plain = SETTINGS.validate_python(dict(settings))
        except ValidationError as error:
            raise refused(error) from error
        folder = new_folder(open_store(self.store).url)
        request = Request(id=folder.id, target=target, settings=plain, store=self.store)
        try:
            with folder.held() as lock, folder.log.open("wb") as log:
                folder.write_request(request)
                options = [ATTACHED] if self._attached else []
                process = subprocess.Popen(  # noqa: S603 -- the command is ours
                    [sys.executable, "-P", "-m", "mistudio.runs.child", str(folder.path), *options],
                    env=self._child_environment(folder),
                    stdin=subprocess.PIPE if self._attached else subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=[lock.fileno()],
                )
        except OSError:
            shutil.rmtree(folder.path, ignore_errors=True)
            raise
        threading.Thread(target=_wait, args=(process,), name=f"run {folder.id}", daemon=True).start()
        return folder.read()

    def list(self) -> list[Run]:
        """All runs, the newest first; one whose record cannot be read is left out, with a warning."""
        runs = []
        for folder in all_folders(self.store):
            try:
                runs.append(folder.read())
            except DamagedArtifact as error:
                logger.warning("%s", error)
        return runs

    def get(self, run_id: str) -> Run:
        """One run."""
        return find_folder(self.store, run_id).read()

    def events(self, run_id: str, *, follow: bool = False) -> Iterator[Event]:
        """What the run has told, in order; ``follow``: and what it tells until it ends."""
        folder = find_folder(self.store, run_id)
        folder.request()
        reader = EventReader(folder.events)
        for _ in _until_the_end(folder, follow=follow):
            yield from reader.read()

    def log(self, run_id: str, step: str = "", *, follow: bool = False) -> Iterator[bytes]:
        """What the run has printed; ``follow``: and what it prints until it ends."""
        if step:
            message = "A run on this machine has one log for all its steps: leave out which."
            raise InputError(message)
        folder = find_folder(self.store, run_id)
        folder.request()
        folder.log.touch()  # of one that was killed before it could
        with folder.log.open("rb") as handle:
            for _ in _until_the_end(folder, follow=follow):
                yield handle.read()

    def finished(self, run_id: str) -> Sequence[Finished]:
        """What the steps of a run published or found."""
        return [event for event in self.events(run_id) if isinstance(event, Finished)]

    def retry(self, run_id: str) -> Run:
        """Start a run with the settings of one that did not end well; it finds what that one has published."""
        run = self.get(run_id)
        refuse_retry(run)
        return self.start(run.target, run.settings)

    def cancel(self, run_id: str) -> Run:
        """End a run with all its processes; of one that died, those that it left."""
        folder = find_folder(self.store, run_id)
        run = folder.read()
        if run.state != "died":
            refuse_cancel(run)
        group = _process_group(folder)
        if group is not None:
            end_members(group, folder.events, self._grace_s)
        if run.state == "running":
            # The run says so itself, unless it was too early or too late for that.
            folder.write_outcome(Outcome(state="cancelled", exit_code=Stopped.exit_code, artifacts=folder.made()))
        return folder.read()

    def _child_environment(self, folder: RunFolder) -> dict[str, str]:
        given = dict(os.environ if self._environment is None else self._environment)
        return {
            "PYTHONUNBUFFERED": "1",
            # Threads that spin while they wait make small operations slow as soon as another process wants a core.
            "OMP_WAIT_POLICY": "PASSIVE",
            # Looking for plugins of pydantic, of which there are none, costs every step a twentieth of a second.
            "PYDANTIC_DISABLE_PLUGINS": "__all__",
            **given,
            EVENTS_ENV: str(folder.events),
            # Files in the working folder are data: no module of the run or of its steps is taken from there.
            "PYTHONSAFEPATH": "1",
            # An empty entry, as `$PYTHONPATH:/more` makes one, stands for the working folder.
            "PYTHONPATH": os.pathsep.join(filter(None, given.get("PYTHONPATH", "").split(os.pathsep))),
            # The steps run with this interpreter's packages, wherever the run was started from.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{given.get('PATH', '')}",
        }


def _until_the_end(folder: RunFolder, *, follow: bool) -> Iterator[None]:
    """Turns to read what a run writes: one, or as many as it takes until it has ended and all is read."""
    while follow and folder.is_held():
        yield
        time.sleep(_POLL_S)
    yield


def _process_group(folder: RunFolder) -> int | None:
    """The number that a run writes down as the first thing it does."""
    while folder.process_group() is None and folder.is_held():
        time.sleep(_POLL_S)
    return folder.process_group()


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Take note of its end, so that it does not stay as a zombie; its standard input stays open until then."""
    process.wait()
    if process.stdin:
        process.stdin.close()
