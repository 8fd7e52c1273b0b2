"""Saving and loading: ``config.json`` beside ``sae.safetensors`` (W_enc [F, D], b_enc [F], W_dec [F, D], b_dec [D])."""

import json
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mistudio.artifacts import Artifact
from mistudio.errors import DamagedArtifact
from mistudio.sae.base import SparseAutoencoder
from mistudio.sae.config import SAEConfig, StandardConfig, TopKConfig
from mistudio.sae.standard import StandardAutoencoder
from mistudio.sae.topk import TopKAutoencoder

WEIGHTS_NAME = "sae.safetensors"
CONFIG_NAME = "config.json"

_WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")
_ARCHITECTURES: dict[str, type[SparseAutoencoder]] = {"topk": TopKAutoencoder, "standard": StandardAutoencoder}


class _Content(BaseModel):
    """The content of ``config.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hook: str
    d_in: int = Field(ge=1)
    spread: float = Field(gt=0)
    sae: SAEConfig


def new_autoencoder(config: TopKConfig | StandardConfig, d_in: int) -> SparseAutoencoder:
    """An autoencoder of the architecture that ``config`` names, with zero weights."""
    return _ARCHITECTURES[config.architecture](config, d_in)


def save_weights(sae: SparseAutoencoder, path: Path) -> None:
    """Write the four weights in float32; the spread must be folded in."""
    save_file({name: getattr(sae, name).detach().float().cpu().contiguous() for name in _WEIGHTS}, path)


def config_json(sae: SparseAutoencoder, hook: str, spread: float) -> bytes:
    """The content of ``config.json``: architecture, width of the input, hook point, the activations' spread."""
    content = _Content(hook=hook, d_in=sae.d_in, spread=spread, sae=sae.config)
    return json.dumps(content.model_dump(mode="json"), indent=1, sort_keys=True).encode() + b"\n"


def load_autoencoder(artifact: Artifact, device: torch.device | str = "cpu") -> SparseAutoencoder:
    """Load the autoencoder of an artifact of kind ``sae``, ready for use.

    Raises:
        DamagedArtifact: a file is not what was published, or is not what this version writes.
    """
    content = _content(artifact)
    sae = new_autoencoder(content.sae, content.d_in)
    expected = {name: value.shape for name, value in sae.state_dict().items() if name in _WEIGHTS}
    try:
        weights = load_file(artifact.file(WEIGHTS_NAME))
    except SafetensorError as error:
        message = f"{artifact.uri}/{WEIGHTS_NAME} is not a safetensors file: {error}"
        raise DamagedArtifact(message) from error
    found = {name: value.shape for name, value in weights.items()}
    if found != expected:
        message = f"{artifact.uri}/{WEIGHTS_NAME} holds {_shapes(found)} instead of {_shapes(expected)}"
        raise DamagedArtifact(message)
    sae.load_state_dict(weights, strict=False)  # all but the spread, which is folded into the weights
    return sae.requires_grad_(requires_grad=False).to(device)


def hook_of(artifact: Artifact) -> str:
    """The hook point that the autoencoder of an artifact was trained on."""
    return _content(artifact).hook


def spread_of(artifact: Artifact) -> float:
    """Root of the mean variance per dimension of the activations it was trained on: the scale of its latents."""
    return _content(artifact).spread


def _content(artifact: Artifact) -> _Content:
    try:
        return _Content.model_validate_json(artifact.file(CONFIG_NAME).read_bytes())
    except ValidationError as error:
        message = f"{artifact.uri}/{CONFIG_NAME} is not the configuration of an autoencoder: {error}"
        raise DamagedArtifact(message) from error


def _shapes(shapes: dict[str, torch.Size]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items())) or "nothing"
