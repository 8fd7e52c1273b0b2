"""What a search for features holds at its busiest moment, from sizes alone."""

from mistudio.activations.footprint import STORED_BYTES
from mistudio.find.config import FindConfig
from mistudio.find.reading import BATCH_TOKENS, GRADIENT_BYTES, LOGIT_BYTES, traced_bytes
from mistudio.find.search import MAX_TASKS, POOL, POSITION_EDGES
from mistudio.find.statistics import NUM_BINS
from mistudio.sae.footprint import FLOAT_BYTES, autoencoder_bytes, encoding_bytes
from mistudio.subject.footprint import (
    MEGABYTE,
    Held,
    ModelShape,
    Parts,
    activation_bytes,
    runtime_bytes,
    weight_bytes,
)

_LIBRARIES = 620 * MEGABYTE
_PLACE_BYTES = 4 * (1 + 3 + 1)  # of a context: its value, where it is, and its row
_COUNT_BYTES = 8
_PAIR_BYTES = 8 + 8 + 4  # of an active token and feature: which, and how strongly
_CHUNKS = 2  # one is looked at while the next one is encoded
_PAIR_COPIES = 2  # of the pairs of a chunk, while its blocks are put together and while they are looked at
_SAMPLED_TOKEN, _SAMPLED_PAIR = 5 * 4, 2 * 4  # bytes of a token of the sample, and of a feature that is active on it
_SAMPLE_COPIES = 3  # as it was collected, in the order of its sequences, and while neighbours are counted
_FLOAT_LOGITS = 2  # copies in float32, while the next tokens are compared


def find_parts(
    shape: ModelShape, held: Held, context_length: int, width: int, active: float, config: FindConfig
) -> Parts:
    """Bytes by part: what is kept of every feature, and the pass over the activations or those through the model.

    The map of features is laid out in a process of its own, which is not counted.

    Args:
        shape: of the subject.
        held: how it is held.
        context_length: tokens of a sequence.
        width: features of the autoencoder.
        active: features a token.
        config: what to keep.
    """
    weights = weight_bytes(shape, held.quantization, held.dtype_bytes)
    in_model = _in_model(shape, held, context_length)
    chunks = encoding_bytes(config.chunk_rows, width) if held.on_gpu else 0
    chunks += (1 if held.on_gpu else _CHUNKS) * _chunk_bytes(shape, active, config)
    parts = {
        "runtime": runtime_bytes(held.on_gpu, _LIBRARIES, shape.vocab_size),
        "weights": weights,
        "activations": in_model,
        "sae_weights": autoencoder_bytes(shape.d_model, width),
        "rows": max(chunks - weights - in_model, 0),  # the model is loaded when the pass is over
    }
    if held.on_gpu:
        return parts
    sampled = config.sample_tokens * (_SAMPLED_TOKEN + active * _SAMPLED_PAIR)
    return {**parts, "features": width * _feature_bytes(config), "sample": int(_SAMPLE_COPIES * sampled)}


def _chunk_bytes(shape: ModelShape, active: float, config: FindConfig) -> int:
    """Activations as stored and in float32, and the pairs."""
    row = shape.d_model * (STORED_BYTES + FLOAT_BYTES) + active * _PAIR_COPIES * _PAIR_BYTES
    return int(config.chunk_rows * row)


def _feature_bytes(config: FindConfig) -> int:
    """Contexts and counts of one feature."""
    contexts = config.contexts + POOL * config.sampled_contexts
    window = config.context_before + 1 + config.context_after
    classes = MAX_TASKS + len(POSITION_EDGES) if config.include_statistics else 0
    return contexts * (_PLACE_BYTES + FLOAT_BYTES * window) + _COUNT_BYTES * (NUM_BINS + classes + 2)


def _in_model(shape: ModelShape, held: Held, context_length: int) -> int:
    """Passes to the logits, or passes with gradients, which keep the activations of all blocks up to the hook."""
    block = activation_bytes(shape, held, BATCH_TOKENS, context_length)
    predictions = max(min(LOGIT_BYTES // (4 * shape.vocab_size), BATCH_TOKENS), 1)
    logits = predictions * shape.vocab_size * (held.dtype_bytes + _FLOAT_LOGITS * FLOAT_BYTES)
    kept = (held.layer + 1) * traced_bytes(shape, held.dtype_bytes)
    traced = min(max(GRADIENT_BYTES // kept, 1), BATCH_TOKENS) * kept
    # Two copies of the stream are kept for what goes on from the hook.
    return block + max(logits + 2 * BATCH_TOKENS * shape.d_model * held.dtype_bytes, traced)
