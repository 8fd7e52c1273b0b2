"""What the train step does: learning from one stream, checkpoints, and writing what is published."""

import json
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mistudio.activations import LiveReader, RowSource, open_rows
from mistudio.artifacts import Artifact, Draft, Produced, Recipe, Store, Summary, open_artifact, produce_together
from mistudio.parallel import one_thread
from mistudio.progress import progress, say
from mistudio.sae import SparseAutoencoder, Workers, config_json, save_weights, start_workers
from mistudio.sae.files import CONFIG_NAME, WEIGHTS_NAME
from mistudio.subject import SubjectSource
from mistudio.subject.cost import product_speed, stated, training_flop
from mistudio.train.config import TRAINING_NAME, TrainConfig, TrainRuntime
from mistudio.train.learner import Learner, Metrics, MetricsLog
from mistudio.train.scaling import Rows
from mistudio.train.trainer import State, Trainer

logger = logging.getLogger(__name__)

_KEPT_CHECKPOINTS = 2
_MANY_FILTERED = 0.05  # a share of the tokens that nobody would call outliers
# Multiplications of a step's encoder product (tokens x latents x width) below which one thread is faster than two: it
# takes 0.65 of their time at 2^26, about the same at 2^28, and 1.5 times at 2^30 (TopK; threads that do not spin).
_SMALL = 1 << 28
_TIMED_ROWS = 1024


class Training:
    """The training of several autoencoders over one stream, by the processes that were started for it.

    Args:
        store: where to publish.
        activations: what they learn from.
        configs: what to train; they agree on the stream.
        seed: of initialisation and order.
        runtime: device and checkpoints.
        on_metrics: one for each config, or none.
        source: the model, where activations come live from it.
    """

    def __init__(
        self,
        store: Store,
        activations: Artifact,
        configs: Sequence[TrainConfig],
        seed: int,
        runtime: TrainRuntime,
        on_metrics: Sequence[MetricsLog] | None,
        source: SubjectSource | None,
    ) -> None:
        self.store, self.activations, self.configs, self.seed = store, activations, configs, seed
        self.runtime, self.on_metrics, self.source = runtime, on_metrics, source
        self.workers, self.device = start_workers(runtime.device)

    def learn(self, drafts: dict[int, Draft]) -> dict[int, Summary]:
        """Train those that have a draft, and write what the first process publishes of them."""
        numbers, workers = sorted(drafts), self.workers
        wanted = [self.configs[number] for number in numbers]
        logs = [self.on_metrics[number] for number in numbers] if self.on_metrics and workers.is_first else []
        hook, target_hook = wanted[0].hook, wanted[0].target_hook
        subject = self.runtime.subject.model_copy(update={"device": str(self.device)})
        with (
            open_rows(
                self.store, self.activations, hook, target_hook, source=self.source, subject_config=subject
            ) as rows,
            _threads_for(wanted, rows),
        ):
            trainer = Trainer(wanted, rows, self.seed, self.device, workers, self.runtime.parallel)
            run = _TrainingLoop(
                trainer, [drafts[number] for number in numbers], self.runtime.checkpoint_every_steps, logs, workers
            )
            run.resume()
            run.to_the_end()
        finished = [learner.finish() for learner in trainer.learners]
        if not workers.is_first:
            return {}
        return {
            number: _publish(learner, sae, drafts[number])
            for number, learner, sae in zip(numbers, trainer.learners, finished, strict=True)
        }

    def produce(self, recipes: list[Recipe]) -> list[Produced]:
        """Publish in the first of several processes what all learn; the others find it."""
        workers = self.workers

        def lead(drafts: dict[int, Draft]) -> dict[int, Summary]:
            workers.of_first(sorted(drafts))
            return self.learn(drafts)

        with workers.failing_together():
            produced: list[Produced] = []
            if workers.is_first:
                produced = produce_together(self.store, recipes, "train", lead)
                if all(each.found for each in produced):
                    workers.of_first([])
            elif missing := workers.of_first(None):
                self.learn({number: Draft(self.store, recipes[number].prefix) for number in missing})
            workers.agree()
            return produced or [Produced(open_artifact(self.store, recipe.prefix), found=True) for recipe in recipes]


