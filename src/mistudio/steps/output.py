"""What a step returns, to the command line and to KFP components alike."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistudio.artifacts import Artifact, JsonScalar, Manifest, Recipe
from mistudio.artifacts.kinds import split_kind
from mistudio.events import Finished
from mistudio.steps.summary_page import summary_page


@dataclass(frozen=True)
class StepOutput:
    """A finished step: what it published, whether that was there already, and how long it took."""

    step: str
    artifact: Artifact
    found: bool
    seconds: float

    @property
    def command(self) -> str:
        """The step's name on the command line and in MLflow."""
        return self.step.replace("_", "-")

    def write_to(self, artifact: Any) -> None:
        """Fill a KFP artifact: the manifest as its content, the summary as its metadata."""
        Path(artifact.path).write_bytes(self.artifact.manifest.to_json())
        artifact.metadata.update(self.metadata())

    def write_file_to(self, artifact: Any, name: str) -> None:
        """Fill a KFP artifact with one of the published files, for the dashboard to show."""
        Path(artifact.path).write_bytes(self.artifact.file(name).read_bytes())

    def write_summary_to(self, artifact: Any) -> None:
        """Fill a KFP artifact with a short page on what was published, for the dashboard to show."""
        Path(artifact.path).write_text(
            summary_page(self.step, self.artifact, found=self.found, seconds=self.seconds), encoding="utf-8"
        )

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

    def event(self) -> Finished:
        """What is told of it to whoever follows the run."""
        uri, digest = self.artifact.uri, self.artifact.digest
        summary = dict(self.artifact.manifest.summary)
        return Finished(step=self.step, uri=uri, digest=digest, found=self.found, seconds=self.seconds, summary=summary)


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
