"""What an evaluation holds at its busiest moment, from sizes alone."""

from mistudio.evaluate.reconstruction import BATCH_ROWS
from mistudio.evaluate.splice import BATCH_TOKENS, COMPARED_LOGITS, LOGIT_BYTES
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
    tokens = max(min(BATCH_TOKENS, LOGIT_BYTES // (4 * shape.vocab_size)) // per_sequence, 1) * per_sequence
    activations = held.passes_at_once * activation_bytes(shape, held, tokens, context_length)
    num_logits = tokens * shape.vocab_size
    compared = _COMPARED_BYTES * min(2 * COMPARED_LOGITS, num_logits)
    logits = held.passes_at_once * (2 * num_logits * held.dtype_bytes + compared)
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
