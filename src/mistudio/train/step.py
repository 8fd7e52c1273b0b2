"""The train step: from captured activations to a published sparse autoencoder."""

import json
import logging

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mistudio.activations import ActivationReader, PairedReader
from mistudio.artifacts import Artifact, Draft, Produced, Recipe, Store, Summary, produce
from mistudio.progress import progress
from mistudio.sae import config_json, save_weights
from mistudio.sae.files import CONFIG_NAME, WEIGHTS_NAME
from mistudio.train.config import TrainConfig
from mistudio.train.trainer import MetricsLog, Trainer

logger = logging.getLogger(__name__)

TRAINING_NAME = "training.json"
_KEPT_CHECKPOINTS = 2


class TrainRuntime(BaseModel):
    """What changes how training runs, but not what it ends with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str = "cpu"
    checkpoint_every_steps: int = Field(default=500, ge=1, description="steps between two checkpoints")


def train(
    store: Store,
    activations: Artifact,
    config: TrainConfig,
    seed: int = 0,
    runtime: TrainRuntime | None = None,
    on_metrics: MetricsLog | None = None,
) -> Produced:
    """Publish the autoencoder that ``config`` asks for; go on from a checkpoint if there is one.

    Args:
        store: where to publish.
        activations: artifact of kind ``activations`` that holds the hook point.
        config: what to train.
        seed: of initialisation and order.
        runtime: device and checkpoints.
        on_metrics: called with the mean metrics and the step, about 200 times a run.

    Raises:
        InputError: the activations lack the hook point.
        ConfigError: training diverged.
    """
    runtime = runtime or TrainRuntime()
    # The recipe holds the rate that is used, so that another default is another recipe.
    config = config.model_copy(update={"learning_rate": config.peak_learning_rate})
    recipe = Recipe(
        kind="sae", config=config.model_dump(mode="json"), inputs={"activations": activations.ref}, seed=seed
    )

    def build(draft: Draft) -> Summary:
        reader = _reader(activations, config)
        trainer = Trainer(config, reader, seed, torch.device(runtime.device))
        _resume(trainer, draft)
        _run(trainer, draft, runtime.checkpoint_every_steps, on_metrics)
        return _publish(trainer, draft)

    return produce(store, recipe, "train", build)


def _reader(activations: Artifact, config: TrainConfig) -> ActivationReader | PairedReader:
    if config.target_hook is None:
        return ActivationReader(activations, config.hook, "train")
    return PairedReader(activations, config.hook, config.target_hook, "train")


def _run(trainer: Trainer, draft: Draft, checkpoint_every: int, on_metrics: MetricsLog | None) -> None:
    with progress("Train autoencoder", trainer.planned_tokens, "tokens") as bar:
        bar.advance(trainer.tokens)
        while not trainer.finished:
            before = trainer.tokens
            metrics = trainer.train_step()
            bar.advance(trainer.tokens - before, note=_note(metrics) if metrics else "")
            if metrics and on_metrics:
                on_metrics({name: value for name, value in metrics.items() if name != "step"}, trainer.step)
            if trainer.step % checkpoint_every == 0 and not trainer.finished:
                _save_checkpoint(trainer, draft)


def _note(metrics: dict[str, float]) -> str:
    return f"FVU {metrics['fvu']:.3f}  L0 {metrics['l0']:.1f}  dead {metrics['dead_fraction']:.1%}"


def _save_checkpoint(trainer: Trainer, draft: Draft) -> None:
    tensors, text = trainer.state_dict()
    with draft.stage_work(f"checkpoint-{trainer.step:09d}.safetensors") as path:
        save_file(tensors, path, metadata=text)
    for name in _checkpoints(draft)[:-_KEPT_CHECKPOINTS]:
        draft.remove_work(name)


def _resume(trainer: Trainer, draft: Draft) -> None:
    """Go on from the last checkpoint that can be read, if there is one."""
    for name in reversed(_checkpoints(draft)):
        try:
            with safe_open(draft.work_file(name), framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 -- not a mapping
                text = file.metadata()
        except SafetensorError as error:
            logger.warning("%s cannot be read (%s); going on from the one before", name, error)
            continue
        trainer.load_state_dict(tensors, text)
        return


def _checkpoints(draft: Draft) -> list[str]:
    return sorted(name for name in draft.work_names() if name.startswith("checkpoint-"))


def _publish(trainer: Trainer, draft: Draft) -> Summary:
    sae, config = trainer.finish(), trainer.config
    with draft.stage(WEIGHTS_NAME) as path:
        save_weights(sae, path)
    draft.write(CONFIG_NAME, config_json(sae, config.hook, trainer.scaling.spread, config.target_hook))
    draft.write(TRAINING_NAME, json.dumps(trainer.history, indent=0, sort_keys=True).encode())
    last = trainer.history[-1]
    return {
        "architecture": config.sae.architecture,
        "hook": config.hook,
        "target_hook": config.target_hook,
        "d_in": sae.d_in,
        "width": sae.width,
        "tokens": trainer.tokens,
        "filtered_tokens": trainer.filtered_tokens,
        "steps": trainer.step,
        "epochs": round(trainer.tokens / len(trainer.reader), 2),
        "stopped_because": trainer.stopped_because,
        "train_fvu": round(last["fvu"], 6),
        "train_l0": round(last["l0"], 3),
        "train_dead_fraction": round(last["dead_fraction"], 6),
    }
