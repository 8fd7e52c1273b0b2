"""The train step."""

from mistudio.train.config import TrainConfig
from mistudio.train.step import TRAINING_NAME, TrainRuntime, train
from mistudio.train.trainer import Metrics, MetricsLog, Trainer

__all__ = ["TRAINING_NAME", "Metrics", "MetricsLog", "TrainConfig", "TrainRuntime", "Trainer", "train"]
