"""Saving and loading: ``config.json`` beside ``sae.safetensors`` (W_enc [F, D], b_enc [F], W_dec [F, D], b_dec [D])."""

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file

from mistudio.artifacts import Artifact
from mistudio.errors import DamagedArtifact
from mistudio.sae.base import SparseAutoencoder
from mistudio.sae.config import SAEConfig, StandardConfig, TopKConfig
from mistudio.sae.standard import StandardAutoencoder
from mistudio.sae.topk import TopKAutoencoder

WEIGHTS_NAME = "sae.safetensors"
CONFIG_NAME = "config.json"

_ARCHITECTURES: dict[str, type[SparseAutoencoder]] = {"topk": TopKAutoencoder, "standard": StandardAutoencoder}
_CONFIG: TypeAdapter[TopKConfig | StandardConfig] = TypeAdapter(SAEConfig)


def new_autoencoder(config: TopKConfig | StandardConfig, d_in: int) -> SparseAutoencoder:
    """An autoencoder of the architecture that ``config`` names, with zero weights."""
    return _ARCHITECTURES[config.architecture](config, d_in)


def save_weights(sae: SparseAutoencoder, path: Path) -> None:
    """Write the four weights in float32; the spread must be folded in."""
    names = ("W_enc", "b_enc", "W_dec", "b_dec")
    save_file({name: getattr(sae, name).detach().float().cpu().contiguous() for name in names}, path)


def config_json(sae: SparseAutoencoder, hook: str, spread: float) -> bytes:
    """The content of ``config.json``: architecture, width of the input, hook point, the activations' spread."""
    content = {"hook": hook, "d_in": sae.d_in, "spread": spread, "sae": sae.config.model_dump(mode="json")}
    return json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"


def load_autoencoder(artifact: Artifact, device: torch.device | str = "cpu") -> SparseAutoencoder:
    """Load the autoencoder of an artifact of kind ``sae``, ready for use.

    Raises:
        DamagedArtifact: a file is not what was published, or is not what this version writes.
    """
    try:
        content = _content(artifact)
        sae = new_autoencoder(_CONFIG.validate_python(content["sae"]), content["d_in"])
    except (KeyError, ValueError, ValidationError) as error:
        message = f"{artifact.uri}/{CONFIG_NAME} is not the configuration of an autoencoder: {error}"
        raise DamagedArtifact(message) from error
    sae.load_state_dict(load_file(artifact.file(WEIGHTS_NAME)), strict=False)
    return sae.requires_grad_(requires_grad=False).to(device)


def hook_of(artifact: Artifact) -> str:
    """The hook point that the autoencoder of an artifact was trained on."""
    return str(_content(artifact)["hook"])


def spread_of(artifact: Artifact) -> float:
    """Root of the mean variance per dimension of the activations it was trained on: the scale of its latents."""
    return float(_content(artifact)["spread"])


def _content(artifact: Artifact) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(artifact.file(CONFIG_NAME).read_bytes())
    return content
