"""How often and how strongly each feature fires, counted exactly in one pass.

Shape legend: A active (token, feature) pairs, F features, H histogram bins.
"""

import numpy as np
import torch
from torch import Tensor

from mistudio.sae import ActiveLatents

NUM_BINS = 64
_BINS_PER_OCTAVE = 4


def histogram_edges(spread: float) -> list[float]:
    """The 65 edges of the bins: four an octave, from 1/256 to 256 times the activations' spread."""
    return [spread * 2 ** ((edge - NUM_BINS // 2) / _BINS_PER_OCTAVE) for edge in range(NUM_BINS + 1)]


class FeatureStatistics:
    """Counts, sums, maxima and histograms of activations; two of them over disjoint tokens add up exactly."""

    def __init__(self, num_features: int, spread: float) -> None:
        self.num_tokens = 0
        self.spread = spread
        self._inner_edges = torch.tensor(histogram_edges(spread)[1:-1], dtype=torch.float64)
        self.count_F = torch.zeros(num_features, dtype=torch.int64)
        self.sum_F = torch.zeros(num_features, dtype=torch.float64)
        self.max_F = torch.zeros(num_features)
        self.histogram_FH = torch.zeros(num_features, NUM_BINS, dtype=torch.int64)

    def update(self, active: ActiveLatents, num_tokens: int) -> None:
        """Count the active latents of ``num_tokens`` tokens; what lies past the edges goes to the outer bins."""
        num_features = len(self.count_F)
        feature_A, value_A = active.feature_A.cpu(), active.value_A.cpu()
        self.num_tokens += num_tokens
        self.count_F += torch.bincount(feature_A, minlength=num_features)
        self.sum_F += torch.bincount(feature_A, weights=value_A.double(), minlength=num_features)
        self.max_F.scatter_reduce_(0, feature_A, value_A, "amax")
        bin_A = torch.bucketize(value_A.double(), self._inner_edges, right=True)
        flat_A = feature_A * NUM_BINS + bin_A
        self.histogram_FH += torch.bincount(flat_A, minlength=num_features * NUM_BINS).view(num_features, NUM_BINS)

    def state_dict(self) -> dict[str, Tensor]:
        """All counts."""
        return {
            "num_tokens": torch.tensor(self.num_tokens),
            "count_F": self.count_F,
            "sum_F": self.sum_F,
            "max_F": self.max_F,
            "histogram_FH": self.histogram_FH,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over the counts of :meth:`state_dict`."""
        self.num_tokens = int(state["num_tokens"])
        self.count_F, self.sum_F = state["count_F"], state["sum_F"]
        self.max_F, self.histogram_FH = state["max_F"], state["histogram_FH"]

    @property
    def mean_F(self) -> np.ndarray:
        """Mean activation over the tokens on which a feature fires; 0 where it never does."""
        mean_F: np.ndarray = (self.sum_F / self.count_F.clamp(min=1)).numpy()
        return mean_F
