"""The register step as a KFP component. Written by ``make components`` from its declaration: do not edit."""

from typing import Optional

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def register(
    sae: dsl.Input[dsl.Model],
    evaluation: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045 - kfp reads no other spelling
    scores: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045 - kfp reads no other spelling
    name: str = "",
    store: str = "",
) -> str:
    """Register an autoencoder as a version of a model, the candidate from then on.

    Args:
        sae: Trained autoencoder (sae/...).
        evaluation: Evaluation of it, for its figures; not given: the newest.
        scores: Scores of its explanations, for its figures; not given: the newest.
        name: Name of the model that it becomes a version of; empty: nothing is registered.
        store: Store: a folder, or s3://bucket/prefix; empty: MISTUDIO_STORE, else the user's data folder.

    Returns:
        Name and number of the version, such as stories/3; empty where nothing is registered.
    """
    from mistudio import steps

    return steps.call(
        "register",
        sae=steps.artifact_uri(sae.path),
        evaluation=steps.artifact_uri(evaluation.path) if evaluation else None,
        scores=steps.artifact_uri(scores.path) if scores else None,
        name=name or None,
        store=store or None,
    )
