"""A model that is steered without being run."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mistudio.score.config import SteeringConfig
from mistudio.score.steering import Steering


class Written(Steering):
    """Goes on with words that tell the features apart, whatever model there is."""

    def __init__(self, num_prompts: int) -> None:
        self.config, self.directions_FD = SteeringConfig(num_prompts=num_prompts), torch.zeros(5, 4)
        self._texts: list[str] = []

    def prompts(self, texts: Sequence[str]) -> Tensor:
        self._texts = list(texts)
        return torch.zeros(len(texts), 2, dtype=torch.long)

    def shown(self, _ids_BT: Tensor) -> list[str]:
        return self._texts

    def continuations(self, features: Sequence[int], _ids_BT: Tensor) -> list[list[str] | None]:
        return [[f" and then {feature}, {place}" for place in range(len(self._texts))] for feature in features]
