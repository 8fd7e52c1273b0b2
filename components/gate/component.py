"""The gate step as a KFP component. Written by ``make components`` from its declaration: do not edit."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def gate(
    evaluation: dsl.Input[dsl.Dataset],
    scores: dsl.Input[dsl.Dataset],
    min_explained_variance: float = 0.0,
    min_ce_recovered: float = 0.0,
    max_dead: float = 1.0,
    min_interpretable: int = 0,
    store: str = "",
) -> str:
    """Hold the figures of an autoencoder against what was asked for.

    Args:
        evaluation: Evaluation of an autoencoder (evaluation/...).
        scores: Scores of its explanations (scores/...).
        min_explained_variance: Least explained variance on held-out documents, outliers that training left out not
            counted; 0: any.
        min_ce_recovered: Least share of the cross-entropy recovered; 0: any.
        max_dead: Largest share of features that never fire; 1: any.
        min_interpretable: Fewest features whose explanation scores 0.8 or more; 0: any.
        store: Store: a folder, or s3://bucket/prefix; empty: MISTUDIO_STORE, else the user's data folder.

    Returns:
        What falls short, with the figures; empty where nothing does.
    """
    from mistudio import steps

    return steps.call(
        "gate",
        evaluation=steps.artifact_uri(evaluation.path),
        scores=steps.artifact_uri(scores.path),
        min_explained_variance=min_explained_variance,
        min_ce_recovered=min_ce_recovered,
        max_dead=max_dead,
        min_interpretable=min_interpretable,
        store=store or None,
    )
