"""One autoencoder in training, with all of its state: what it does with a batch of activations.

A step normalises the batch, takes the losses' gradient, and lets Adam move the weights. Everything that decides
the next step is in ``state_dict``: weights, moments, schedule, counters of silent latents and the random state.

Several processes can do this together. Each has the whole batch. They share its tokens: gradients, losses and counts
are summed, and all move the same weights. Or they share the latents: each has the weights and the state of its own.

Shape legend: T tokens of a batch, P of a part of it, D width of the input, E of the target, F features (latents).
"""

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mistudio.activations import ActivationStream
from mistudio.errors import ConfigError
from mistudio.heap import release_freed_memory
from mistudio.out_of_memory import is_out_of_memory, memory_needed, too_little_memory
from mistudio.sae import (
    ALONE,
    Losses,
    NormLimit,
    Parallel,
    SAETraining,
    SparseAutoencoder,
    Stage,
    Workers,
    new_autoencoder,
)
from mistudio.train.config import TrainConfig
from mistudio.train.scaling import Rows, Scaling, as_float32, as_pair, norm_limit, only
from mistudio.train.schedule import Schedule, steps_for
from mistudio.train.whole import clip_gradients, of_first, sum_of_parts, sum_of_shares

logger = logging.getLogger(__name__)

_HISTORY_POINTS = 200
SAMPLE_ROWS = 16_384  # from all over the corpus: they set the scale and the origin
_COUNT_DEAD_EVERY = 10  # steps; counting waits for the device

Metrics = dict[str, float]
MetricsLog = Callable[[Metrics, int], None]


