"""The report step: from found features, an evaluation and scores to one HTML page and a short Markdown summary."""

from mistudio.artifacts import Artifact, Draft, Line, Produced, Recipe, Store, Summary, produce
from mistudio.errors import InputError
from mistudio.evaluate import EvaluateConfig
from mistudio.features import FeatureSet, check_settings
from mistudio.features.selection import check_same
from mistudio.report.commands import missing_commands
from mistudio.report.config import ReportConfig
from mistudio.report.dashboard import DASHBOARD, write_dashboard
from mistudio.report.interpretation import Interpretation
from mistudio.report.lineage import trace
from mistudio.report.markdown import render_markdown
from mistudio.report.metrics import OUTLIER_FIGURES, read_metrics


def report(
    store: Store,
    features: Artifact,
    evaluation: Artifact,
    config: ReportConfig | None = None,
    scores: Artifact | None = None,
    trials: Artifact | None = None,
) -> Produced:
    """Publish ``dashboard.html`` (one file, no network) and ``report.md``.

    Args:
        store: holds everything.
        features: what was found of each feature.
        evaluation: of the same autoencoder.
        config: what to show.
        scores: of explanations of these features; none: the page has no explanations.
        trials: of these features, tried in the model after find; none: the page shows what find has tried.

    Raises:
        InputError: an input is of another kind, they are of different autoencoders, or the scores of other features.
        DamagedArtifact: a file of an input, or an artifact that it was made from, is not what was published.
        StorageError: the store cannot be written.
    """
    config = config or ReportConfig()
    _check_inputs(features, evaluation)
    check_settings(features, trials)
    explanations = _explanations(store, features, scores) if scores is not None else None
    further = {"scores": scores, "trials": trials}
    inputs = {"features": features, "evaluation": evaluation}
    inputs |= {role: artifact for role, artifact in further.items() if artifact is not None}

    def build(draft: Draft) -> Summary:
        metrics = read_metrics(evaluation)
        lineage = trace(store, inputs)
        found = FeatureSet(features, trials=trials)
        interpretation = Interpretation(scores, explanations, found.num_features) if scores and explanations else None
        with draft.stage("dashboard.html") as staged:
            counts = write_dashboard(
                staged,
                features=found,
                interpretation=interpretation,
                metrics=metrics,
                lineage=lineage,
                title=config.title,
                max_features=config.max_features,
                contexts_of_kind=config.contexts_of_kind,
                dense_above=_dense_above(evaluation),
                commands=missing_commands(features, explanations),
            )
        draft.write("report.md", render_markdown(config.title, metrics, lineage, counts, interpretation).encode())
        interpreted: Summary = {}
        if interpretation is not None:
            interpreted = {"explained": interpretation.explained, "interpretable": interpretation.interpretable}
        return {
            "features": counts.features,
            "features_shown": counts.shown,
            "features_dead": counts.dead,
            "explained_variance": metrics["explained_variance"],
            **{name: metrics[name] for name in OUTLIER_FIGURES if name in metrics},
            "l0": metrics["l0"],
            "ce_recovered": metrics["ce_recovered"],
            **interpreted,
        }

    recipe = Recipe(
        kind="report",
        # A page is made from its templates too: with new ones it is a new page.
        config={**config.model_dump(mode="json"), "templates": DASHBOARD.digest()},
        inputs={name: artifact.ref for name, artifact in inputs.items()},
    )
    return produce(store, recipe, "report", build)


def _dense_above(evaluation: Artifact) -> float:
    """The share of tokens above which the evaluation counts a latent as dense."""
    default = EvaluateConfig.model_fields["dense_above"].default
    return float(str(evaluation.manifest.config.get("dense_above", default)))


def _check_inputs(features: Artifact, evaluation: Artifact) -> None:
    _check_kind(features, "features")
    _check_kind(evaluation, "evaluation")
    found = features.manifest.inputs.get("sae")
    evaluated = evaluation.manifest.inputs.get("sae")
    if found and evaluated and found.digest != evaluated.digest:
        message = (
            f"{features.uri} was found with {found.uri}, but {evaluation.uri} evaluates {evaluated.uri}. "
            "Give the report features and an evaluation of one autoencoder."
        )
        raise InputError(message)


def _check_kind(artifact: Artifact, kind: str) -> None:
    if artifact.manifest.short_kind != kind:
        message = f"{artifact.uri} is of kind {artifact.manifest.kind}, but the report needs one of kind {kind}."
        raise InputError(message)


def _explanations(store: Store, features: Artifact, scores: Artifact) -> Artifact:
    """What was scored; refused where it explains other features."""
    _check_kind(scores, "scores")
    explanations = Line(store, scores).required("explanations")
    check_same(scores.uri, explanations, features)
    return explanations
