"""Runs for what is done: a pipeline, a step, work that was done before."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mistudio.tracking.client import connected
from mistudio.tracking.connection import Connection
from mistudio.tracking.runs import Run, finishing
from mistudio.tracking.views import PIPELINE, STEP
from mistudio.tracking.where import PARENT_ENV, RUN_ENV, SWITCH_ENV, URI_ENV, database, is_tracking, tracking_uri


@contextmanager
def pipeline_run(name: str, store_url: str, title: str = "") -> Iterator[Run]:
    """A run for a whole pipeline, or the one that was made for it; steps that are started inside log nested runs."""
    run = Run(name, store_url, run_id=os.environ.get(RUN_ENV), title=title, tags={PIPELINE: name})
    settings: dict[str, str | None] = {}
    if is_tracking():
        run_id = run.run_id
        # What this process could not reach the steps need not wait for.
        settings = {PARENT_ENV: run_id, URI_ENV: tracking_uri(store_url), RUN_ENV: None} if run_id else _OFF
    with _environment(settings), finishing(run):
        yield run


_OFF: dict[str, str | None] = {SWITCH_ENV: "off"}


@contextmanager
def step_run(step: str, store_url: str, title: str = "") -> Iterator[Run]:
    """A run for one step: the one that Kubeflow's plugin made, else a new one under the pipeline's."""
    run = Run(step, store_url, os.environ.get(PARENT_ENV), os.environ.get(RUN_ENV), title=title, tags={STEP: step})
    with finishing(run):
        yield run


@contextmanager
def past_run(name: str, store_url: str, connection: Connection, began_s: float, ended_s: float) -> Iterator[Run]:
    """A run for work that was done before, between these times in seconds since 1970.

    Raises:
        StorageError: MLflow cannot be used.
    """
    run = Run(name, store_url, began_s=began_s, connection=connection, tags={STEP: name})
    yield run
    run.finish(ended_s=ended_s)
    connection.refuse_failed()


def logged_digests(store_url: str, connection: Connection) -> set[tuple[str, str]]:
    """Step and digest of each artifact that a step's own run in MLflow names.

    Raises:
        StorageError: MLflow cannot be used.
    """
    found = connection.ask(lambda: _logged(*connected(store_url)))
    connection.refuse_failed()
    return found or set()


def experiment_if_any(store_url: str) -> str | None:
    """The id of the experiment, where there is a database already; None where there is none, or it cannot be used."""
    path = database(tracking_uri(store_url))
    if path is None or not path.exists():
        return None
    return Connection().ask(lambda: connected(store_url)[1])


def _logged(client: Any, experiment: str) -> set[tuple[str, str]]:
    digests: set[tuple[str, str]] = set()
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        for run in page:
            tags = run.data.tags
            steps = [name.removesuffix(".digest") for name in tags if name.endswith(".digest")]
            # A pipeline's run names what its steps published, and says of each whether it was found.
            digests |= {(step, tags[f"{step}.digest"]) for step in steps if f"{step}.found" not in tags}
        token = page.token
        if not token:
            return digests


@contextmanager
def _environment(settings: Mapping[str, str | None]) -> Iterator[None]:
    """Have these variables until the end; None: not have them."""
    before = {name: os.environ.get(name) for name in settings}
    _set_variables(settings)
    try:
        yield
    finally:
        _set_variables(before)


def _set_variables(settings: Mapping[str, str | None]) -> None:
    for name, value in settings.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
