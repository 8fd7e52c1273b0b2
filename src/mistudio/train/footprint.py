"""What a training holds at its busiest moment, from sizes alone."""

from mistudio.activations.footprint import STORED_BYTES
from mistudio.sae import architecture_config
from mistudio.sae.footprint import FLOAT_BYTES, MAXIMA, autoencoder_bytes
from mistudio.subject.footprint import MEGABYTE, Parts, runtime_bytes
from mistudio.train.learner import SAMPLE_ROWS

_LIBRARIES = 580 * MEGABYTE
_SLOT_BYTES = 24  # of a row in the shuffling buffer: its number, and its place in the order
_SAMPLE_COPIES = 2 + 4 + 4  # bytes: as stored, in float32, and without the mean


def train_parts(
    d_model: int,
    width: int,
    batch_size: int,
    buffer_rows: int,
    *,
    on_gpu: bool,
    architecture: str = "topk",
    steered: bool = False,
) -> Parts:
    """Bytes by part.

    The forward pass, or gradients: what is larger counts. On a CPU pre-activations stay, because every step's are
    written to the same memory. Beside the gradients there is half an autoencoder of products while directions are held
    at unit norm. The auxiliary loss takes copies of the dead latents' weights and pre-activations, and the copies have
    gradients.

    Args:
        d_model: width of the activations.
        width: features of the autoencoder.
        batch_size: activations of a step.
        buffer_rows: activations in the shuffling buffer.
        on_gpu: what is estimated.
        architecture: of the autoencoder.
        steered: whether its sparsity has a target, and so is there at once.

    Raises:
        ConfigError: there is no such architecture.
    """
    sae = autoencoder_bytes(d_model, width)
    batch = batch_size * d_model * FLOAT_BYTES
    preactivations = batch_size * width * FLOAT_BYTES
    staying = 0 if on_gpu else preactivations
    selecting = int((1 + MAXIMA) * preactivations)
    plain = max(staying + sae + sae // 2, selecting)
    auxiliary = max(staying + 4 * sae, preactivations + selecting + sae)
    dense = 0 if steered else architecture_config(architecture).dense_start_bytes * batch_size * width
    ring = buffer_rows * (d_model * STORED_BYTES + _SLOT_BYTES)
    return {
        "runtime": runtime_bytes(on_gpu, _LIBRARIES),
        "rows": 0 if on_gpu else max(ring, SAMPLE_ROWS * d_model * _SAMPLE_COPIES),
        "sae_weights": sae,
        "sae_optimizer": 2 * sae,
        "sae_step": plain + dense + 6 * batch,
        "sae_auxiliary": max(auxiliary - plain - dense, 0),
    }