class Learner:
    """One autoencoder, its optimiser and how far it is.

    Args:
        config: what to train.
        stream: where the batches will come from; only its sizes and a sample are read.
        seed: of initialisation.
        device: where to train.
        workers: the processes that train it.
        parallel: what they share: the tokens of each batch, or the latents.

    Raises:
        ConfigError: the latents cannot be shared by so many.
    """

    def __init__(
        self,
        config: TrainConfig,
        stream: ActivationStream[Rows],
        seed: int,
        device: torch.device,
        workers: Workers = ALONE,
        parallel: Parallel = "data",
    ) -> None:
        self.config, self.device = config, device
        self.epoch_tokens = len(stream)
        self.planned_tokens = min(config.tokens, config.max_epochs * self.epoch_tokens)
        self.generator = torch.Generator().manual_seed(seed)
        self.dead_indices = torch.empty(0, dtype=torch.int64, device=device)  # as of when they were last counted
        self.step, self.tokens, self.filtered_tokens = 0, 0, 0
        self.micro_batches = config.micro_batches
        self.history: list[Metrics] = []
        self._sums: dict[str, Tensor] = {}  # of what is reported, and of the objective, since last asked for
        sample = of_first(as_float32(stream.sample(SAMPLE_ROWS)), workers)
        self.norm_limit = norm_limit(sample, config)
        if self.norm_limit:
            sample = self._kept(sample, self.norm_limit, workers)
        self.scaling = Scaling.measure(sample, config)
        self.sae = new_autoencoder(config.sae, stream.width, stream.target_width)
        self.training: SAETraining = self.sae.for_training()
        self.training.target_variance.fill_(self.scaling.target_variance)
        self.training.initialise(self.scaling.inputs(as_pair(sample)[0]), self.generator, self.scaling.b_dec_E)
        self.training.encoder_dtype = getattr(torch, config.encoder_dtype)
        self.training.join(workers, parallel)
        self.training.to(device)
        self.silent_tokens_F = torch.zeros(len(self.sae.b_enc), dtype=torch.int64, device=device)
        num_steps = steps_for(self.planned_tokens, self.epoch_tokens, config.batch_size)
        self.schedule = Schedule(config, num_steps, self.training.ramp_fraction)
        self.report_every = max(num_steps // _HISTORY_POINTS, 1)
        self._parameters = {name: value for name, value in self.sae.named_parameters() if value.requires_grad}
        decoder = [value for name, value in self._parameters.items() if name == "W_dec"]
        others = [value for name, value in self._parameters.items() if name != "W_dec"]
        groups = [{"params": others, "ratio": 1.0}, {"params": decoder, "ratio": config.decoder_rate_ratio}]
        betas = (0.9, config.adam_beta2)
        self.optimiser = torch.optim.Adam(groups, lr=config.peak_learning_rate, betas=betas, fused=True)
        self._means = {name: value.detach().clone() for name, value in self._parameters.items() if config.ema_decay}

    @property
    def finished(self) -> bool:
        """Whether the last step is done."""
        return self.step >= self.schedule.num_steps

    @property
    def progress(self) -> float:
        """Share of training that is done."""
        return self.step / self.schedule.num_steps

    @property
    def dead_F(self) -> Tensor:
        """Latents that have been silent for ``dead_after_tokens``."""
        return self.silent_tokens_F >= self.config.dead_after_tokens

    def learn(self, rows: Rows) -> Metrics | None:
        """Do one step; every ``report_every`` steps return the mean metrics since the last report.

        Args:
            rows: a batch of activations in the model's units, or of inputs and targets; float32, on the device.

        Raises:
            ConfigError: training diverged, memory runs out, or every token of the batch is left out.
        """
        x_TD, y_TE = self._normalised(rows)
        if self.step % _COUNT_DEAD_EVERY == 0:
            self.dead_indices = self.dead_F.nonzero().squeeze(1)
        losses = self._gradients(x_TD, y_TE)
        with memory_needed("while Adam moves the weights", self.config.sae.width):
            self._move_weights(losses)
        self.step += 1
        self.tokens += len(x_TD)
        self.silent_tokens_F += len(x_TD)
        self.silent_tokens_F.masked_fill_(losses.fired_F > 0, 0)
        self._add("check.objective", losses.objective)
        for name, value in {"loss": losses.total, **losses.parts}.items():
            self._add(f"report.{name}", value)
        if self.step % self.config.check_every_steps == 0:
            self._check(x_TD, y_TE)
        return self._report() if self.step % self.report_every == 0 or self.finished else None

    @torch.no_grad()
    def finish(self) -> SparseAutoencoder:
        """End the training: the autoencoder, on the CPU, for activations as the model has them.

        Where latents are shared, the first process gets all of them.
        """
        for name, mean in self._means.items():
            self._parameters[name].copy_(mean)
        self.sae.cpu()
        self.training.constrain()
        self.training.fold(self.scaling.normalisation)
        self.sae.norm_limit = self.norm_limit
        for name in self.training.names_by_latent():
            weight = getattr(self.sae, name)
            weight.data = self.training.latents.collect(weight.data)
        return self.sae

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All state: tensors, and what JSON can hold; the same, whatever processes share.

        All have to ask for it, and the first gets it whole.
        """
        tensors = {f"sae.{name}": value for name, value in self.training.state().items()}
        for name, parameter in self._parameters.items():
            for moment, value in self.optimiser.state[parameter].items():
                tensors[f"adam.{name}.{moment}"] = value
        tensors |= {f"mean.{name}": value for name, value in self._means.items()}
        tensors |= {f"sums.{name}": value for name, value in self._sums.items()}
        tensors["generator"] = self.generator.get_state()
        tensors["silent_tokens_F"] = self.silent_tokens_F
        was_dead_F = torch.zeros_like(self.silent_tokens_F).index_fill_(0, self.dead_indices, 1)
        tensors = {
            name: self.training.latents.collect(value) if self._is_by_latent(name, value) else value
            for name, value in tensors.items()
        }
        tensors["dead_indices"] = self.training.latents.collect(was_dead_F).nonzero().squeeze(1)
        scalars = {"schedule": self.schedule.state_dict(), **{name: getattr(self, name) for name in _SCALARS}}
        return tensors, scalars

    def load_state_dict(self, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
        """Go on exactly where :meth:`state_dict` was taken."""
        groups: dict[str, dict[str, Tensor]] = {}
        for name, whole in tensors.items():
            group, _, rest = name.partition(".")
            value = self.training.latents.block(whole) if self._is_by_latent(name, whole) else whole
            groups.setdefault(group, {})[rest] = value
        self.training.load_state(groups["sae"])
        for name, parameter in self._parameters.items():
            moments = groups["adam"]
            self.optimiser.state[parameter] = {
                key.removeprefix(f"{name}."): moments[key].to(self.device, copy=True)
                for key in moments
                if key.startswith(f"{name}.")
            }
        for name, mean in self._means.items():
            mean.copy_(groups["mean"][name])
        self.schedule.load_state_dict(scalars["schedule"])
        self._sums = {name: value.to(self.device, copy=True) for name, value in groups.get("sums", {}).items()}
        self.generator.set_state(groups["generator"][""])
        self.silent_tokens_F.copy_(groups["silent_tokens_F"][""])
        was_dead_F = torch.zeros(self.config.sae.width).index_fill_(0, groups["dead_indices"][""].cpu(), 1)
        self.dead_indices = self.training.latents.block(was_dead_F).nonzero().squeeze(1).to(self.device)
        for name in _SCALARS:
            setattr(self, name, scalars[name])

    def _normalised(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Inputs and targets in the units of training, without tokens beyond the norm limit."""
        if self.norm_limit:
            rows = self._within_limit(rows, self.norm_limit)
        input_TD, target_TE = as_pair(rows)
        x_TD = self.scaling.inputs(input_TD)
        return x_TD, self.scaling.targets(target_TE) if self.config.target_hook else x_TD

    def _within_limit(self, rows: Rows, limit: NormLimit) -> Rows:
        kept = self._kept(rows, limit, self.training.workers)
        num_kept = len(as_pair(kept)[0])
        if not num_kept:
            message = f"max_norm_ratio {self.config.max_norm_ratio:g} leaves out every token of a batch: raise it."
            raise ConfigError(message)
        self.filtered_tokens += len(as_pair(rows)[0]) - num_kept
        return kept

    @staticmethod
    def _kept(rows: Rows, limit: NormLimit, workers: Workers) -> Rows:
        """Those within the limit in the first process: by a rounding, another could keep one more."""
        return only(rows, workers.from_first(limit.keeps(as_pair(rows)[0])))

    def _gradients(self, x_TD: Tensor, y_TE: Tensor) -> Losses:
        """Gradients of a whole batch; where memory runs out, the same again in smaller parts."""
        while True:
            try:
                return self._accumulated(x_TD, y_TE)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self.training.workers.say_out_of_memory(error)
                if self.micro_batches >= len(x_TD):
                    how = "with one token at a time"
                    raise too_little_memory(how, self.config.sae.width) from error
            # Only here, with the error, are the attempt's frames gone, and the tensors that they held.
            self._cut_batch(len(x_TD))

    def _cut_batch(self, num_tokens: int) -> None:
        """Make parts half as large from now on, and room for them."""
        self.micro_batches = min(2 * self.micro_batches, num_tokens)
        logger.warning("Out of memory at step %d: going on with %d parts a batch.", self.step, self.micro_batches)
        self.optimiser.zero_grad(set_to_none=True)
        release_freed_memory()
        if self.device.type == "cuda":
            # What was cached for the larger parts is in pieces that the smaller ones may not fit.
            torch.cuda.empty_cache()

    def _accumulated(self, x_TD: Tensor, y_TE: Tensor) -> Losses:
        self.optimiser.zero_grad(set_to_none=True)
        has_dead = self.training.latents.agree(len(self.dead_indices)) > 0
        stage = Stage(self.progress, self.dead_indices if has_dead else None)
        summed: list[Losses] = []
        for x_PD, y_PE in zip(x_TD.chunk(self.micro_batches), y_TE.chunk(self.micro_batches), strict=True):
            own, weight = self.training.batch.share(len(x_PD))
            share = weight * len(x_PD) / len(x_TD)
            losses = self.training.losses(x_PD[own], y_PE[own], stage)
            (losses.total * share).backward()  # type: ignore[no-untyped-call]
            parts = {name: value * share for name, value in losses.parts.items()}
            summed.append(Losses(losses.total.detach() * share, losses.objective * share, parts, losses.fired_F))
        return sum_of_shares(self.training, sum_of_parts(summed))

    def _is_by_latent(self, name: str, value: Tensor) -> bool:
        """Whether a tensor of the state has a row for each latent."""
        of_weight = name.partition(".")[2].partition(".")[0] in self.training.names_by_latent()
        return value.ndim > 0 and (of_weight or name == "silent_tokens_F")

    def _move_weights(self, losses: Losses) -> None:
        """What follows the gradients in a step."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.learning_rate(self.step) * group["ratio"]
        self.training.before_step()
        clip_gradients(self.training, self._parameters, self.config.gradient_clip)
        self.optimiser.step()
        self.training.after_step(losses.parts, self.progress)
        self._move_means()

    @torch.no_grad()
    def _move_means(self) -> None:
        # Early on the mean is of few steps, so that the first weights do not linger.
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        for name, mean in self._means.items():
            mean.lerp_(self._parameters[name], 1 - decay)

    def _add(self, name: str, value: Tensor) -> None:
        if name in self._sums:
            self._sums[name] += value
        else:
            self._sums[name] = value.clone()

    def _take_means(self, scope: str, steps: int) -> Metrics:
        """Means over the last ``steps`` steps; a part that is not in every step counts as zero there."""
        names = sorted(name for name in self._sums if name.startswith(scope))  # a loaded state has lost its order
        return {name.removeprefix(scope): float(self._sums.pop(name)) / steps for name in names}

    def _report(self) -> Metrics:
        last_step = int(self.history[-1]["step"]) if self.history else 0
        metrics = {
            "step": float(self.step),
            "tokens": float(self.tokens),
            **self._take_means("report.", self.step - last_step),
            "dead_fraction": float(self.training.latents.mean(self.dead_F.float().mean(), len(self.dead_F))),
            "learning_rate": float(self.optimiser.param_groups[0]["lr"]),
            "micro_batches": float(self.micro_batches),
        }
        if not math.isfinite(metrics["loss"]):
            message = (
                f"Training diverged: the loss is {metrics['loss']} before step {self.step}. "
                f"Lower learning_rate (it was {self.config.peak_learning_rate:.4g})."
            )
            raise ConfigError(message)
        self.history.append(metrics)
        return metrics

    def _check(self, x_TD: Tensor, y_TE: Tensor) -> None:
        """Revive silent latents, and end early where nothing is gained any more."""
        loss = self._take_means("check.", self.config.check_every_steps)["objective"]
        if self.step < self.schedule.decay_start:
            with memory_needed("while dead latents start anew", self.config.sae.width):
                self._revive(x_TD, y_TE)
        self.schedule.check(self.step, loss)

    @torch.no_grad()
    def _revive(self, x_TD: Tensor, y_TE: Tensor) -> None:
        dead_F = self.dead_F
        if not self.training.latents.agree(int(dead_F.sum())):
            return
        revived_F = self.training.revive(dead_F, x_TD, y_TE, self.generator)
        if not bool(revived_F.any()):
            return
        self.silent_tokens_F[revived_F] = 0
        for name in self._parameters.keys() & self.training.names_by_latent():
            for moment in ("exp_avg", "exp_avg_sq"):
                self.optimiser.state[self._parameters[name]][moment][revived_F] = 0


_SCALARS = ("step", "tokens", "filtered_tokens", "micro_batches", "history")
