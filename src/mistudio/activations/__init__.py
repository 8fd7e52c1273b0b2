"""Activations: captured from a model into shards, and read back in order or shuffled."""

from mistudio.activations.capture import CaptureConfig, batch_tensors, capture, check_tokenizer
from mistudio.activations.pairs import PairedReader
from mistudio.activations.prefetch import prefetched
from mistudio.activations.reader import ActivationReader
from mistudio.activations.shuffle import ShuffledBatches
from mistudio.activations.stream import ActivationStream, Pair, RowSource

__all__ = [
    "ActivationReader",
    "ActivationStream",
    "CaptureConfig",
    "Pair",
    "PairedReader",
    "RowSource",
    "ShuffledBatches",
    "batch_tensors",
    "capture",
    "check_tokenizer",
    "prefetched",
]
