"""What every step shares, however it was started: opening the store, timing, tracking, and telling a parent.

``StepOutput`` is what a step returns to the command line and to KFP components alike.
"""

import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistudio.artifacts import Artifact, JsonScalar, Manifest, Produced, Recipe, Store, open_store
from mistudio.artifacts.kinds import split_kind
from mistudio.errors import MistudioError
from mistudio.heap import keep_freed_memory, release_freed_memory
from mistudio.progress import emit_event
from mistudio.tracking import Run, step_run


@dataclass(frozen=True)
class StepOutput:
    """A finished step: what it published, whether that was there already, and how long it took."""

    step: str
    artifact: Artifact
    found: bool
    seconds: float

    def write_to(self, artifact: Any) -> None:
        """Fill a KFP artifact: the manifest as its content, the summary as its metadata."""
        Path(artifact.path).write_bytes(self.artifact.manifest.to_json())
        artifact.metadata.update(self.metadata())

    def write_file_to(self, artifact: Any, name: str) -> None:
        """Fill a KFP artifact with one of the published files, for the dashboard to show."""
        Path(artifact.path).write_bytes(self.artifact.file(name).read_bytes())

    def metrics(self) -> dict[str, float]:
        """The numbers of the summary."""
        summary = self.artifact.manifest.summary
        return {
            name: float(value)
            for name, value in summary.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }

    def metadata(self) -> dict[str, JsonScalar]:
        """Place, digest and summary."""
        return {
            "artifact_uri": self.artifact.uri,
            "digest": self.artifact.digest,
            "found": self.found,
            **self.artifact.manifest.summary,
        }


def artifact_uri(path: str) -> str:
    """The store prefix of the artifact whose manifest a KFP artifact carries at ``path``.

    Raises:
        DamagedArtifact: the file is not a manifest.
    """
    manifest = Manifest.from_json(Path(path).read_bytes(), path)
    kind, version = split_kind(manifest.kind)
    recipe = Recipe(
        kind=kind, schema_version=version, config=manifest.config, inputs=manifest.inputs, seed=manifest.seed
    )
    return recipe.prefix


def run_step(
    step: str,
    store_url: str,
    work: Callable[[Store, Run], Produced],
    plot: Callable[[Artifact, Run], None] | None = None,
    about: str = "",
) -> StepOutput:
    """Do the work of a step and report it: to MLflow, and to the parent process if there is one.

    ``about`` tells a step that fails from others of its name in one pipeline.

    A step that was found published opens no run, so that repeating a pipeline stays quick.
    """
    started = time.monotonic()
    keep_freed_memory(one_heap=step != "ingest")  # tokenizers work on all cores, in small pieces
    emit_event(event="step_started", step=step, about=about)
    try:
        with step_run(step, store_url) as run:
            produced = work(open_store(store_url), run)
            release_freed_memory()  # importing MLflow takes more than a small step does
            output = StepOutput(step, produced.artifact, produced.found, round(time.monotonic() - started, 3))
            if not produced.found:
                log_output(run, output, plot)
    except Exception as error:
        _report_failure(step, about, error)
        raise
    emit_event(
        event="step_finished",
        step=step,
        uri=output.artifact.uri,
        digest=output.artifact.digest,
        found=output.found,
        seconds=output.seconds,
        summary=dict(output.artifact.manifest.summary),
    )
    return output


def log_output(run: Run, output: StepOutput, plot: Callable[[Artifact, Run], None] | None) -> None:
    """Log settings and figures of what a step published, and what ``plot`` draws."""
    artifact, step = output.artifact, output.step
    run.log_params({**flat(artifact.manifest.config), "seed": artifact.manifest.seed})
    run.log_metrics(output.metrics())
    run.log_artifact_of(step, artifact)
    if plot:
        plot(artifact, run)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names, without those that are not set."""
    settings: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            settings |= flat(value, f"{prefix}{name}.")
        elif value is not None:
            settings[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return settings


def _report_failure(step: str, about: str, error: Exception) -> None:
    if isinstance(error, MistudioError):
        message, exit_code = str(error), error.exit_code
    else:
        raised = "".join(traceback.format_exception_only(error)).strip()
        message, exit_code = f"internal error: {raised}", 1
    emit_event(event="step_failed", step=step, about=about, message=message, exit_code=exit_code)
