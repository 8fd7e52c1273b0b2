"""The deploy step as a KFP component. Written by ``make components`` from its declaration: do not edit."""

from typing import Optional

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def deploy(
    sae: dsl.Input[dsl.Model],
    evaluation: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045 - kfp reads no other spelling
    scores: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045 - kfp reads no other spelling
    deploy_to: str = "",
    canary_percent: int = 100,
    deploy_settings: str = "",
    store: str = "",
) -> str:
    """Serve an autoencoder by a KServe predictor. Ready, tried and watched, or what was served before is back.

    Args:
        sae: Trained autoencoder (sae/...).
        evaluation: Its evaluation (evaluation/...), noted with what is served.
        scores: Scores of its explanations (scores/...), noted too.
        deploy_to: InferenceService to serve it by, as NAMESPACE/NAME; empty: nothing is deployed.
        canary_percent: Share of the traffic that it gets beside what is served now; 0: it is started and gets none,
            100: it takes the place of what is served now.
        deploy_settings: Other settings as JSON; mistudio deploy --parameters lists them.
        store: Store: a folder, or s3://bucket/prefix; empty: MISTUDIO_STORE, else the user's data folder.

    Returns:
        What was done, a line each.
    """
    from mistudio import steps

    return steps.call(
        "deploy",
        sae=steps.artifact_uri(sae.path),
        evaluation=steps.artifact_uri(evaluation.path) if evaluation else None,
        scores=steps.artifact_uri(scores.path) if scores else None,
        deploy_to=deploy_to or None,
        canary_percent=canary_percent,
        deploy_settings=deploy_settings or None,
        store=store or None,
    )
