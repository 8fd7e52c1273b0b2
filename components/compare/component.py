"""The compare step as a KFP component."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def compare(
    evaluations: dsl.Input[list[dsl.Dataset]],
    comparison: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    keep: float = 0.99,
    title: str = "Comparison",
    store: str = "",
):
    """Compare evaluated autoencoders: L0 against what each keeps, the front, and the best by a rule.

    Args:
        evaluations: Evaluations of autoencoders of the same activations (evaluation/...).
        comparison: The published comparison.
        page: L0 against CE recovered and explained variance, one HTML page.
        metrics: The figures of the best.
        keep: The best is chosen of the sparsest that keep this share of the greatest CE recovered of all.
        title: Title of the page.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    done = steps.compare(
        evaluations=",".join(steps.artifact_uri(evaluation.path) for evaluation in evaluations),
        keep=keep,
        title=title,
        store=store,
    )
    done.write_to(comparison)
    done.write_file_to(page, "comparison.html")
    for name, value in done.metrics().items():
        metrics.log_metric(name, value)
