"""Which tokens an autoencoder is for: those whose input lies no farther from the middle than in its training.

Attention sinks and the like are many times as long as all other activations. Where training leaves them out, all that
is measured and found with the autoencoder afterwards has to leave out the same ones.

Shape legend: T tokens, N tokens of a sample, D width of the input.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor


class NormLimit(NamedTuple):
    """The ball that inputs of an autoencoder lie in, in the activations' units."""

    centre_D: Tensor  # float32
    distance: float  # from the centre; a token farther away is left out

    @classmethod
    def measured(cls, sample_ND: Tensor, ratio: float, *, centred: bool = True) -> Self | None:
        """The limit at so many times the median distance of a sample, in float32; None where that median is 0.

        The centre and the typical distance are medians: a mean would follow the few that are to be left out. Where
        half of the sample is the same vector there is no typical distance, and so nothing that is far.

        Args:
            sample_ND: inputs from all over the corpus.
            ratio: the limit's distance over the median distance.
            centred: from the median of each dimension; otherwise from zero.
        """
        centre_D = sample_ND.median(dim=0).values if centred else torch.zeros_like(sample_ND[0])
        typical = float((sample_ND - centre_D).norm(dim=1).median())
        return cls(centre_D, ratio * typical) if typical else None

    def keeps(self, x_TD: Tensor) -> Tensor:
        """Which tokens lie within the limit [T], bool; what is not finite does not."""
        kept_T: Tensor = (x_TD.float() - self.centre_D.to(x_TD.device)).norm(dim=1) <= self.distance
        return kept_T
