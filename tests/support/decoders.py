"""Autoencoders in a store whose decoders have the structure of real ones, for tests that search directions."""

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from mistudio.artifacts import Artifact, Draft, Recipe, Store, Summary, produce
from mistudio.correlate.index.queries import unit
from mistudio.sae.files import WEIGHTS_NAME


def decoder_rows(num_features: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """Directions of any length: a third in topics, one in twenty with a near-duplicate, an outlying dimension."""
    draw = np.random.default_rng(seed)
    topics_GD = unit(draw.standard_normal((max(num_features // 64, 1), width)))
    rows_FD = unit(draw.standard_normal((num_features, width)))
    topical, pairs = num_features // 3, num_features // 20
    rows_FD[:topical] += 0.7 * topics_GD[draw.integers(0, len(topics_GD), topical)]
    rows_FD[topical : topical + pairs] = rows_FD[:pairs] + 0.1 * rows_FD[topical : topical + pairs]
    rows_FD[:, 0] *= 4
    return (rows_FD[draw.permutation(num_features)] * draw.uniform(0.2, 3, (num_features, 1))).astype(np.float32)


def publish_decoder(store: Store, rows_FD: NDArray[np.float32], seed: int = 0, d_in: int | None = None) -> Artifact:
    """The weights of an autoencoder with this decoder, and an encoder that reads nearly what it writes."""
    num_features, width = rows_FD.shape
    noise_FD = np.random.default_rng(seed).standard_normal((num_features, d_in or width))
    encoder_FD = rows_FD + 0.05 * noise_FD if d_in in (None, width) else noise_FD

    def build(draft: Draft) -> Summary:
        with draft.stage(WEIGHTS_NAME) as path:
            save_file({"W_dec": rows_FD, "W_enc": encoder_FD.astype(np.float32)}, path)
        return {}

    content = {"rows": float(np.abs(rows_FD).sum(dtype=np.float64)), "shape": list(rows_FD.shape), "seed": seed}
    return produce(store, Recipe(kind="sae", config=content, inputs={}), "test", build).artifact
