"""How long one training goes on, and its learning rate: rise, plateau, fall; early where nothing is gained."""

import math
from typing import Any

from mistudio.train.config import TrainConfig

_GAIN = 1e-3  # a check counts as improvement if the loss falls by this share


class Schedule:
    """The number of steps, which early stopping may lower, and the learning rate of each.

    Args:
        config: the training's settings.
        num_steps: steps if nothing ends it early.
        ramp_fraction: share of training at its start in which the losses themselves change.
    """

    def __init__(self, config: TrainConfig, num_steps: int, ramp_fraction: float) -> None:
        self._config, self.num_steps = config, num_steps
        self._settled_at = max(ramp_fraction, config.warmup_fraction) * num_steps
        self._warmup_steps = config.warmup_fraction * num_steps
        self.decay_start = num_steps - round(config.decay_fraction * num_steps)
        self.stopped_because = "tokens"
        self.best_loss, self.checks_without_gain = math.inf, 0

    def learning_rate(self, step: int) -> float:
        """Linear rise, plateau, linear or cosine fall to zero."""
        rise = (step + 1) / self._warmup_steps if self._warmup_steps else 1.0
        decay_steps = self.num_steps - self.decay_start
        fall = min((self.num_steps - step) / decay_steps, 1.0) if decay_steps else 1.0
        if self._config.decay == "cosine":
            fall = (1 - math.cos(math.pi * fall)) / 2
        return self._config.peak_learning_rate * min(rise, fall)

    def check(self, step: int, loss: float) -> None:
        """Start the final decay where the loss is low enough, or has not fallen for long.

        Args:
            step: steps that are done.
            loss: its mean since the last check, without losses that only help at times.
        """
        if step >= self.decay_start or step - self._config.check_every_steps < self._settled_at:
            return
        if loss < self.best_loss * (1 - _GAIN):
            self.best_loss, self.checks_without_gain = loss, 0
        else:
            self.checks_without_gain += 1
        if loss < self._config.min_loss:
            self._start_decay("min_loss", step)
        elif self._config.patience and self.checks_without_gain >= self._config.patience:
            self._start_decay("patience", step)

    def state_dict(self) -> dict[str, Any]:
        """What early stopping has changed so far."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken."""
        for name in _STATE:
            setattr(self, name, state[name])

    def _start_decay(self, reason: str, step: int) -> None:
        self.stopped_because = reason
        decay_steps = self.num_steps - self.decay_start
        self.decay_start, self.num_steps = step, min(step + decay_steps, self.num_steps)


def steps_for(tokens: int, rows: int, batch_size: int) -> int:
    """Steps that train on ``tokens`` tokens, where the last batch of each epoch of ``rows`` may be smaller."""
    epochs, rest = divmod(tokens, rows)
    return epochs * math.ceil(rows / batch_size) + math.ceil(rest / batch_size)


_STATE = ("num_steps", "decay_start", "stopped_because", "best_loss", "checks_without_gain")
