"""The report step as a KFP component. Written by ``make components`` from its declaration: do not edit."""

from typing import Optional

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def report(
    features: dsl.Input[dsl.Dataset],
    evaluation: dsl.Input[dsl.Dataset],
    report: dsl.Output[dsl.Dataset],
    dashboard: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    scores: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045 - kfp reads no other spelling
    trials: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045 - kfp reads no other spelling
    title: str = "Feature dashboard",
    contexts_per_feature: int = 10,
    report_settings: str = "",
    store: str = "",
):
    """Write the feature dashboard: one HTML file.

    Args:
        features: Found features (features/...).
        evaluation: Evaluation of the same autoencoder (evaluation/...).
        report: The published report.
        dashboard: The feature dashboard, one HTML page.
        summary: Figures and lineage in Markdown.
        scores: Scores of its features' explanations (scores/...); without them the page shows no explanations.
        trials: Features tried after find (trials/...), with its settings; not given, mistudio report takes those of
            most features; none: what find has tried.
        title: Heading of the page.
        contexts_per_feature: Strongest contexts shown of a feature.
        report_settings: Other settings as JSON; mistudio report --parameters lists them.
        store: Store: a folder, or s3://bucket/prefix; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    steps.own_process("report")
    done = steps.run_step(
        "report",
        features=steps.artifact_uri(features.path),
        evaluation=steps.artifact_uri(evaluation.path),
        scores=steps.artifact_uri(scores.path) if scores else None,
        trials=steps.artifact_uri(trials.path) if trials else None,
        title=title,
        contexts_per_feature=contexts_per_feature,
        report_settings=report_settings or None,
        store=store or None,
    )
    done.write_to(report)
    done.write_file_to(dashboard, "dashboard.html")
    done.write_file_to(summary, "report.md")
