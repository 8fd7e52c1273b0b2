"""Sparse autoencoders and transcoders: architectures, sparse kernels, files."""

from typing import TYPE_CHECKING

from mistudio.sae import config
from mistudio.sae.config import *  # noqa: F403 -- a new architecture is listed there alone
from mistudio.sae.parallel import Parallel
from mistudio.sae.registry import (
    SAEConfig,
    architecture_config,
    architecture_configs,
    architectures,
    built_in_configs,
    new_autoencoder,
)

if TYPE_CHECKING:
    from mistudio.sae.autoencoder import ActiveLatents, ExportForm, SparseAutoencoder, ThresholdedAutoencoder
    from mistudio.sae.files import (
        activation_std_of,
        config_json,
        hook_of,
        load_autoencoder,
        save_weights,
        target_hook_of,
    )
    from mistudio.sae.limit import NormLimit
    from mistudio.sae.training import Losses, Normalisation, SAETraining, Stage
    from mistudio.sae.workers import ALONE, WorkerFailed, Workers, start_workers
else:
    from mistudio.lazy import from_modules

    __getattr__ = from_modules(__name__, "autoencoder", "files", "limit", "training", "workers")

__all__ = [
    "ALONE",
    "ActiveLatents",
    "ExportForm",
    "Losses",
    "NormLimit",
    "Normalisation",
    "Parallel",
    "SAEConfig",
    "SAETraining",
    "SparseAutoencoder",
    "Stage",
    "ThresholdedAutoencoder",
    "WorkerFailed",
    "Workers",
    "architecture_config",
    "architecture_configs",
    "architectures",
    "built_in_configs",
    "config_json",
    "hook_of",
    "load_autoencoder",
    "new_autoencoder",
    "save_weights",
    "activation_std_of",
    "start_workers",
    "target_hook_of",
]
__all__ += config.__all__
