"""The train step: from activations, stored or live, to a published sparse autoencoder."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mistudio.artifacts import Artifact, Produced, Recipe, Store, produce_together
from mistudio.sae.parallel import num_processes
from mistudio.subject import SubjectSource
from mistudio.train.config import TrainConfig, TrainRuntime, check_stream

if TYPE_CHECKING:
    from mistudio.train.learner import MetricsLog
    from mistudio.train.training import Training


def train(
    store: Store,
    activations: Artifact,
    config: TrainConfig,
    seed: int = 0,
    runtime: TrainRuntime | None = None,
    on_metrics: "MetricsLog | None" = None,
    source: SubjectSource | None = None,
) -> Produced:
    """Publish the autoencoder that ``config`` asks for; go on from a checkpoint if there is one.

    Args:
        store: where to publish.
        activations: artifact of kind ``activations`` that holds the hook point.
        config: what to train.
        seed: of initialisation and order.
        runtime: device and checkpoints.
        on_metrics: called with the mean metrics and the step, about 200 times a run.
        source: the model, where activations come live from it; by default found where the capture says.

    Raises:
        InputError: the activations lack the hook point, or the model they come from is not to be found.
        ConfigError: training diverged.
    """
    return train_together(store, activations, [config], seed, runtime, on_metrics and [on_metrics], source)[0]


def train_together(
    store: Store,
    activations: Artifact,
    configs: Sequence[TrainConfig],
    seed: int = 0,
    runtime: TrainRuntime | None = None,
    on_metrics: Sequence["MetricsLog"] | None = None,
    source: SubjectSource | None = None,
) -> list[Produced]:
    """Publish several autoencoders trained over one stream of activations, which is read once for all.

    Each is the same artifact as :func:`train` gives; those that are there already are left out of the training.

    Several processes (see :mod:`mistudio.sae.workers`) all have to call this with the same arguments. The first one
    holds the locks, writes and publishes; the others find what it has published.

    Args:
        store: where to publish.
        activations: artifact of kind ``activations`` that holds the hook point.
        configs: what to train; they have to agree on hook points, batch size and buffer.
        seed: of initialisation and order.
        runtime: device and checkpoints.
        on_metrics: one for each config, called with the mean metrics and the step.
        source: the model, where activations come live from it; by default found where the capture says.

    Raises:
        InputError: the activations lack the hook point, or the model they come from is not to be found.
        ConfigError: the settings of the stream differ, two configs are the same, or a training diverged.
        WorkerFailed: another process of this training cannot go on.
    """
    runtime = runtime or TrainRuntime()
    configs = [_with_rate(config) for config in configs]
    recipes = [recipe_of(activations, config, seed) for config in configs]
    check_stream(configs)

    def training() -> "Training":
        from mistudio.train.training import Training

        return Training(store, activations, configs, seed, runtime, on_metrics, source)

    if num_processes() > 1:
        return training().produce(recipes)
    return produce_together(store, recipes, "train", lambda drafts: training().learn(drafts))


def recipe_of(activations: Artifact, config: TrainConfig, seed: int) -> Recipe:
    """The recipe of an autoencoder; it does not say where and on how many hosts it is trained."""
    content = _with_rate(config).model_dump(mode="json")
    return Recipe(kind="sae", config=content, inputs={"activations": activations.ref}, seed=seed)


def _with_rate(config: TrainConfig) -> TrainConfig:
    """The recipe holds the rate that is used, so that another default is another recipe."""
    return config.model_copy(update={"learning_rate": config.peak_learning_rate})
