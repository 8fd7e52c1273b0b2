"""How often and how strongly each feature fires, counted exactly in one pass.

All are counts or whole numbers, so that two of them over different tokens add up to the same bytes in any order.

Shape legend: A active (token, feature) pairs, F features, H histogram bins, N rows of a chunk, K classes of tokens.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mistudio.sae import ActiveLatents

NUM_BINS = 64
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
_BINS_PER_OCTAVE = 4
_UNITS = 1 << 24  # sums are of whole numbers: 2**-24 of the standard deviation each
_ANYTHING = 0xFFFF
_FILTERED = "filtered_tokens"  # in the state where there are any
_PAIRS_AT_ONCE = 1 << 16  # so that what is made of them stays in the cache


def histogram_edges(activation_std: float) -> list[float]:
    """The 65 edges of the bins: four an octave, from 1/256 to 256 times the activations' standard deviation.

    They are rounded to bfloat16 (0.4%), which is why a bin can be looked up instead of searched for.
    """
    exact = torch.tensor(
        [activation_std * 2 ** ((edge - NUM_BINS // 2) / _BINS_PER_OCTAVE) for edge in range(NUM_BINS + 1)]
    )
    edges: list[float] = exact.bfloat16().double().tolist()
    return edges


class FeatureStatistics:
    """Counts, sums, maxima and histograms of activations; two of them over disjoint tokens add up exactly.

    Args:
        num_features: F.
        activation_std: of the activations that the autoencoder reads.
        classes: names of ways to tell tokens apart, and how many classes each has: features are counted by class.
    """

    def __init__(self, num_features: int, activation_std: float, classes: Mapping[str, int] | None = None) -> None:
        self.activation_std, self.num_features = activation_std, num_features
        self._bin_of = _bins_by_high_bits(activation_std)
        self.units_F = torch.zeros(num_features, dtype=torch.int64)
        self.max_F = torch.zeros(num_features)
        self.histogram_FH = torch.zeros(num_features, NUM_BINS, dtype=torch.int64)
        self.tokens_by = {name: torch.zeros(size, dtype=torch.int64) for name, size in (classes or {}).items()}
        self.fired_by = {name: torch.zeros(num_features, len(each)).long() for name, each in self.tokens_by.items()}
        self.num_tokens, self.filtered_tokens = 0, 0

    def update(
        self,
        active: ActiveLatents,
        num_tokens: int,
        class_N: Mapping[str, NDArray[np.int64]] | None = None,
        kept_N: NDArray[np.bool_] | None = None,
    ) -> None:
        """Count the active latents of ``num_tokens`` tokens; what lies past the edges goes to the outer bins.

        Args:
            active: the pairs.
            num_tokens: N.
            class_N: the class of each token, for each way to tell them apart.
            kept_N: which tokens count, nothing being active on the others; None: all.
        """
        num_kept = num_tokens if kept_N is None else int(kept_N.sum())
        self.num_tokens += num_kept
        self.filtered_tokens += num_tokens - num_kept
        classes = class_N or {}
        for name, each_N in classes.items():
            counted_N = each_N if kept_N is None else each_N[kept_N]
            self.tokens_by[name] += torch.from_numpy(np.bincount(counted_N, minlength=len(self.tokens_by[name])))
        columns = [column.cpu().numpy() for column in (active.token_A, active.feature_A, active.value_A.float())]
        for start in range(0, len(columns[0]), _PAIRS_AT_ONCE):
            token_A, feature_A, value_A = (column[start : start + _PAIRS_AT_ONCE] for column in columns)
            units_A = np.rint(value_A.astype(np.float64) * (_UNITS / self.activation_std))  # a sum stays below 2**63
            np.add.at(self.units_F.numpy(), feature_A, units_A.astype(np.int64))
            np.maximum.at(self.max_F.numpy(), feature_A, value_A)
            _count(self.histogram_FH, feature_A, self._bin_of[value_A.view(np.uint32) >> 16])
            for name, each_N in classes.items():
                _count(self.fired_by[name], feature_A, each_N[token_A])

    def merge(self, state: dict[str, Tensor]) -> None:
        """Add what was counted over other tokens, by its state."""
        self.num_tokens += int(state["num_tokens"])
        self.filtered_tokens += int(state.get(_FILTERED, 0))
        for name, counts in self._counts().items():
            if name == "max_F":
                torch.maximum(counts, state[name], out=counts)
            else:
                counts += state[name]

    def state_dict(self) -> dict[str, Tensor]:
        """All counts."""
        filtered = {_FILTERED: torch.tensor(self.filtered_tokens)} if self.filtered_tokens else {}
        return {"num_tokens": torch.tensor(self.num_tokens), **filtered, **self._counts()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over the counts of :meth:`state_dict`."""
        self.num_tokens, self.filtered_tokens = int(state["num_tokens"]), int(state.get(_FILTERED, 0))
        self.units_F, self.max_F, self.histogram_FH = state["units_F"], state["max_F"], state["histogram_FH"]
        self.tokens_by = {name: state[f"tokens_by.{name}"] for name in self.tokens_by}
        self.fired_by = {name: state[f"fired_by.{name}"] for name in self.fired_by}

    def _counts(self) -> dict[str, Tensor]:
        by_class = {f"tokens_by.{name}": each for name, each in self.tokens_by.items()}
        by_class |= {f"fired_by.{name}": each for name, each in self.fired_by.items()}
        return {"units_F": self.units_F, "max_F": self.max_F, "histogram_FH": self.histogram_FH, **by_class}

    @property
    def count_F(self) -> Tensor:
        """On how many tokens each feature fires."""
        return self.histogram_FH.sum(dim=1)

    @property
    def mean_F(self) -> NDArray[np.float64]:
        """Mean activation over the tokens on which a feature fires; 0 where it never does."""
        sums_F = self.units_F.double() * (self.activation_std / _UNITS)
        mean_F: NDArray[np.float64] = (sums_F / self.count_F.clamp(min=1)).numpy()
        return mean_F

    def density_by(self, name: str) -> NDArray[np.float64]:
        """Share of the tokens of each class that a feature fires on [F, K]; 0 for classes without tokens."""
        density_FK: NDArray[np.float64] = (self.fired_by[name] / self.tokens_by[name].clamp(min=1)).double().numpy()
        return density_FK

    def shares_below(self, value_FC: NDArray[np.float32], features: slice) -> NDArray[np.float64]:
        """Which share of the activations of some features lies below each value [F, C], by the histogram."""
        edges = np.array(histogram_edges(self.activation_std))
        value_FC = np.nan_to_num(value_FC)
        histogram_FH = self.histogram_FH[features].numpy()
        bin_FC = self._bin_of[value_FC.view(np.uint32) >> 16]
        within_FC = np.clip((value_FC - edges[bin_FC]) / (edges[bin_FC + 1] - edges[bin_FC]), 0, 1)
        below_FH = histogram_FH.cumsum(axis=1) - histogram_FH
        own_FC, below_FC = (np.take_along_axis(each, bin_FC, axis=1) for each in (histogram_FH, below_FH))
        share_FC: NDArray[np.float64] = (below_FC + own_FC * within_FC) / np.maximum(
            histogram_FH.sum(axis=1, keepdims=True), 1
        )
        return share_FC

    def quantiles(self) -> NDArray[np.float32]:
        """Quantiles of the activations of each feature [F, Q], as the histogram tells them; 0 where it never fires.

        Within a bin, values are taken to lie evenly; a bin is 19% wide.
        """
        edges = np.array(histogram_edges(self.activation_std))
        ends_FH = self.histogram_FH.numpy().cumsum(axis=1)
        columns = []
        for share in QUANTILES:
            wanted_F = share * ends_FH[:, -1]
            bin_F = (ends_FH < wanted_F[:, None]).sum(axis=1)  # never past the last, as every share is below one
            own_F = np.take_along_axis(self.histogram_FH.numpy(), bin_F[:, None], axis=1)[:, 0]
            below_F = np.take_along_axis(ends_FH, bin_F[:, None], axis=1)[:, 0] - own_F
            within_F = (wanted_F - below_F) / np.maximum(own_F, 1)
            columns.append(edges[bin_F] + within_F * (edges[bin_F + 1] - edges[bin_F]))
        found_FQ = np.stack(columns, axis=1)
        return np.where(ends_FH[:, -1:] > 0, np.minimum(found_FQ, self.max_F.numpy()[:, None]), 0).astype(np.float32)


def _count(counts_FK: Tensor, feature_A: NDArray[np.int64], class_A: NDArray[np.int64]) -> None:
    np.add.at(counts_FK.numpy().reshape(-1), feature_A * counts_FK.shape[1] + class_A, 1)


def _bins_by_high_bits(activation_std: float) -> NDArray[np.int64]:
    """The bin of each positive float32 by its upper 16 bits, which an edge never cuts."""
    lowest = (np.arange(_ANYTHING + 1, dtype=np.uint32) << 16).view(np.float32)
    bins = np.searchsorted(np.array(histogram_edges(activation_std)[1:-1], dtype=np.float32), lowest, side="right")
    return bins.astype(np.int64)
