"""What is made is brought to use: the step deploy. It publishes nothing in the store."""

from typing import TYPE_CHECKING

from mistudio.artifacts import record_action
from mistudio.steps.context import Context
from mistudio.steps.spec import Input, Inputs, Step

if TYPE_CHECKING:
    from mistudio.cluster.config import DeployConfig


def _deploy(context: Context, inputs: Inputs, config: "DeployConfig") -> str:
    from mistudio.cluster.deploying import deploy

    sae, outcome = inputs.one("sae"), "failed"
    try:
        done = deploy(sae, config, inputs.maybe("evaluation"), inputs.maybe("scores"))
        outcome = "done"
    finally:
        if config.place is not None:  # also of a rollout that failed: it has changed the cluster, and changed it back
            place, share = str(config.place), config.canary_percent
            record_action(
                context.store, "deploy", sae.uri, sae.digest, place=place, canary_percent=share, outcome=outcome
            )
    return done


DEPLOY = Step(
    name="deploy",
    title="Deploy autoencoder",
    summary="Serve an autoencoder by a KServe predictor. Ready, tried and watched, or what was served before is back.",
    config="mistudio.cluster.config:DeployConfig",
    inputs=(
        Input("sae", "sae", "Trained autoencoder (sae/...)."),
        Input("evaluation", "evaluation", "Its evaluation (evaluation/...), noted with what is served.", optional=True),
        Input("scores", "scores", "Scores of its explanations (scores/...), noted too.", optional=True),
    ),
    returns="str",
    returned="What was done, a line each.",
    is_command=True,
    run=_deploy,
)
