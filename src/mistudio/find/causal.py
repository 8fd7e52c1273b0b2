"""Causal effects of features in the model, block by block, so that a run that is cut goes on behind the last block.

Shape legend: F features, C contexts of each, W tokens of a window.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from mistudio.artifacts import Draft
from mistudio.find.ablation import Ablation, ablate, can_ablate
from mistudio.find.attribution import attribute
from mistudio.find.config import FindConfig
from mistudio.find.context_tables import Attributions
from mistudio.find.contexts import TopContexts
from mistudio.find.reading import HookedSubject, Readings, readings
from mistudio.progress import progress

_FEATURES_AT_ONCE = 256
_EFFECTS = ("ablation", "ablation_elsewhere", "ablation_control")

Effects = dict[str, NDArray[np.float32]]  # each [F], in nats


def causal_effects(
    hooked: HookedSubject, top: TopContexts, config: FindConfig, draft: Draft, seed: int
) -> tuple[Effects, Attributions]:
    """Ablate and trace every feature in its first contexts; NaN where that was not asked for or cannot be."""
    blocks = []
    with progress("Try features in the model", top.num_features, "features") as bar:
        for first in range(0, top.num_features, _FEATURES_AT_ONCE):
            features = range(first, min(first + _FEATURES_AT_ONCE, top.num_features))
            name = f"causal-{first:07d}.safetensors"
            blocks.append(load_file(draft.work_once(name, partial(_save_block, hooked, top, features, config, seed))))
            bar.advance(len(features))
    joined = {name: torch.cat([block[name] for block in blocks]).numpy() for name in blocks[0]}
    attributions = Attributions(joined.pop("gradient"), joined.pop("integrated"))
    return joined, attributions


def _save_block(
    hooked: HookedSubject, top: TopContexts, features: range, config: FindConfig, seed: int, path: Path
) -> None:
    save_file(_block_effects(hooked, top, features, config, seed), path)


def _block_effects(
    hooked: HookedSubject, top: TopContexts, features: range, config: FindConfig, seed: int
) -> dict[str, Tensor]:
    before = max(config.causal_tokens, config.context_before)
    found = {name: np.full(len(features), np.nan, dtype=np.float32) for name in _EFFECTS}
    if config.ablation_contexts and can_ablate(hooked):
        read = readings(
            hooked.corpus, top, features, config.ablation_contexts, config.causal_tokens, config.context_after
        )
        found |= _means(ablate(hooked, read, seed), read, features)
    # What comes after the peak has no part in it where a token sees only those before.
    after = 0 if hooked.subject.is_causal else config.context_after
    read = readings(hooked.corpus, top, features, config.attribution_contexts, before, after)
    traced = attribute(hooked, read, config.attribution_steps)
    shape = (len(features), config.attribution_contexts)
    found["gradient"] = _windows(traced.gradient, read, features, top, shape)
    found["integrated"] = _windows(traced.integrated, read, features, top, shape)
    return {name: torch.from_numpy(values) for name, values in found.items()}


def _means(ablation: Ablation, read: Readings, features: range) -> Effects:
    """Means over the contexts of each feature in which anything could be asked."""
    feature = read.feature - features.start
    effects = {}
    for name, change in zip(_EFFECTS, ablation, strict=True):
        there = ~np.isnan(change)
        summed = np.bincount(feature[there], weights=change[there], minlength=len(features))
        counts = np.bincount(feature[there], minlength=len(features))
        effects[name] = np.where(counts > 0, summed / np.maximum(counts, 1), np.nan).astype(np.float32)
    return effects


def _windows(
    traced: list[NDArray[np.float32]], read: Readings, features: range, top: TopContexts, shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Lay what was read over the windows that are shown: 0 behind what was read, NaN before it."""
    windows = np.full((*shape, top.before + 1 + top.after), np.nan, dtype=np.float32)
    for values, feature, rank, peak in zip(traced, read.feature, read.rank, read.peak, strict=True):
        window = windows[feature - features.start, rank]
        skipped = top.before - int(peak)  # places of the window before the first token that was read
        window[max(skipped, 0) :] = 0
        shown = values[max(-skipped, 0) :][: len(window) - max(skipped, 0)]
        window[max(skipped, 0) : max(skipped, 0) + len(shown)] = shown
    return windows
