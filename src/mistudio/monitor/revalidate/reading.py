"""Columns of a watch list on token ids, as they are or after a map of the activations.

Shape legend: S texts, N tokens, D width of a hook point, W columns, U columns that are read together, M largest values.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mistudio.instrument.passes import ListedSequences, token_batches
from mistudio.instrument.served import Served
from mistudio.monitor.watch.columns import Columns
from mistudio.monitor.watch.watch_list import WatchList
from mistudio.subject import HookPoint, text_rows

ActsMap = Callable[[Tensor], Tensor]  # of activations [N, D]


class ColumnsRead(NamedTuple):
    """What was read of texts."""

    value_SW: NDArray[np.float32]
    acts: dict[str, NDArray[np.float32]]  # by hook point, of the rows that were asked for


class ColumnReader:
    """Reads the columns of a watch list in a loaded model.

    Args:
        served: the model with its autoencoders.
        watch_list: what to read.

    Raises:
        NotFound: an autoencoder, a feature or a direction is not there.
        InputError: a direction is of another model.
    """

    def __init__(self, served: Served, watch_list: WatchList) -> None:
        self._subject, self._watched = served.session.subject, watch_list.watched
        self.columns = Columns(served, watch_list)
        self._hooks = {str(block.hook.point): block.hook for block in self.columns.blocks}

    @property
    def hooks(self) -> tuple[str, ...]:
        """Names of the hook points, each once."""
        return tuple(self._hooks)

    @torch.inference_mode()
    def read(
        self,
        token_ids: Sequence[NDArray[np.int32]],
        num_prefix: int,
        num_suffix: int,
        row_N: NDArray[np.int64],
        maps: Mapping[str, ActsMap] | None = None,
    ) -> ColumnsRead:
        """Values of each text, and activations of some tokens as the model has them.

        Args:
            token_ids: of each text, special tokens included.
            num_prefix: special tokens at the start of each, which are not read.
            num_suffix: special tokens at the end.
            row_N: tokens whose activations are wanted, ascending: of all that are text, in the order of the texts.
            maps: by hook point, what activations go through before columns are read.

        Raises:
            SubjectError: a text is longer than the model takes.
        """
        sequences = ListedSequences(token_ids, num_prefix, num_suffix)
        kept_S = np.maximum(sequences.lengths.astype(np.int64) - num_prefix - num_suffix, 0)
        start_S = np.cumsum(kept_S) - kept_S
        value_SW = np.zeros((len(token_ids), len(self._watched)), dtype=np.float32)
        acts = {name: np.zeros((len(row_N), hook.width), dtype=np.float32) for name, hook in self._hooks.items()}
        for number_B, batch in token_batches(self._subject, sequences):
            found = text_rows(self._subject, list(self._hooks.values()), batch)
            text_N = number_B[found.sequence_N.numpy()]
            at_N = start_S[text_N] + found.place_N.numpy() - num_prefix
            wanted_N = np.isin(at_N, row_N)
            to_N = np.searchsorted(row_N, at_N[wanted_N])
            for point, acts_ND in found.acts.items():
                own_ND = acts_ND.float()
                acts[str(point)][to_N] = own_ND.cpu().numpy()[wanted_N]
            self._pool(found.acts, text_N, value_SW, maps or {})
        return ColumnsRead(value_SW, acts)

    def _pool(
        self,
        acts: Mapping[HookPoint, Tensor],
        text_N: NDArray[np.int64],
        value_SW: NDArray[np.float32],
        maps: Mapping[str, ActsMap],
    ) -> None:
        for block in self.columns.blocks:
            acts_ND = acts[block.hook.point].float()
            mapped = maps.get(str(block.hook.point))
            value_NU = block.read(acts_ND if mapped is None else mapped(acts_ND)).cpu().numpy()
            for text in np.unique(text_N).tolist():
                own_NU = value_NU[text_N == text]
                for place, column in enumerate(block.columns):
                    value_SW[text, column] = _pooled(own_NU[:, place], self._watched[column])


def _pooled(value_N: NDArray[np.float32], watched: object) -> float:
    """The largest value, or the mean of the largest ones, as the watch list has it."""
    if getattr(watched, "pool", "max") == "max":
        return float(value_N.max())
    top = min(int(getattr(watched, "top", 1)), len(value_N))
    return float(np.partition(value_N, len(value_N) - top)[len(value_N) - top :].mean())
