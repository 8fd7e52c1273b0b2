"""The train step."""

from typing import TYPE_CHECKING

from mistudio.train.config import TRAINING_NAME, TrainConfig, TrainRuntime

if TYPE_CHECKING:
    from mistudio.train.learner import Learner, Metrics, MetricsLog
    from mistudio.train.step import train, train_together
    from mistudio.train.trainer import Trainer
else:
    from mistudio.lazy import from_modules

    __getattr__ = from_modules(__name__, "step", "learner", "trainer")

__all__ = [
    "TRAINING_NAME",
    "Learner",
    "Metrics",
    "MetricsLog",
    "TrainConfig",
    "TrainRuntime",
    "Trainer",
    "train",
    "train_together",
]
