"""The compare step as a KFP component. Written by ``make components`` from its declaration: do not edit."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def compare(
    evaluations: dsl.Input[list[dsl.Dataset]],
    comparison: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
    keep: float = 0.99,
    title: str = "Comparison",
    store: str = "",
):
    """Compare evaluated autoencoders. L0 against what each keeps, the front, the best by a rule.

    Args:
        evaluations: Evaluations of autoencoders of the same activations (evaluation/...), with commas between them.
        comparison: The published comparison.
        page: L0 against CE recovered and explained variance, one HTML page.
        summary: A page on it, for the dashboard to show.
        metrics: The figures, for the dashboard to compare.
        keep: The best is chosen of the sparsest that keep this share of the greatest CE recovered of all.
        title: Heading of the page.
        store: Store: a folder, or s3://bucket/prefix; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    steps.own_process("compare")
    done = steps.run_step(
        "compare",
        evaluations=[steps.artifact_uri(each.path) for each in evaluations],
        keep=keep,
        title=title,
        store=store or None,
    )
    done.write_to(comparison)
    done.write_file_to(page, "comparison.html")
    done.write_summary_to(summary)
    for name, value in done.metrics().items():
        metrics.log_metric(name, value)
