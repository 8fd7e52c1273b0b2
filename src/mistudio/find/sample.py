"""Whole sequences drawn by lot, with all that is active on them: what needs more than one feature is counted here.

A sequence is in the sample or not by its number and the seed alone. So samples of several parts of a corpus are
the sample of the whole, and the tokens are about as many as were asked for, whatever the size of the corpus.

Shape legend: N tokens of the sample (or of a chunk), A active (token, feature) pairs, F features.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from mistudio.find.contexts import ChunkRows, hashed
from mistudio.sae import ActiveLatents

_ROW_FIELDS = ("document", "sequence", "position", "token_id", "num_active")
_PAIR_FIELDS = ("feature", "value")
_NEVER = 1 << 64


class Sample(NamedTuple):
    """The tokens of the sample in the order of their sequences, and what is active on them."""

    document: NDArray[np.int32]  # [N]
    sequence: NDArray[np.int32]
    position: NDArray[np.int32]
    token_id: NDArray[np.int32]
    first: NDArray[np.int64]  # the first token of the same sequence, as a row of the sample [N]
    stop: NDArray[np.int64]  # and the one behind the last
    acts_NF: sparse.csr_array  # float32; indices ascend in each row

    @property
    def num_tokens(self) -> int:
        """N."""
        return len(self.document)


class SampleKeeper:
    """Keeps the sequences that the lot falls on.

    Args:
        num_features: F.
        share: of the sequences that is wanted.
        seed: of the lot.
    """

    def __init__(self, num_features: int, share: float, seed: int) -> None:
        self.num_features, self.seed = num_features, seed
        self._limit = min(int(share * _NEVER), _NEVER - 1)
        self._rows: dict[str, list[NDArray[np.int32]]] = {name: [] for name in _ROW_FIELDS}
        self._pairs: dict[str, list[NDArray[np.generic]]] = {name: [] for name in _PAIR_FIELDS}

    def update(self, active: ActiveLatents, rows: ChunkRows, token_id_N: NDArray[np.int32]) -> None:
        """Take in a chunk of whole sequences."""
        lot_N = hashed(rows.sequence.astype(np.uint64), self.seed + 2)
        wanted_N = lot_N <= np.uint64(self._limit)
        if not wanted_N.any():
            return
        row_A = active.token_A.cpu().numpy()
        counts_N = np.bincount(row_A, minlength=len(wanted_N)).astype(np.int32)
        for name, column_N in zip(_ROW_FIELDS, (*rows, token_id_N, counts_N), strict=True):
            self._rows[name].append(column_N[wanted_N])
        wanted_A = wanted_N[row_A]
        self._pairs["feature"].append(active.feature_A.cpu().numpy()[wanted_A].astype(np.int32))
        self._pairs["value"].append(active.value_A.float().cpu().numpy()[wanted_A])

    def merge(self, state: dict[str, Tensor]) -> None:
        """Take in the sample of other sequences, by its state."""
        for name in _ROW_FIELDS:
            self._rows[name].append(state[name].numpy())
        for name in _PAIR_FIELDS:
            self._pairs[name].append(state[name].numpy())

    def state_dict(self) -> dict[str, Tensor]:
        """All that is kept."""
        columns = {name: _joined(parts, np.int32) for name, parts in self._rows.items()}
        columns["feature"] = _joined(self._pairs["feature"], np.int32)
        columns["value"] = _joined(self._pairs["value"], np.float32)
        return {name: torch.from_numpy(column) for name, column in columns.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self._rows = {name: [state[name].numpy()] for name in _ROW_FIELDS}
        self._pairs = {name: [state[name].numpy()] for name in _PAIR_FIELDS}

    def sample(self) -> Sample:
        """The sample, in an order that does not depend on how it was put together."""
        state = {name: column.numpy() for name, column in self.state_dict().items()}
        order_N = np.lexsort((state["position"], state["sequence"]))
        counts_N = state["num_active"].astype(np.int64)
        starts_N = counts_N.cumsum() - counts_N
        pointers = np.append(0, counts_N[order_N].cumsum())
        pair_A = np.repeat(starts_N[order_N] - pointers[:-1], counts_N[order_N]) + np.arange(pointers[-1])
        shape = (len(order_N), self.num_features)
        acts_NF = sparse.csr_array((state["value"][pair_A], state["feature"][pair_A], pointers), shape=shape)
        sequence_N = state["sequence"][order_N]
        first_N = np.searchsorted(sequence_N, sequence_N, side="left")
        stop_N = np.searchsorted(sequence_N, sequence_N, side="right")
        document, position, token_id = (state[name][order_N] for name in ("document", "position", "token_id"))
        return Sample(document, sequence_N, position, token_id, first_N, stop_N, acts_NF)


def _joined(parts: list[NDArray[np.generic]] | list[NDArray[np.int32]], dtype: type) -> NDArray[np.generic]:
    return np.concatenate([np.empty(0, dtype=dtype), *parts])
