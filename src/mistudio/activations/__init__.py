"""Activations: captured from a model into shards, and read back in order or shuffled."""

from mistudio.activations.capture import CaptureConfig, batch_tensors, capture, check_tokenizer
from mistudio.activations.reader import ActivationReader, ShuffledBatches

__all__ = [
    "ActivationReader",
    "CaptureConfig",
    "ShuffledBatches",
    "batch_tensors",
    "capture",
    "check_tokenizer",
]
