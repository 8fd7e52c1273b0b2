"""What the evaluate step does: it measures an autoencoder on held-out documents, alone and in the model.

The figures are those of SAEBench's core set, and beside them the same of a random autoencoder
(``control.random_...``): what random directions of the same number and sparsity would give.
"""

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mistudio.activations import ActivationReader, open_hook
from mistudio.artifacts import Artifact, Draft, JsonScalar, Store, Summary, open_input
from mistudio.corpus.reader import TokenCorpus
from mistudio.evaluate.config import EvaluateConfig
from mistudio.evaluate.control import random_autoencoder, sample_rows
from mistudio.evaluate.cosines import largest_cosines
from mistudio.evaluate.names import DENSITY_NAME, HISTOGRAMS_NAME, METRICS_NAME
from mistudio.evaluate.reconstruction import Reconstruction, measure_reconstruction
from mistudio.evaluate.splice import SpliceLosses, measure_splice, splice_flop
from mistudio.heap import release_freed_memory
from mistudio.instrument import Ends, open_session
from mistudio.progress import say
from mistudio.sae import SparseAutoencoder
from mistudio.subject import Subject, SubjectConfig, SubjectSource
from mistudio.subject.cost import encoding_flop, stated, subject_speed

_QUANTILES = (0.5, 0.9, 0.99)
_BINS = 40
_CONTROLLED = ("fvu", "explained_variance", "mse", "l0", "cosine", "relative_bias", "dead_fraction", "dense_fraction")
_CONTROLLED_IN_MODEL = ("ce_spliced", "ce_recovered", "ce_recovered_half_width", "kl", "kl_recovered")


def measure(
    draft: Draft,
    store: Store,
    sae: Artifact,
    activations: Artifact,
    source: SubjectSource,
    subject_config: SubjectConfig,
    config: EvaluateConfig,
    seed: int,
) -> Summary:
    """Measure ``sae``, trained on ``activations``, and write the tables."""
    with open_session(sae, source, subject_config) as session:
        subject, autoencoder, ends = session.subject, session.placed().sae, session.placed().ends
        saes = [autoencoder]
        if config.control:
            x_ND, *y_NE = (_sample(store, activations, hook, source, subject_config) for hook in ends.hooks)
            saes.append(random_autoencoder(autoencoder, x_ND, seed, *y_NE))
        corpus = TokenCorpus(open_input(store, activations.manifest.inputs["corpus"], "corpus"))
        reader, *target = (ActivationReader(activations, hook, "heldout") for hook in ends.hooks)
        say(f"Evaluate: {_cost(subject, ends, saes, corpus, len(reader), config, seed)}")
        rebuilt = [measure_reconstruction(each, reader, config.max_tokens, subject.device, *target) for each in saes]
        release_freed_memory()
        losses = measure_splice(subject, ends, saes, corpus, config.ce_tokens, seed, config.ce_half_width)
        cosines_F = largest_cosines(autoencoder.W_dec).cpu()
    metrics = _all_metrics(rebuilt, losses, cosines_F, config.dense_above)
    return _publish(draft, metrics, rebuilt[0].density_F, cosines_F)


def _cost(
    subject: Subject,
    ends: Ends,
    saes: Sequence[SparseAutoencoder],
    corpus: TokenCorpus,
    num_rows: int,
    config: EvaluateConfig,
    seed: int,
) -> str:
    """What is ahead, for people, at the speed of the loaded model."""
    rows = min(num_rows, config.max_tokens or num_rows)
    rebuilding = sum(encoding_flop(rows, sae.d_in, sae.width) for sae in saes)
    in_model, tokens = splice_flop(subject, ends, len(saes), corpus, config.ce_tokens, seed, config.ce_half_width)
    known = f", less where CE recovered is known to ± {config.ce_half_width:g} before" if config.ce_half_width else ""
    cost = stated(rebuilding + in_model, subject_speed(subject))
    return f"the passes take at most {cost}: {rows:,} tokens rebuilt, {tokens:,} run in the model{known}"


def _sample(
    store: Store, activations: Artifact, hook: str, source: SubjectSource, subject_config: SubjectConfig
) -> Tensor:
    """Training rows of one hook point."""
    with open_hook(store, activations, hook, source, subject_config) as rows:
        return sample_rows(rows)


