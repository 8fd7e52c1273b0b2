"""What a capture holds at its busiest moment, from sizes alone."""

from mistudio.activations.capturing import BATCHES_AHEAD
from mistudio.subject.footprint import (
    MEGABYTE,
    Held,
    ModelShape,
    Parts,
    activation_bytes,
    kept_bytes,
    read_bytes,
    runtime_bytes,
)

STORED_BYTES = 2  # activations are stored in two bytes

_LIBRARIES = 600 * MEGABYTE
_WAITING_PASSES = BATCHES_AHEAD + 2  # whose rows are made, wait or are being written
_KEPT = 1.0  # of the activations, which is what malloc keeps beside them


def capture_parts(shape: ModelShape, held: Held, batch_size: int, context_length: int) -> Parts:
    """Bytes by part.

    Args:
        shape: of the subject.
        held: how it is held.
        batch_size: sequences of a forward pass.
        context_length: tokens of a sequence.
    """
    num_tokens = batch_size * context_length
    activations = held.passes_at_once * activation_bytes(shape, held, num_tokens, context_length)
    return {
        "runtime": runtime_bytes(held.on_gpu, _LIBRARIES, shape.vocab_size),
        "weights": read_bytes(shape, held),
        "activations": activations,
        "allocator": kept_bytes(held, _KEPT * activations),
        "rows": 0 if held.on_gpu else _WAITING_PASSES * num_tokens * shape.d_model * STORED_BYTES,
    }
