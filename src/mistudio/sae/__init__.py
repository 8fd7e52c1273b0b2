"""Sparse autoencoders: architectures, sparse kernels, files."""

from mistudio.sae.base import ActiveLatents, Losses, SparseAutoencoder
from mistudio.sae.config import SAEConfig, StandardConfig, TopKConfig
from mistudio.sae.files import config_json, hook_of, load_autoencoder, new_autoencoder, save_weights, spread_of

__all__ = [
    "ActiveLatents",
    "Losses",
    "SAEConfig",
    "SparseAutoencoder",
    "StandardConfig",
    "TopKConfig",
    "config_json",
    "hook_of",
    "load_autoencoder",
    "new_autoencoder",
    "save_weights",
    "spread_of",
]
