"""Sparse autoencoders and transcoders: architectures, sparse kernels, files."""

from typing import TYPE_CHECKING

from mistudio.sae.config import (
    ArchitectureConfig,
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    StandardConfig,
    TopKConfig,
)
from mistudio.sae.parallel import Parallel
from mistudio.sae.registry import SAEConfig, architecture_configs, architectures, new_autoencoder

if TYPE_CHECKING:
    from mistudio.sae.base import ActiveLatents, Losses, Normalisation, SparseAutoencoder, Stage
    from mistudio.sae.files import config_json, hook_of, load_autoencoder, save_weights, spread_of, target_hook_of
    from mistudio.sae.workers import ALONE, WorkerFailed, Workers, start_workers
else:
    from mistudio.lazy import from_modules

    __getattr__ = from_modules(__name__, "base", "files", "workers")

__all__ = [
    "ALONE",
    "ActiveLatents",
    "ArchitectureConfig",
    "BatchTopKConfig",
    "GatedConfig",
    "JumpReLUConfig",
    "Losses",
    "MatryoshkaConfig",
    "Normalisation",
    "Parallel",
    "SAEConfig",
    "SparseAutoencoder",
    "Stage",
    "StandardConfig",
    "TopKConfig",
    "WorkerFailed",
    "Workers",
    "architecture_configs",
    "architectures",
    "config_json",
    "hook_of",
    "load_autoencoder",
    "new_autoencoder",
    "save_weights",
    "spread_of",
    "start_workers",
    "target_hook_of",
]