def _all_metrics(
    rebuilt: list[Reconstruction], losses: list[SpliceLosses], cosines_F: Tensor, dense_above: float
) -> dict[str, JsonScalar]:
    """The figures of the autoencoder, which comes first, and those of its control."""
    in_model: Sequence[SpliceLosses | None] = losses or [None] * len(rebuilt)
    metrics, *controls = (
        {**_rebuilt_metrics(one, dense_above), **_model_metrics(other), **_filtered_metrics(one, other)}
        for one, other in zip(rebuilt, in_model, strict=True)
    )
    metrics |= _redundancy(cosines_F)
    for control in controls:
        metrics |= {f"control.random_{name}": control[name] for name in (*_CONTROLLED, *_CONTROLLED_IN_MODEL)}
    return metrics


def _rebuilt_metrics(rebuilt: Reconstruction, dense_above: float) -> dict[str, JsonScalar]:
    return {
        "tokens": rebuilt.tokens,
        "explained_variance": 1 - rebuilt.fvu,
        "explained_variance_by_token": rebuilt.explained_variance_by_token,
        "fvu": rebuilt.fvu,
        "mse": rebuilt.mse,
        "l0": rebuilt.l0,
        "l1": rebuilt.l1,
        "cosine": rebuilt.cosine,
        "l2_ratio": rebuilt.l2_ratio,
        "relative_bias": rebuilt.relative_bias,
        "dead_fraction": rebuilt.dead_fraction,
        "dense_fraction": rebuilt.dense_fraction(dense_above),
    }


def _model_metrics(losses: SpliceLosses | None) -> dict[str, JsonScalar]:
    return {
        "ce_clean": losses.ce_clean if losses else None,
        "ce_spliced": losses.ce_spliced if losses else None,
        "ce_zero": losses.ce_zero if losses else None,
        "ce_recovered": losses.ce_recovered if losses else None,
        "ce_recovered_half_width": losses.ce_recovered_half_width if losses else None,
        "ce_tokens": losses.tokens if losses else None,
        "kl": losses.kl if losses else None,
        "kl_zero": losses.kl_zero if losses else None,
        "kl_recovered": losses.kl_recovered if losses else None,
    }


def _filtered_metrics(rebuilt: Reconstruction, losses: SpliceLosses | None) -> dict[str, JsonScalar]:
    """The outliers: those beyond the norm limit, or, where there is none, those among the measured tokens."""
    if rebuilt.outliers is not None:
        return {
            "explained_variance_all": 1 - rebuilt.fvu_all,
            "explained_variance_without_outliers": 1 - rebuilt.outliers.fvu_without,
            "outlier_tokens": rebuilt.outliers.tokens,
            "outlier_fraction": rebuilt.outliers.tokens / max(rebuilt.tokens, 1),
        }
    filtered = rebuilt.filtered_tokens or 0
    return {
        "explained_variance_all": 1 - rebuilt.fvu_all,
        "filtered_tokens": filtered,
        "filtered_fraction": filtered / (rebuilt.tokens + filtered),
        "ce_filtered_tokens": losses.filtered_tokens if losses else None,
    }


def _redundancy(cosines_F: Tensor) -> dict[str, JsonScalar]:
    """How near the decoder's rows lie to their nearest neighbours."""
    quantiles = np.quantile(cosines_F.numpy(), _QUANTILES).tolist()
    named = {f"redundancy_p{100 * share:.0f}": value for share, value in zip(_QUANTILES, quantiles, strict=True)}
    return {"redundancy_mean": float(cosines_F.double().mean()), **named}


def _publish(draft: Draft, metrics: dict[str, JsonScalar], density_F: Tensor, cosines_F: Tensor) -> Summary:
    draft.write(METRICS_NAME, json.dumps(metrics, indent=1).encode())
    draft.write(HISTOGRAMS_NAME, json.dumps(_histograms(density_F, cosines_F), indent=1).encode())
    columns = {
        "feature": torch.arange(len(density_F)).numpy(),
        "density": density_F.numpy(),
        "max_cosine": cosines_F.numpy(),
    }
    with draft.stage(DENSITY_NAME) as path:
        pq.write_table(pa.table(columns), path)
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in metrics.items()}


def _histograms(density_F: Tensor, cosines_F: Tensor) -> dict[str, object]:
    """Latents by log10 of their density, from one token's to 0, and by their largest cosine with another."""
    alive = density_F[density_F > 0].log10().numpy()
    lowest = float(np.floor(alive.min())) if len(alive) else -1.0
    densities, density_edges = np.histogram(alive, bins=_BINS, range=(min(lowest, -1.0), 0.0))
    cosines, cosine_edges = np.histogram(np.clip(cosines_F.numpy(), -1, 1), bins=_BINS, range=(-1.0, 1.0))
    return {
        "log10_density": {"edges": density_edges.tolist(), "latents": densities.tolist()},
        "never_fired": int((density_F == 0).sum()),
        "max_cosine": {"edges": cosine_edges.tolist(), "latents": cosines.tolist()},
    }
