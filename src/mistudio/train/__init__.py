"""The train step."""

from mistudio.train.config import TrainConfig
from mistudio.train.learner import Learner, Metrics, MetricsLog
from mistudio.train.step import TRAINING_NAME, TrainRuntime, train, train_together
from mistudio.train.trainer import Trainer

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
