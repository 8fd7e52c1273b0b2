"""What an evaluation holds at its busiest moment, from sizes alone."""

from mistudio.evaluate.reconstruction import BATCH_ROWS
from mistudio.evaluate.splice import BATCH_TOKENS, COMPARED_LEAST, COMPARED_LOGITS
from mistudio.sae.footprint import autoencoder_bytes, encoding_bytes
from mistudio.subject.footprint import (
    MEGABYTE,
    Held,
    ModelShape,
    Parts,
    activation_bytes,
    kept_bytes,
    runtime_bytes,
    weight_bytes,
)

_LIBRARIES = 600 * MEGABYTE
_KEPT = 0.15  # of the logits, which is what malloc keeps beside them
_COMPARED_BYTES = 4 * 4  # of each logit that is being compared: four copies in float32
_WAYS = 4  # as it is, with zeros, with the reconstruction, with the control
_STREAMS = 4  # of all tokens of a batch: at the hook point, in front of the blocks, changed, and what is rebuilt


def evaluate_parts(shape: ModelShape, held: Held, context_length: int, width: int) -> Parts:
    """Bytes by part: the autoencoder and its random control, and the largest of what is done with them in turn.

    Args:
        shape: of the subject.
        held: how it is held.
        context_length: tokens of a sequence.
        width: features of the autoencoder.
    """
    sae = autoencoder_bytes(shape.d_model, width)
    per_sequence = max(context_length, 1)
    tokens = max(BATCH_TOKENS // per_sequence, 1) * per_sequence
    streams = tokens * shape.d_model * (_STREAMS * 4 + _WAYS * held.dtype_bytes)
    activations = held.passes_at_once * (activation_bytes(shape, held, tokens, context_length) + streams)
    compared = min(max(COMPARED_LOGITS // shape.vocab_size, COMPARED_LEAST), tokens)
    logits = held.passes_at_once * compared * shape.vocab_size * (_COMPARED_BYTES + held.dtype_bytes % 4)
    rebuilding = encoding_bytes(BATCH_ROWS, width) + BATCH_ROWS * shape.d_model * (2 * 4 + 5 * 8)
    return {
        "runtime": runtime_bytes(held.on_gpu, _LIBRARIES, shape.vocab_size),
        "weights": weight_bytes(shape, held.quantization, held.dtype_bytes),
        "activations": activations,
        "logits": logits,
        "allocator": kept_bytes(held, _KEPT * logits),
        "sae_weights": 2 * sae,
        "sae_step": max(max(sae, rebuilding) - activations - logits, 0),
    }
