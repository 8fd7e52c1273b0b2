"""What an autoencoder takes in memory, from its sizes alone."""

from mistudio.sae.autoencoder import BLOCK_PREACTIVATIONS

FLOAT_BYTES = 4  # autoencoders are float32
MAXIMA = 1 / 8  # of a block of pre-activations: the maxima that the largest are found with


def autoencoder_bytes(d_in: int, width: int) -> int:
    """Weights of an autoencoder, in bytes; of a transcoder to as wide an output too."""
    return (2 * d_in * width + width + d_in) * FLOAT_BYTES


def encoding_bytes(num_rows: int, width: int) -> int:
    """What encoding so many rows takes beside the weights, in bytes."""
    return int((1 + 2 * MAXIMA) * FLOAT_BYTES * min(num_rows * width, BLOCK_PREACTIVATIONS))
