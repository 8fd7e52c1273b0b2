"""The report step: from found features and an evaluation to one HTML page and a short Markdown summary."""

from pydantic import BaseModel, ConfigDict, Field

from mistudio.artifacts import Artifact, Draft, Produced, Recipe, Store, Summary, produce
from mistudio.errors import InputError
from mistudio.report.dashboard import DASHBOARD, write_dashboard
from mistudio.report.lineage import trace
from mistudio.report.markdown import render_markdown
from mistudio.report.metrics import read_metrics


class ReportConfig(BaseModel):
    """What the dashboard shows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(default="Feature dashboard", min_length=1, max_length=200, description="heading of the page")
    max_features: int | None = Field(
        default=10_000,
        ge=1,
        description="features in the list, the first by number; each adds about 1.5 kB to the page; null shows all",
    )
    contexts_per_feature: int = Field(default=10, ge=0, le=1000, description="contexts shown for each feature")


def report(store: Store, features: Artifact, evaluation: Artifact, config: ReportConfig | None = None) -> Produced:
    """Publish ``dashboard.html`` (one file, no network) and ``report.md``.

    Raises:
        InputError: an input is of another kind, or the two are of different autoencoders.
        DamagedArtifact: a file of an input, or an artifact that it was made from, is not what was published.
        StorageError: the store cannot be written.
    """
    config = config or ReportConfig()
    _check_inputs(features, evaluation)

    def build(draft: Draft) -> Summary:
        metrics = read_metrics(evaluation)
        lineage = trace(store, {"features": features, "evaluation": evaluation})
        with draft.stage("dashboard.html") as staged:
            counts = write_dashboard(
                staged,
                features=features,
                metrics=metrics,
                lineage=lineage,
                title=config.title,
                max_features=config.max_features,
                contexts_per_feature=config.contexts_per_feature,
            )
        draft.write("report.md", render_markdown(config.title, metrics, lineage, counts).encode())
        return {
            "features": counts.features,
            "features_shown": counts.shown,
            "features_dead": counts.dead,
            "explained_variance": metrics["explained_variance"],
            "l0": metrics["l0"],
            "ce_recovered": metrics["ce_recovered"],
        }

    recipe = Recipe(
        kind="report",
        # A page is made from its templates too: with new ones it is a new page.
        config={**config.model_dump(mode="json"), "templates": DASHBOARD.digest()},
        inputs={"features": features.ref, "evaluation": evaluation.ref},
    )
    return produce(store, recipe, "report", build)


def _check_inputs(features: Artifact, evaluation: Artifact) -> None:
    for artifact, kind in ((features, "features"), (evaluation, "evaluation")):
        if artifact.manifest.short_kind != kind:
            message = f"{artifact.uri} is of kind {artifact.manifest.kind}, but the report needs one of kind {kind}."
            raise InputError(message)
    found = features.manifest.inputs.get("sae")
    evaluated = evaluation.manifest.inputs.get("sae")
    if found and evaluated and found.digest != evaluated.digest:
        message = (
            f"{features.uri} was found with {found.uri}, but {evaluation.uri} evaluates {evaluated.uri}. "
            "Give the report features and an evaluation of one autoencoder."
        )
        raise InputError(message)
