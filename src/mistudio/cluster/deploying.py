"""The step deploy: an autoencoder of the store, brought to a predictor of a cluster."""

from collections.abc import Iterator

from mistudio.artifacts import Artifact, Line
from mistudio.cluster.api import Cluster, Patience
from mistudio.cluster.config import DeployConfig
from mistudio.cluster.inference import Deployed
from mistudio.cluster.rollout import Rollout
from mistudio.errors import ConfigError, InputError


def deploy(
    sae: Artifact,
    config: DeployConfig,
    evaluation: Artifact | None = None,
    scores: Artifact | None = None,
    patience: Patience | None = None,
) -> str:
    """Serve an autoencoder, and return what was done, a line each.

    Running it again goes on where it was, and changes nothing where all is done. The predictor reads the store itself,
    as its ServingRuntime says.

    Args:
        sae: what is served.
        config: where, and what it has to show there.
        evaluation: of it; noted with what is served.
        scores: of its explanations; noted too.
        patience: for how long the API is waited for.

    Raises:
        ConfigError: it is not said where to deploy, or no cluster is known here.
        InputError: the evaluation or the scores are of another autoencoder.
        ClusterError: the cluster refuses, or cannot be reached.
        RolloutFailed: the predictor is not fit to serve; what was served before is served again.
    """
    if config.place is None:
        message = "deploy_to is not given: name an InferenceService as NAMESPACE/NAME, such as mistudio-services/steer."
        raise ConfigError(message)
    for artifact in filter(None, (evaluation, scores)):
        _check_is_of(artifact, sae)
    deployed = Deployed(sae.uri, config.serving_runtime, dict(_notes(sae, evaluation, scores)))
    with Cluster.connect(config.context or "", patience) as cluster:
        return "\n".join(Rollout(cluster, config.place, deployed, sae.digest, config).run())


def _check_is_of(artifact: Artifact, sae: Artifact) -> None:
    of = Line(artifact.store, artifact).find("sae")
    if of is None or of.digest != sae.digest:
        message = f"{artifact.uri} is of {of.uri if of else 'no autoencoder'}, and not of {sae.uri}."
        raise InputError(message)


def _notes(sae: Artifact, evaluation: Artifact | None, scores: Artifact | None) -> Iterator[tuple[str, str]]:
    yield "sae", sae.uri
    for name, artifact in (("sae", sae), ("evaluation", evaluation), ("scores", scores)):
        if artifact is not None:
            yield f"{name}-digest", artifact.digest
    producer = sae.manifest.producer
    for name, value in (("git-commit", producer.git_commit), ("image", producer.image)):
        if value:
            yield name, value
