"""Which features fired in the texts of a corpus, from the activations that were captured of it: no model is needed.

Shape legend: N rows, A active (row, feature) pairs, D width of the hook point.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from mistudio.artifacts import Line
from mistudio.monitor.drift.profile import Gathering, Profile
from mistudio.monitor.drift.texts import FiredIn, TextSeen
from mistudio.monitor.records import Origin

if TYPE_CHECKING:
    from mistudio.activations import ActivationReader
    from mistudio.sae import SparseAutoencoder

Unit = Literal["document", "sequence"]
_BLOCK_ROWS = 8192


def stored_profile(line: Line, split: str = "train", unit: Unit = "document", most_texts: int | None = None) -> Profile:
    """What is usual in the corpus that an autoencoder's activations were captured from.

    Args:
        line: from an autoencoder, or what was made of it, back to its activations.
        split: train or heldout.
        unit: what counts as a text: a whole document, or a sequence of the corpus, which is at most as long as its
            context length. Take what traffic is most alike: a longer text fires more features.
        most_texts: read so many at most; None: all.

    Raises:
        InputError: the autoencoder's activations are not in the store, or hold no text.
    """
    gathering = Gathering({line.sae.uri: int(str(line.sae.manifest.summary["width"]))})
    for number, (fired, num_tokens) in enumerate(stored_firing(line, split, unit)):
        if most_texts is not None and number >= most_texts:
            break
        none_W = np.empty(0, dtype=np.float32)
        gathering.add(TextSeen("", 0.0, Origin(), num_tokens, {line.sae.uri: fired}, none_W))
    about = {"activations": line.activations.uri, "split": split, "unit": unit}
    return Profile(gathering.fired(), None, about)


def stored_firing(line: Line, split: str, unit: Unit) -> Iterator[tuple[FiredIn, int]]:
    """Of each text, which features fired on how many tokens, and how many tokens it has.

    Raises:
        InputError: the autoencoder's activations are not in the store.
    """
    import torch

    from mistudio.activations import ActivationReader
    from mistudio.sae import hook_of, load_autoencoder

    sae = load_autoencoder(line.sae, torch.device("cpu"))
    reader = ActivationReader(line.activations, hook_of(line.sae), split)
    parts, number, num_tokens = list[NDArray[np.int64]](), -1, 0
    for text_N, row_A, feature_A in _blocks(reader, sae, unit):
        cuts = np.flatnonzero(np.diff(text_N)) + 1
        for start, stop in zip([0, *cuts.tolist()], [*cuts.tolist(), len(text_N)], strict=True):
            if text_N[start] != number and parts:
                yield _joined(parts), num_tokens
                parts, num_tokens = [], 0
            number = int(text_N[start])
            parts.append(feature_A[slice(*np.searchsorted(row_A, (start, stop)).tolist())])
            num_tokens += stop - start
    if parts:
        yield _joined(parts), num_tokens


def _blocks(
    reader: "ActivationReader", sae: "SparseAutoencoder", unit: Unit
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Text of each row [N], and row and feature of what is active [A], by row."""
    for start in range(0, len(reader), _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, len(reader))
        active = sae.encode_active(reader.acts(start, stop).to(sae.W_dec))
        text_N = reader.meta(start, stop)[unit].astype(np.int64)
        yield text_N, active[0].cpu().numpy(), active[1].cpu().numpy()


def _joined(parts: list[NDArray[np.int64]]) -> FiredIn:
    feature_A, count_A = np.unique(np.concatenate(parts), return_counts=True)
    return FiredIn(feature_A.astype(np.int64), count_A.astype(np.int64))
