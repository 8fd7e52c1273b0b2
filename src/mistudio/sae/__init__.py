"""Sparse autoencoders and transcoders: architectures, sparse kernels, files."""

from mistudio.sae.base import ActiveLatents, Losses, Normalisation, SparseAutoencoder, Stage
from mistudio.sae.config import (
    ArchitectureConfig,
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaConfig,
    StandardConfig,
    TopKConfig,
)
from mistudio.sae.files import config_json, hook_of, load_autoencoder, save_weights, spread_of, target_hook_of
from mistudio.sae.registry import SAEConfig, architectures, new_autoencoder
from mistudio.sae.workers import ALONE, Parallel, WorkerFailed, Workers, start_workers

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
