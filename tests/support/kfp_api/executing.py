"""Has the pipeline of a run executed for real, by kfp's local runner in a process of its own.

The process is what the pods of a run are on a cluster: it knows the run's id and the store, and nothing of who
submitted. What its steps tell moves the tasks of the run on; how it ends ends the run.
"""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from mistudio.events import EVENTS_ENV, Event, EventReader, Failed, Finished, Started
from mistudio.steps.records import RUN_ENV
from tests.support.kfp_api.server import KfpServer
from tests.support.kfp_api.state import StoredRun

ROOT = Path(__file__).parents[3]
_POLL_S = 0.2
_RUN = """
import json, sys
from pathlib import Path
from kfp import components, local
folder = Path(sys.argv[1])
local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "root"), raise_on_error=True)
pipeline = components.load_component_from_text((folder / "pipeline.yaml").read_text(encoding="utf-8"))
pipeline(**json.loads((folder / "arguments.json").read_text(encoding="utf-8")))
"""


class Executor:
    """Runs what is submitted to a server; to be used in a ``with`` block.

    Args:
        server: that runs are submitted to.
        folder: for files of the runs.
        environment: further environment variables of the pods.
    """

    def __init__(self, server: KfpServer, folder: Path, environment: dict[str, str]) -> None:
        self._server, self._folder, self._environment = server, folder, environment
        self.files: dict[str, Path] = {}  # what lies in the working folder of the pods, by its name there
        self._threads: list[threading.Thread] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Executor":
        self._server.on_run = self._start
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        for thread in self._threads:
            thread.join()

    def _start(self, run: StoredRun, document: str) -> None:
        folder = self._folder / run.model.run_id
        folder.mkdir(parents=True)
        for name, path in self.files.items():
            (folder / name).symlink_to(path)
        (folder / "pipeline.yaml").write_text(document, encoding="utf-8")
        arguments = run.model.runtime_config.parameters or {}
        (folder / "arguments.json").write_text(json.dumps(arguments), encoding="utf-8")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "MISTUDIO_"))}
        environment = kept | {
            "PYTHONPATH": str(ROOT / "src"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            EVENTS_ENV: str(folder / "events.jsonl"),
            RUN_ENV: run.model.run_id,
            **self._environment,
        }
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _RUN, str(folder)], env=environment, stdout=log, stderr=log, cwd=folder
            )
        self._processes.append(process)
        thread = threading.Thread(target=self._watch, args=(run, process, folder), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _watch(self, run: StoredRun, process: subprocess.Popen[bytes], folder: Path) -> None:
        """Move the run on with what its steps tell, until its process has ended and all of that is read."""
        reader = EventReader(folder / "events.jsonl")
        with self._server.lock:
            run.become("RUNNING")
        while True:
            ended = _has_ended(process)
            for event in reader.read():
                with self._server.lock:
                    _move(run, event, (folder / "log").read_bytes())
            if ended:
                break
        with self._server.lock:
            run.become("SUCCEEDED" if process.returncode == 0 else "FAILED")


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_POLL_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def _move(run: StoredRun, event: Event, log: bytes) -> None:
    task = event.step.replace("_", "-")
    if isinstance(event, Started):
        run.workflow.begin(task)
    elif isinstance(event, Finished | Failed):
        going = [each for each in run.workflow.tasks if each.task.name == task and each.task.state == "RUNNING"]
        nodes = going[0] if going else run.workflow.begin(task)  # steps that publish nothing tell no beginning
        run.workflow.end(nodes, "SUCCEEDED" if isinstance(event, Finished) else "FAILED")
        run.logs[nodes.executor.pod] = log
