"""Pages: the steps report and compare."""

from typing import TYPE_CHECKING

from mistudio.artifacts import Artifact, Produced, Store, open_artifact
from mistudio.steps.context import Context
from mistudio.steps.logged import log_autoencoder, log_figures
from mistudio.steps.naming import autoencoder_words, facts
from mistudio.steps.spec import Input, Inputs, Output, Page, Step
from mistudio.steps.summary_page import flat
from mistudio.tracking import Run
from mistudio.tracking.kubeflow import pipeline_run_id

if TYPE_CHECKING:
    from mistudio.report.config import CompareConfig, ReportConfig


def _report(context: Context, inputs: Inputs, config: "ReportConfig") -> Produced:
    from mistudio.report.step import report

    features, evaluation, scores = inputs.one("features"), inputs.one("evaluation"), inputs.maybe("scores")
    return report(context.store, features, evaluation, config, scores, inputs.maybe("trials"))


def _fullest_trials(store: Store, features: Artifact) -> Artifact | None:
    from mistudio.features import fullest_trials

    return fullest_trials(store, features)


def _compare(context: Context, inputs: Inputs, config: "CompareConfig") -> Produced:
    from mistudio.report.compare import compare

    return compare(context.store, inputs.many("evaluations"), config)


def _keep_dashboard(report_artifact: Artifact, run: Run) -> None:
    for name in report_artifact.paths():
        run.log_file(report_artifact.file(name))


def _log_points(artifact: Artifact, run: Run) -> None:
    """Keep the page, and one run a point with its settings and final figures, however often a sweep was resumed."""
    import pyarrow.parquet as pq

    from mistudio.report.compare import PAGE_NAME, POINTS_NAME

    run.log_file(artifact.file(PAGE_NAME))
    for row in pq.read_table(artifact.file(POINTS_NAME)).to_pylist():
        sae, evaluation = (open_artifact(artifact.store, row[kind], kind) for kind in ("sae", "evaluation"))
        with run.child(" ".join(autoencoder_words(facts(sae))) or sae.uri) as point:
            log_autoencoder(point, sae)
            point.log_params({**flat(sae.manifest.config), "seed": sae.manifest.seed})
            if pipeline_run_id():  # the tasks of a loop on Kubeflow leave them to the launcher
                log_figures(point, "evaluate", evaluation, evaluation.manifest.summary)
            else:
                point.log_metrics(evaluation.manifest.summary)
            for step, made in (("train", sae), ("evaluate", evaluation)):
                point.log_metrics({f"seconds.{step}": made.manifest.producer.seconds})
                point.log_artifact_of(step, made)


REPORT = Step(
    name="report",
    title="Write dashboard",
    summary="Write the feature dashboard: one HTML file.",
    config="mistudio.report.config:ReportConfig",
    inputs=(
        Input("features", "features", "Found features (features/...)."),
        Input("evaluation", "evaluation", "Evaluation of the same autoencoder (evaluation/...)."),
        Input(
            "scores",
            "scores",
            "Scores of its features' explanations (scores/...); without them the page shows no explanations.",
            optional=True,
        ),
        Input(
            "trials",
            "trials",
            "Features tried after find (trials/...), with its settings; not given, mistudio report takes those of most "
            "features; none: what find has tried.",
            optional=True,
            newest_of="features",
            newest=_fullest_trials,
        ),
    ),
    output=Output(
        "report",
        "report",
        "The published report.",
        pages=(
            Page("dashboard", "HTML", "dashboard.html", "The feature dashboard, one HTML page."),
            Page("summary", "Markdown", "report.md", "Figures and lineage in Markdown."),
        ),
    ),
    plot=_keep_dashboard,
    run=_report,
)
COMPARE = Step(
    name="compare",
    title="Compare autoencoders",
    summary="Compare evaluated autoencoders. L0 against what each keeps, the front, the best by a rule.",
    config="mistudio.report.config:CompareConfig",
    inputs=(
        Input(
            "evaluations",
            "evaluation",
            "Evaluations of autoencoders of the same activations (evaluation/...), with commas between them.",
            many=True,
        ),
    ),
    output=Output(
        "comparison",
        "comparison",
        "The published comparison.",
        metrics=True,
        pages=(
            Page("page", "HTML", "comparison.html", "L0 against CE recovered and explained variance, one HTML page."),
        ),
    ),
    plot=_log_points,
    run=_compare,
)
