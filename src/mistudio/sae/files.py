"""Saving and loading: ``config.json`` beside ``sae.safetensors``.

The file of weights holds W_enc [F, D], b_enc [F], W_dec [F, E], b_dec [E], what the skip consists of, and the
architecture's own: thresholds, magnitudes. All are for activations as the model has them. The configuration holds the
norm limit too, where training left out tokens beyond one.
"""

import json
from pathlib import Path
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mistudio.artifacts import Artifact
from mistudio.errors import DamagedArtifact
from mistudio.sae.autoencoder import SparseAutoencoder
from mistudio.sae.limit import NormLimit
from mistudio.sae.registry import SAEConfig, new_autoencoder

WEIGHTS_NAME = "sae.safetensors"
CONFIG_NAME = "config.json"


class _Limit(BaseModel):
    """A norm limit: tokens farther from the centre than the distance were left out of training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    centre: tuple[FiniteFloat, ...]
    distance: FiniteFloat = Field(ge=0)

    @classmethod
    def of(cls, limit: NormLimit) -> Self:
        return cls(centre=tuple(limit.centre_D.tolist()), distance=limit.distance)

    def read(self) -> NormLimit:
        return NormLimit(torch.tensor(self.centre), self.distance)


class _Content(BaseModel):
    """The content of ``config.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hook: str
    target_hook: str | None = None
    d_in: int = Field(ge=1)
    d_out: int = Field(ge=1)
    activation_std: float = Field(gt=0)
    sae: SAEConfig
    norm_limit: _Limit | None = None

    @model_validator(mode="after")
    def _limit_fits(self) -> Self:
        if self.norm_limit is not None and len(self.norm_limit.centre) != self.d_in:
            message = f"norm_limit has a centre of {len(self.norm_limit.centre)} components, and d_in is {self.d_in}"
            raise ValueError(message)
        return self


def save_weights(sae: SparseAutoencoder, path: Path) -> None:
    """Write the weights in float32; the normalisation must be folded in."""
    save_file({name: getattr(sae, name).detach().float().cpu().contiguous() for name in sae.weight_names()}, path)


def config_json(sae: SparseAutoencoder, hook: str, activation_std: float, target_hook: str | None = None) -> bytes:
    """The content of ``config.json``: architecture, widths, hook points, ``activation_std_of`` and the norm limit."""
    content = _Content(
        hook=hook,
        target_hook=target_hook,
        d_in=sae.d_in,
        d_out=sae.d_out,
        activation_std=activation_std,
        sae=sae.config,
        norm_limit=None if sae.norm_limit is None else _Limit.of(sae.norm_limit),
    )
    written = content.model_dump(mode="json", exclude={"norm_limit"} if sae.norm_limit is None else None)
    return json.dumps(written, indent=1, sort_keys=True).encode() + b"\n"


def load_autoencoder(artifact: Artifact, device: torch.device | str = "cpu") -> SparseAutoencoder:
    """Load the autoencoder of an artifact of kind ``sae``, ready for use.

    Raises:
        DamagedArtifact: a file is not what was published, or is not what this version writes.
    """
    content = _content(artifact)
    sae = new_autoencoder(content.sae, content.d_in, content.d_out)
    expected = {name: getattr(sae, name).shape for name in sae.weight_names()}
    try:
        weights = load_file(artifact.file(WEIGHTS_NAME))
    except SafetensorError as error:
        message = f"{artifact.uri}/{WEIGHTS_NAME} is not a safetensors file: {error}"
        raise DamagedArtifact(message) from error
    found = {name: value.shape for name, value in weights.items()}
    if found != expected:
        message = f"{artifact.uri}/{WEIGHTS_NAME} holds {_shapes(found)} instead of {_shapes(expected)}"
        raise DamagedArtifact(message)
    sae.load_state_dict(weights, strict=False)  # all but what a class may keep beside its file
    sae.norm_limit = content.norm_limit.read() if content.norm_limit else None
    return sae.requires_grad_(requires_grad=False).to(device)


def hook_of(artifact: Artifact) -> str:
    """The hook point that the autoencoder of an artifact was trained on."""
    return _content(artifact).hook


def target_hook_of(artifact: Artifact) -> str | None:
    """The hook point that a transcoder predicts; None for an autoencoder."""
    return _content(artifact).target_hook


def activation_std_of(artifact: Artifact) -> float:
    """Standard deviation of the activations it reconstructs: the root of their mean variance over the dimensions."""
    return _content(artifact).activation_std


def _content(artifact: Artifact) -> _Content:
    try:
        return _Content.model_validate_json(artifact.file(CONFIG_NAME).read_bytes())
    except ValidationError as error:
        message = f"{artifact.uri}/{CONFIG_NAME} is not the configuration of an autoencoder: {error}"
        raise DamagedArtifact(message) from error


def _shapes(shapes: dict[str, torch.Size]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items())) or "nothing"
