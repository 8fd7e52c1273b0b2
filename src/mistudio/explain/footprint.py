"""What explaining and scoring hold at their busiest moment, from sizes alone."""

from mistudio.activations.footprint import STORED_BYTES
from mistudio.explain.firings import ROWS_AT_ONCE
from mistudio.sae.footprint import FLOAT_BYTES, autoencoder_bytes, encoding_bytes
from mistudio.subject.footprint import MEGABYTE, Parts, runtime_bytes

_LIBRARIES = 620 * MEGABYTE
_TOKEN_BYTES = 6 * 4  # what programs see of a token
_PAIR_BYTES = 4 + 4 + 4  # of an active token and feature, as it is collected
_PAIR_COPIES = 3  # collected, put together, and by feature
_LOOKED_UP = 40  # bytes a token of what programs look up of all tokens at once


def explain_parts(d_model: int, vocab_size: int, width: int, active: float, max_tokens: int, *, on_gpu: bool) -> Parts:
    """Bytes by part, for programs: tokens and what fires on them; the autoencoder is there while they are encoded.

    Worker processes, which share what they read, and a language model that explains are not counted.

    Args:
        d_model: width of the activations.
        vocab_size: of the subject.
        width: features of the autoencoder.
        active: features a token.
        max_tokens: tokens that programs are searched or scored on.
        on_gpu: what is estimated.
    """
    rows = ROWS_AT_ONCE * d_model * (STORED_BYTES + FLOAT_BYTES)
    parts = {
        "runtime": runtime_bytes(on_gpu, _LIBRARIES, vocab_size),
        "sae_weights": autoencoder_bytes(d_model, width),
        "rows": rows + (encoding_bytes(ROWS_AT_ONCE, width) if on_gpu else 0),
    }
    if on_gpu:
        return parts
    of_token = _TOKEN_BYTES + _LOOKED_UP + active * _PAIR_COPIES * _PAIR_BYTES
    return {**parts, "sample": int(max_tokens * of_token)}
