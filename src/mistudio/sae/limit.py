"""Which tokens an autoencoder is for: those whose input lies no farther from the middle than in its training.

Attention sinks and the like are many times as long as all other activations. Where training leaves them out, all that
is measured and found with the autoencoder afterwards has to leave out the same ones.

Shape legend: T tokens, D width of the input.
"""

from typing import NamedTuple

from torch import Tensor


class NormLimit(NamedTuple):
    """The ball that inputs of an autoencoder lie in, in the activations' units."""

    centre_D: Tensor  # float32
    distance: float  # from the centre; a token farther away is left out

    def keeps(self, x_TD: Tensor) -> Tensor:
        """Which tokens lie within the limit [T], bool; what is not finite does not."""
        kept_T: Tensor = (x_TD.float() - self.centre_D.to(x_TD.device)).norm(dim=1) <= self.distance
        return kept_T
