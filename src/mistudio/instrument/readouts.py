"""Values that are read off activations by columns: chosen latents of an autoencoder, or projections on directions.

Each column has a vector that is written to change its value by one.

Shape legend: N tokens, D width of the hook point that is read, E of the one that is written, U columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mistudio.sae import SparseAutoencoder


class Readout(Protocol):
    """Columns that are read together."""

    @property
    def write_UE(self) -> Tensor:
        """The vector of each column [U, E], in float32."""

    def read(self, x_ND: Tensor) -> Tensor:
        """The value of each column on each token [N, U], in float32."""


@dataclass(frozen=True, eq=False)
class LatentReadout:
    """Chosen latents of an autoencoder."""

    encode: Callable[[Tensor], Tensor]
    write_UE: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, sae: SparseAutoencoder, latents: Sequence[int]) -> "LatentReadout":
        """Columns for some latents, in their order.

        Raises:
            InputError: there is no such latent.
        """
        latents_U = torch.tensor(latents, dtype=torch.int64, device=sae.W_dec.device)
        encode = sae.encoder_of(latents_U)
        return cls(encode, sae.W_dec.detach()[latents_U].float(), sae.W_enc.dtype)

    def read(self, x_ND: Tensor) -> Tensor:
        """Activations of the latents, of tokens in any arrangement [..., U]."""
        flat_ND = x_ND.reshape(-1, x_ND.shape[-1]).to(self.dtype)
        return self.encode(flat_ND).float().reshape(*x_ND.shape[:-1], -1)


@dataclass(frozen=True, eq=False)
class ProjectionReadout:
    """Projections on directions, which are made unit vectors."""

    write_UE: Tensor

    @classmethod
    def of(cls, vectors: Sequence[Tensor]) -> "ProjectionReadout":
        """Columns for some vectors, in their order."""
        return cls(torch.stack([vector.float() / vector.float().norm() for vector in vectors]))

    def read(self, x_ND: Tensor) -> Tensor:
        """Projections [N, U]."""
        return x_ND.float() @ self.write_UE.T