class _TrainingLoop:
    """A trainer with the drafts that its checkpoints go to; the first process writes and shows them."""

    def __init__(
        self,
        trainer: Trainer,
        drafts: list[Draft],
        checkpoint_every: int,
        on_metrics: list[MetricsLog],
        workers: Workers,
    ) -> None:
        self.trainer, self.drafts, self.workers = trainer, drafts, workers
        self.checkpoint_every, self.on_metrics = checkpoint_every, on_metrics

    def resume(self) -> None:
        """Go on from the last checkpoints that can be read, as far as there are any."""
        own = [_last_checkpoint(draft) for draft in self.drafts] if self.workers.is_first else None
        names = self.workers.of_first(own)
        states = [
            _load_checkpoint(draft, name) if name else None for draft, name in zip(self.drafts, names, strict=True)
        ]
        self.trainer.load_state_dicts(states)

    def to_the_end(self) -> None:
        """Train until all are done."""
        trainer, learners = self.trainer, self.trainer.learners
        total = max(learner.planned_tokens for learner in learners)
        what = "Train autoencoder" + "s" * (len(learners) > 1)
        if self.workers.is_first:
            say(f"{what}: the training steps take {_cost(trainer)}")
        with progress(what, total, "tokens") if self.workers.is_first else nullcontext() as bar:
            if bar:
                bar.advance(trainer.tokens)
            while not trainer.finished:
                learning = [not learner.finished for learner in learners]
                before = trainer.tokens
                reports = trainer.train_step()
                if bar:
                    bar.advance(trainer.tokens - before, note=_note(reports[0]) if 0 in reports else "")
                for number, metrics in reports.items():
                    self._log(number, metrics)
                if not trainer.finished:
                    self._save(learning)

    def _log(self, number: int, metrics: Metrics) -> None:
        if self.on_metrics:
            values = {name: value for name, value in metrics.items() if name != "step"}
            self.on_metrics[number](values, int(metrics["step"]))

    def _save(self, learning: list[bool]) -> None:
        """Save those that learned in the last step, where it is time or where they are done."""
        is_time = self.trainer.step % self.checkpoint_every == 0
        for number, learner in enumerate(self.trainer.learners):
            in_step = learning[number] and learner.step == self.trainer.step
            if in_step and (is_time or learner.finished):
                state = self.trainer.state_dict(number)
                if self.workers.is_first:
                    _save_checkpoint(self.drafts[number], learner.step, state)


def _threads_for(configs: Sequence[TrainConfig], rows: RowSource[Rows]) -> AbstractContextManager[None]:
    """One thread for small steps, but not where a model computes the rows at the same time."""
    largest = max(config.batch_size * config.sae.width for config in configs) * rows.width
    return one_thread() if largest < _SMALL and not isinstance(rows, LiveReader) else nullcontext()


def _cost(trainer: Trainer) -> str:
    """What is ahead, for people: of learning alone, on one device."""
    learners, device = trainer.learners, str(trainer.device)
    config, width = learners[0].config, learners[0].sae.width
    speed = product_speed(min(config.batch_size, _TIMED_ROWS), learners[0].sae.d_in, width, device)
    return stated(sum(map(_flop_ahead, learners)), speed)


def _flop_ahead(learner: Learner) -> float:
    tokens, sae = max(learner.planned_tokens - learner.tokens, 0), learner.sae
    return training_flop(tokens, sae.d_in, sae.width, few_active=hasattr(sae.config, "k"))


def _note(metrics: Metrics) -> str:
    return f"FVU {metrics['fvu']:.3f}  L0 {metrics['l0']:.1f}  dead {metrics['dead_fraction']:.1%}"


def _save_checkpoint(draft: Draft, step: int, state: State) -> None:
    tensors, text = state
    with draft.stage_work(f"checkpoint-{step:09d}.safetensors") as path:
        save_file(tensors, path, metadata=text)
    for name in _checkpoints(draft)[:-_KEPT_CHECKPOINTS]:
        draft.remove_work(name)


def _load_checkpoint(draft: Draft, name: str) -> State:
    with safe_open(draft.work_file(name), framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118 -- no mapping


def _last_checkpoint(draft: Draft) -> str | None:
    """The last checkpoint that can be read, if there is one."""
    for name in reversed(_checkpoints(draft)):
        try:
            with safe_open(draft.work_file(name), framework="pt"):
                return name
        except SafetensorError as error:
            logger.warning("%s cannot be read (%s); going on from the one before", name, error)
    return None


def _checkpoints(draft: Draft) -> list[str]:
    return sorted(name for name in draft.work_names() if name.startswith("checkpoint-"))


def _publish(learner: Learner, sae: SparseAutoencoder, draft: Draft) -> Summary:
    config = learner.config
    with draft.stage(WEIGHTS_NAME) as path:
        save_weights(sae, path)
    draft.write(CONFIG_NAME, config_json(sae, config.hook, learner.scaling.activation_std, config.target_hook))
    draft.write(TRAINING_NAME, json.dumps(learner.history, indent=0, sort_keys=True).encode())
    last = learner.history[-1]
    filtered_fraction = learner.filtered_tokens / (learner.tokens + learner.filtered_tokens)
    if filtered_fraction > _MANY_FILTERED:
        logger.warning(
            "%.2g%% of the tokens at %s were left out, as farther from the middle than %g times the median: so many "
            "are no outliers. Raise max_norm_ratio, or learn from all (None).",
            *(100 * filtered_fraction, config.hook, config.max_norm_ratio),
        )
    filtered = {"filtered_fraction": round(filtered_fraction, 6)} if learner.norm_limit else {}
    return {
        "architecture": config.sae.architecture,
        "hook": config.hook,
        "target_hook": config.target_hook,
        "d_in": sae.d_in,
        "width": sae.width,
        "tokens": learner.tokens,
        "filtered_tokens": learner.filtered_tokens,
        **filtered,
        "steps": learner.step,
        "epochs": round(learner.tokens / learner.epoch_tokens, 2),
        "stopped_because": learner.schedule.stopped_because,
        "train_fvu": round(last["fvu"], 6),
        "train_l0": round(last["l0"], 3),
        "train_dead_fraction": round(last["dead_fraction"], 6),
    }
