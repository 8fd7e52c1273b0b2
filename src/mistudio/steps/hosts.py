"""Training on several hosts of a cluster: the step train_on_hosts. It publishes what train publishes."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mistudio.artifacts import Produced
from mistudio.settings import Leaf, get, validated
from mistudio.steps.choose import TRAINING
from mistudio.steps.context import Context
from mistudio.steps.spec import Argument, Inputs, Output, Step
from mistudio.steps.training import TRAIN

if TYPE_CHECKING:
    from mistudio.train import TrainConfig

_POD = (
    "What the pod of each host is given, as JSON: resources, env, volumes, volume_mounts, tolerations, node_selector, "
    "affinity, as a pod has them."
)
_ARGUMENTS = (
    Argument("num_nodes", int, "Hosts, each with a pod of its own.", 2),
    Argument("processes_per_node", int, "Processes a host; None: one a GPU of its pod, or one."),
    Argument(
        "training_runtime", str, "ClusterTrainingRuntime of Kubeflow Trainer.", "torch-distributed", place="command"
    ),
    Argument("namespace", str, "Where the TrainJob is made; None: the pod's, or the context's.", place="command"),
    Argument("image", str, "Image of the hosts' pods; None: MISTUDIO_IMAGE, else the runtime's.", place="command"),
    Argument("context", str, "Context of the kubeconfig; None: the pod's account, else the current.", place="command"),
    Argument("pod", dict, _POD, place="command"),
)


def _train_on_hosts(context: Context, inputs: Inputs, config: "TrainConfig") -> list[Produced]:
    """As a list, for the hosts have logged what was made: nothing is logged twice."""
    from mistudio.cluster.hosts_config import HostsConfig
    from mistudio.cluster.training import train_on_hosts
    from mistudio.train.step import recipe_of

    activations = inputs.one("activations")
    given = {each.name: context.given[each.name] for each in _ARGUMENTS if each.name in context.given}
    hosts = validated(HostsConfig, given)
    recipe = recipe_of(activations, config, context.seed)
    arguments = ["train", "--activations", activations.uri, *train_arguments(context, config)]
    return [train_on_hosts(context.store, recipe, [activations], arguments, hosts)]


def train_arguments(context: Context, config: "TrainConfig") -> list[str]:
    """What ``mistudio train`` is given to make the same: all settings, those that were chosen included."""
    named = {name: context.given[name] for name in ("model", "revision", "seed") if name in context.given}
    named["store"] = str(context.store.url)
    settings = [
        *_written(TRAIN.settings, config.model_dump(mode="json")),
        *_written(TRAIN.runtime_settings, context.runtime),
        *_written(TRAIN.loading, context.loading),
    ]
    options = [text for name, value in named.items() for text in (f"--{name}", str(value))]
    return options + [text for setting in settings for text in ("--set", setting)]


def _written(leaves: tuple[Leaf, ...], content: Any) -> Iterator[str]:
    """The settings that have a value, as ``--set`` takes them."""
    for leaf in leaves:
        value = get(content, leaf.path)
        if value is not None:
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            yield f"{leaf.path}={text}"


TRAIN_ON_HOSTS = Step(
    name="train_on_hosts",
    title="Train on several hosts",
    summary="Train on several hosts of a cluster. A TrainJob makes the autoencoder that train would make.",
    config=TRAIN.config,
    runtime=TRAIN.runtime,
    settings_of="train",
    inputs=TRAIN.inputs,
    output=Output("sae", "sae", "Trained autoencoder."),
    arguments=_ARGUMENTS,
    uses=TRAIN.uses,
    choices=TRAINING,
    check=TRAIN.check,
    about=TRAIN.about,
    takes_pod=True,
    run=_train_on_hosts,
)
