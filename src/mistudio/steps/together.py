"""Several autoencoders that learn from one stream of activations, which is read once for all."""

import json
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from mistudio.artifacts import Artifact, open_artifact, open_store
from mistudio.heap import keep_freed_memory, release_freed_memory
from mistudio.steps.batch import plot_training, subject_settings, subject_source
from mistudio.steps.defaults import CHOOSE
from mistudio.steps.running import StepOutput, log_output
from mistudio.steps.sweep import PointSettings, grid
from mistudio.steps.training import training_config
from mistudio.steps.validation import json_object, validated
from mistudio.tracking import step_run

if TYPE_CHECKING:
    from mistudio.train import TrainConfig


def train_together(
    activations: str,
    model: str = "",
    hook: str = "",
    target_hook: str = "",
    architectures: str = "topk,batchtopk,matryoshka,standard,gated,jumprelu",
    widths: str = "",
    sparsities: str = "32",
    tokens: int = 3_000_000,
    train_settings: str = "",
    checkpoint_every_steps: int = 500,
    model_settings: str = "",
    device: str = "auto",
    seed: int = 0,
    store: str = "",
) -> list[StepOutput]:
    """Train several autoencoders in one pass over the activations.

    Args:
        activations: Captured activations (activations/...).
        model: Model that activations come from live (captured with stored heldout); empty: where capture says.
        hook: Hook point with its layer, such as resid_post.3; empty: the only one captured.
        target_hook: Hook point that transcoders predict, captured in the same run; empty: autoencoders.
        architectures: Kinds of autoencoder, with commas between them.
        widths: Numbers of features, with commas; empty: eight times the activations' width, at least 1,024.
        sparsities: Active features a token, with commas: k, or the target L0 of architectures that have no k.
        tokens: Activations (tokens) to train on; repeats the captured ones if need be.
        train_settings: Other settings of every training as JSON, such as {"ema_decay": 0.999, "skip": "scale"}.
        checkpoint_every_steps: Steps between two checkpoints.
        model_settings: Settings of loading the live model as JSON, such as {"trust_remote_code": true}.
        device: Where to compute: auto, cpu, cuda or cuda:N.
        seed: Seed of initialisation and order, the same for all.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.

    Returns:
        One output an autoencoder: the artifact that ``train`` would publish.

    Raises:
        ConfigError: a setting is refused, or the autoencoders cannot share a stream.
    """
    from mistudio.subject import device_name
    from mistudio.train import TrainRuntime
    from mistudio.train import train_together as train_all

    settings = json_object("train_settings", train_settings, '{"ema_decay": 0.999}')
    train_settings = json.dumps(settings | ({"target_hook": target_hook} if target_hook else {}))
    points = grid(architectures, widths, sparsities, str(seed), train_settings)
    runtime = validated(
        TrainRuntime,
        {
            "device": device_name(device),
            "checkpoint_every_steps": checkpoint_every_steps,
            "subject": subject_settings("auto", "none", device, trust_remote_code=False, model_settings=model_settings),
        },
    )
    started = time.monotonic()
    keep_freed_memory(one_heap=True)
    with step_run("train-together", store) as run, ExitStack() as stack:
        opened = open_store(store)
        artifact = open_artifact(opened, activations, "activations")
        configs = [_config(artifact, hook, point, tokens, train_settings) for point in points]
        runs = [stack.enter_context(run.child(_name(point))) for point in points]
        logs = [each.log_metrics for each in runs]
        source = subject_source(model, "", opened, artifact) if model else None
        produced = train_all(opened, artifact, configs, seed, runtime, logs, source)
        release_freed_memory()
        seconds = round(time.monotonic() - started, 3)
        outputs = [StepOutput("train", each.artifact, each.found, seconds) for each in produced]
        for own, output in zip(runs, outputs, strict=True):
            if not output.found:
                log_output(own, output, plot_training)
    return outputs


def _config(activations: Artifact, hook: str, point: PointSettings, tokens: int, train_settings: str) -> "TrainConfig":
    sparsity = {name: float(point[name]) for name in ("k", "target_l0")}
    architecture, width = str(point["architecture"]), int(point["width"])
    return training_config(activations, hook, architecture, width, sparsity, {"tokens": tokens}, train_settings)


def _name(point: PointSettings) -> str:
    """The name of its run: what it is given, as in ``topk width 1024 k 32``."""
    given = (f"{name} {point[name]:g}" for name in ("width", "k", "target_l0") if point[name] != CHOOSE)
    return " ".join([str(point["architecture"]), *given])
