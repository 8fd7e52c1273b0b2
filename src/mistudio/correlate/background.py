"""What features do on the training tokens, as the table of features has it: what a text is held against.

Shape legend: F features, B bins of a histogram.
"""

from functools import cached_property

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from mistudio.features import FEATURES, FeatureSet
from mistudio.features.tables import TableReader

Values = NDArray[np.float64]


class Background:
    """Mean and standard deviation of each feature's activation over the training tokens, zeros included.

    Args:
        features: what was found.
    """

    def __init__(self, features: FeatureSet) -> None:
        self._features = features
        self._density_F = _column(features, "density")
        self._firing_F = _column(features, "mean")

    @cached_property
    def mean_F(self) -> Values:
        """The mean over all tokens: the density times the mean over the tokens that the feature fires on."""
        return self._density_F * self._firing_F

    @cached_property
    def std_F(self) -> Values:
        """The standard deviation over all tokens; NaN for a feature that never fires.

        Its second moment comes from the histogram: within a bin activations count as spread evenly over its logarithm,
        and the whole is scaled so that the first moment, which is known, comes out right.
        """
        edges_B = np.array(self._features.about.histogram_edges)
        low_B, high_B = edges_B[:-1], edges_B[1:]
        octaves_B = np.log(high_B / low_B)
        first_B, second_B = (high_B - low_B) / octaves_B, (high_B**2 - low_B**2) / (2 * octaves_B)
        squared_F = np.full(len(self._density_F), np.nan)
        for batch in TableReader(self._features.artifact, FEATURES).batches(["feature", "histogram"]):
            feature = batch["feature"].to_numpy()
            count_RB = pc.list_flatten(batch["histogram"]).to_numpy().reshape(len(feature), -1)
            with np.errstate(invalid="ignore", divide="ignore"):
                mean_R, square_R = (count_RB @ each_B / count_RB.sum(axis=1) for each_B in (first_B, second_B))
                squared_F[feature] = square_R * (self._firing_F[feature] / mean_R) ** 2
        std_F: Values = np.sqrt(np.maximum(self._density_F * squared_F - self.mean_F**2, 0))
        return std_F


def _column(features: FeatureSet, name: str) -> Values:
    values: Values = features.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
    return values
