"""Activations: captured from a model into shards or computed live, and read back in order or shuffled."""

from typing import TYPE_CHECKING

from mistudio.activations.capture import capture, check_tokenizer
from mistudio.activations.config import OUTLIER_RATIO, CaptureConfig
from mistudio.activations.origin import captured_config, captured_source, tokenised_for

if TYPE_CHECKING:
    from mistudio.activations.live import LiveReader
    from mistudio.activations.opening import open_hook, open_rows
    from mistudio.activations.pairs import PairedReader
    from mistudio.activations.prefetch import Prefetched
    from mistudio.activations.reader import ActivationReader
    from mistudio.activations.shuffle import ShuffledBatches
    from mistudio.activations.stream import ActivationStream, OrderedRows, Pair, RowSource
else:
    from mistudio.lazy import from_modules

    __getattr__ = from_modules(__name__, "stream", "reader", "pairs", "prefetch", "live", "opening", "shuffle")

__all__ = [
    "OUTLIER_RATIO",
    "ActivationReader",
    "ActivationStream",
    "CaptureConfig",
    "LiveReader",
    "OrderedRows",
    "Pair",
    "PairedReader",
    "Prefetched",
    "RowSource",
    "ShuffledBatches",
    "capture",
    "captured_config",
    "captured_source",
    "check_tokenizer",
    "open_hook",
    "open_rows",
    "tokenised_for",
]
