"""Logging to MLflow what is published in a store and was not logged when it was made."""

from collections.abc import Iterator
from datetime import datetime

from mistudio.artifacts import Artifact, Catalog, open_artifact, open_to_read
from mistudio.artifacts.models import model_names
from mistudio.errors import ConfigError, DamagedArtifact
from mistudio.steps.logged import log_output
from mistudio.steps.output import StepOutput
from mistudio.steps.registering import mirror
from mistudio.steps.registry import STEPS
from mistudio.steps.spec import Step
from mistudio.tracking import Connection, is_tracking, logged_digests, past_run


def log_missing(store_url: str) -> Iterator[str]:
    """Log each artifact that no step's run in MLflow names, the oldest first, and give its prefix.

    A run that is made so has the settings, figures, plots and times of the step; the curve of a training is a plot of
    it, and it belongs to no pipeline's run. Then the registry gets the versions that it lacks, which are given too, and
    the aliases.

    Raises:
        ConfigError: nothing is tracked here.
        StorageError: there is no such store, or MLflow cannot be used.
    """
    if not is_tracking():
        message = "MLflow is not installed, or MISTUDIO_TRACKING is off: pip install 'mistudio[tracking]'."
        raise ConfigError(message)
    store = open_to_read(store_url)
    connection = Connection()
    logged = logged_digests(store.url, connection)
    for artifact, step in _published(Catalog(store)):
        if (step.name, artifact.digest) not in logged:
            _log(artifact, step, connection)
            yield artifact.uri
    for name in model_names(store):
        made = mirror(store, name, connection)
        connection.refuse_failed()
        yield from map(str, made)


def _published(catalog: Catalog) -> Iterator[tuple[Artifact, Step]]:
    """What steps have published, with the step, the oldest first; what is damaged is left out."""
    for entry in sorted(catalog.entries(), key=lambda entry: entry.created_at):
        try:
            artifact = open_artifact(catalog.store, entry.uri)
        except DamagedArtifact:
            continue
        step = STEPS.get(artifact.manifest.producer.step)
        if step is not None and step.output is not None:
            yield artifact, step


def _log(artifact: Artifact, step: Step, connection: Connection) -> None:
    manifest = artifact.manifest
    seconds = manifest.producer.seconds or 0.0
    ended_s = datetime.fromisoformat(manifest.created_at).timestamp()
    with past_run(step.command, artifact.store.url, connection, ended_s - seconds, ended_s) as run:
        log_output(run, StepOutput(step.name, artifact, False, seconds), step)
