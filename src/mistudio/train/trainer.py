"""The training loop of a sparse autoencoder, with all of its state in one checkpoint.

A step reads one batch of shuffled activations, divides it by the spread, takes the losses' gradient, and
lets Adam move the weights. Everything that decides the next step is in ``state_dict``: weights, moments,
schedule, counters of silent latents, the shuffling buffer's order and the random state. So a run that was
killed ends with the same bytes as one that was not.

Shape legend: T tokens of a batch, D model width, F features (latents).
"""

import json
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mistudio.activations import ActivationReader, ShuffledBatches
from mistudio.errors import ConfigError
from mistudio.sae import SparseAutoencoder, new_autoencoder
from mistudio.train.config import TrainConfig

# The sample that sets the scale: short runs, because a read has a price of its own, from many places.
_SAMPLE_PLACES = 1024
_SAMPLE_RUN_ROWS = 16
_HISTORY_POINTS = 200
_GAIN = 1e-3  # a check counts as improvement if the loss falls by this share

Metrics = dict[str, float]


class Trainer:
    """One training run over captured activations."""

    def __init__(self, config: TrainConfig, reader: ActivationReader, seed: int, device: torch.device) -> None:
        self.config, self.reader, self.device = config, reader, device
        self.planned_tokens = min(config.tokens, config.max_epochs * len(reader))
        self.num_steps = _steps_for(self.planned_tokens, len(reader), config.batch_size)
        self.report_every = max(self.num_steps // _HISTORY_POINTS, 1)
        self.generator = torch.Generator().manual_seed(seed)
        self.batches = ShuffledBatches(reader, config.batch_size, config.buffer_rows, seed)
        self.sae: SparseAutoencoder = new_autoencoder(config.sae, reader.width)
        self.silent_tokens_F = torch.zeros(config.sae.width, dtype=torch.int64, device=device)
        self.step = 0
        self.tokens = 0
        self.decay_start = self.num_steps - round(config.decay_fraction * self.num_steps)
        self.stopped_because = "tokens"
        self.best_loss, self.checks_without_gain = math.inf, 0
        self.history: list[Metrics] = []
        self._sums: dict[str, Tensor] = {}  # of what is reported, and of the objective, since last asked for
        self._initialise()
        self.sae.to(device)
        self.optimiser = torch.optim.Adam(self.sae.parameters(), lr=config.peak_learning_rate, fused=True)

    @property
    def finished(self) -> bool:
        """Whether the last step is done."""
        return self.step >= self.num_steps

    @property
    def dead_F(self) -> Tensor:
        """Latents that have been silent for ``dead_after_tokens``."""
        return self.silent_tokens_F >= self.config.dead_after_tokens

    def train_step(self) -> Metrics | None:
        """Do one step; every ``report_every`` steps return the mean metrics since the last report."""
        acts_TD = self.batches.next_batch().to(self.device, torch.float32) / self.sae.spread
        losses = self.sae.losses(acts_TD, self.dead_F, self.step / self.num_steps)
        self._set_learning_rate()
        self.optimiser.zero_grad(set_to_none=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        self.sae.before_step()
        torch.nn.utils.clip_grad_norm_(self.sae.parameters(), self.config.gradient_clip, foreach=True)
        self.optimiser.step()
        self.sae.after_step()
        self.step += 1
        self.tokens += len(acts_TD)
        self.silent_tokens_F += len(acts_TD)
        self.silent_tokens_F.masked_fill_(losses.fired_F > 0, 0)
        self._add("check.objective", losses.objective)
        for name, value in {"loss": losses.total.detach(), **losses.parts}.items():
            self._add(f"report.{name}", value)
        if self.step % self.config.check_every_steps == 0:
            self._check()
        return self._report() if self.step % self.report_every == 0 or self.finished else None

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """All state, as tensors and as text: what one safetensors file holds."""
        tensors = {f"sae.{name}": value for name, value in self.sae.state_dict().items()}
        for name, parameter in self.sae.named_parameters():
            for moment, value in self.optimiser.state[parameter].items():
                tensors[f"adam.{name}.{moment}"] = value
        batches = self.batches.state_dict()
        tensors |= {f"batches.{name}": value for name, value in batches.items() if isinstance(value, Tensor)}
        tensors |= {f"sums.{name}": value for name, value in self._sums.items()}
        tensors["generator"] = self.generator.get_state()
        tensors["silent_tokens_F"] = self.silent_tokens_F
        scalars = {
            "batches": {name: value for name, value in batches.items() if not isinstance(value, Tensor)},
            **{name: getattr(self, name) for name in _SCALARS},
        }
        return {name: value.contiguous() for name, value in tensors.items()}, {"state": json.dumps(scalars)}

    def load_state_dict(self, tensors: dict[str, Tensor], text: dict[str, str]) -> None:
        """Go on exactly where :meth:`state_dict` was taken."""
        scalars: dict[str, Any] = json.loads(text["state"])
        groups: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            group, _, rest = name.partition(".")
            groups.setdefault(group, {})[rest] = value
        self.sae.load_state_dict(groups["sae"])
        for name, parameter in self.sae.named_parameters():
            moments = groups["adam"]
            self.optimiser.state[parameter] = {
                key.removeprefix(f"{name}."): moments[key].to(self.device, copy=True)
                for key in moments
                if key.startswith(f"{name}.")
            }
        self.batches.load_state_dict({**groups["batches"], **scalars.pop("batches")})
        self._sums = {name: value.to(self.device, copy=True) for name, value in groups.get("sums", {}).items()}
        self.generator.set_state(groups["generator"][""])
        self.silent_tokens_F.copy_(groups["silent_tokens_F"][""])
        for name in _SCALARS:
            setattr(self, name, scalars[name])

    def _initialise(self) -> None:
        """Measure the activations' spread on a sample from all over the corpus, and set the weights."""
        rows = len(self.reader)
        run = min(_SAMPLE_RUN_ROWS, rows)
        places = min(_SAMPLE_PLACES, rows // run)
        starts = [place * rows // places for place in range(places)]
        sample_TD = torch.cat([self.reader.acts(start, start + run) for start in starts]).float()
        variance = sample_TD.var(dim=0, correction=0).mean()
        self.sae.spread.copy_(variance.sqrt().clamp(min=1e-8))
        self.sae.initialise(sample_TD / self.sae.spread, self.generator)

    def _set_learning_rate(self) -> None:
        """Linear rise, plateau, linear fall to zero."""
        warmup = self.config.warmup_fraction * self.num_steps
        rise = (self.step + 1) / warmup if warmup else 1.0
        decay_steps = self.num_steps - self.decay_start
        fall = (self.num_steps - self.step) / decay_steps if decay_steps else 1.0
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.peak_learning_rate * min(rise, fall, 1.0)

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
            "dead_fraction": float(self.dead_F.float().mean()),
            "learning_rate": float(self.optimiser.param_groups[0]["lr"]),
        }
        if not math.isfinite(metrics["loss"]):
            message = (
                f"Training diverged: the loss is {metrics['loss']} before step {self.step}. "
                f"Lower learning_rate (it was {self.config.peak_learning_rate:.4g})."
            )
            raise ConfigError(message)
        self.history.append(metrics)
        return metrics

    def _check(self) -> None:
        """Revive silent latents, and start the final decay early where nothing is gained any more."""
        loss = self._take_means("check.", self.config.check_every_steps)["objective"]
        self._revive()
        settled_at = max(self.sae.ramp_fraction, self.config.warmup_fraction) * self.num_steps
        if self.step >= self.decay_start or self.step - self.config.check_every_steps < settled_at:
            return
        if loss < self.best_loss * (1 - _GAIN):
            self.best_loss, self.checks_without_gain = loss, 0
        else:
            self.checks_without_gain += 1
        if loss < self.config.min_loss:
            self._start_decay("min_loss")
        elif self.config.patience and self.checks_without_gain >= self.config.patience:
            self._start_decay("patience")

    def _start_decay(self, reason: str) -> None:
        self.stopped_because = reason
        decay_steps = self.num_steps - self.decay_start
        self.decay_start, self.num_steps = self.step, min(self.step + decay_steps, self.num_steps)

    @torch.no_grad()
    def _revive(self) -> None:
        dead_F = self.dead_F
        if self.step >= self.decay_start or not bool(dead_F.any()):
            return
        revived_F = self.sae.revive(dead_F, self.generator)
        if not bool(revived_F.any()):
            return
        self.silent_tokens_F[revived_F] = 0
        for parameter in (self.sae.W_enc, self.sae.b_enc, self.sae.W_dec):
            for moment in ("exp_avg", "exp_avg_sq"):
                self.optimiser.state[parameter][moment][revived_F] = 0


def _steps_for(tokens: int, rows: int, batch_size: int) -> int:
    """Steps that train on ``tokens`` tokens, where the last batch of each epoch of ``rows`` may be smaller."""
    epochs, rest = divmod(tokens, rows)
    return epochs * math.ceil(rows / batch_size) + math.ceil(rest / batch_size)


_SCALARS = (
    "step",
    "tokens",
    "num_steps",
    "decay_start",
    "stopped_because",
    "best_loss",
    "checks_without_gain",
    "history",
)

MetricsLog = Callable[[Metrics, int], None]
