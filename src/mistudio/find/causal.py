"""Causal effects of features in the model, block by block, so that a run that is cut goes on behind the last block.

Blocks are of contexts, those that begin alike together, whichever features they are of.

Shape legend: F features, P contexts, N features tried, C contexts traced of each, W tokens of a window.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from mistudio.artifacts import Draft, Summary
from mistudio.find.ablation import ablate, can_ablate
from mistudio.find.attribution import attribute
from mistudio.find.config import TrialConfig
from mistudio.find.cost import token_cost
from mistudio.find.passages import join_alike
from mistudio.find.reading import HookedSubject, Places, Readings, readings
from mistudio.find.worth import Bought
from mistudio.progress import Bar, progress, say
from mistudio.subject.cost import stated, subject_shape, subject_speed

EFFECTS = ("ablation", "ablation_elsewhere", "ablation_control")
_CONTEXTS_AT_ONCE = 512
_CONTEXTS_MEASURED = 1 << 14

Effects = dict[str, NDArray[np.float32]]  # each [N], in nats
_Read = Callable[[Places], Readings]


class Window(NamedTuple):
    """The tokens that are shown around a peak."""

    before: int
    after: int


class Trials(NamedTuple):
    """What came of trying some features; NaN where that was not asked for or cannot be."""

    feature: NDArray[np.int64]  # ascending [N]
    effects: Effects
    gradient: NDArray[np.float32]  # beside the window of their first contexts; NaN for tokens not read [N, C, W]
    integrated: NDArray[np.float32]

    def rows(self, num_features: int) -> NDArray[np.int64]:
        """The row here of every feature there is [F]; -1 of those not tried."""
        row_F = np.full(num_features, -1, dtype=np.int64)
        row_F[self.feature] = np.arange(len(self.feature))
        return row_F

    def of_all(self, num_features: int) -> Effects:
        """The effects of every feature there is [F]; NaN of those not tried."""
        effects = {name: np.full(num_features, np.nan, dtype=np.float32) for name in EFFECTS}
        for name, values_F in effects.items():
            values_F[self.feature] = self.effects[name]
        return effects


class Trying(NamedTuple):
    """How features are tried in a model.

    Attributes:
        hooked: the model.
        config: in how many contexts, and how far they are read.
        window: what is shown of a context.
        seed: of the lot that falls on the control's direction.
    """

    hooked: HookedSubject
    config: TrialConfig
    window: Window
    seed: int

    @property
    def ablated(self) -> int:
        """Contexts of a feature in which taking it out is tried."""
        return self.config.ablation_contexts if can_ablate(self.hooked) else 0

    @property
    def contexts(self) -> int:
        """Contexts of a feature that are read."""
        return max(self.ablated, self.config.attribution_contexts)

    def flop(self, places: Places) -> NDArray[np.float64]:
        """FLOP of the trials in each context [P], as if it shared its passes with no other."""
        shape, blocks = subject_shape(self.hooked.subject), self.hooked.ends.read.point.layer + 1
        cost = token_cost(shape, blocks, self.config, self.window.after)
        ablated_P, traced_P = places.rank < self.ablated, places.rank < self.config.attribution_contexts
        around_P, before_P = (_lengths(read, places) for read in (self._read_around, self._read_before))
        flop_P: NDArray[np.float64] = ablated_P * around_P * cost.ablated + traced_P * before_P * cost.traced
        return flop_P

    def run(self, draft: Draft, places: Places) -> Trials:
        """Try the features of these contexts; what an earlier run has kept of them is not done again."""
        ablated, traced = places.first(self.ablated), places.first(self.config.attribution_contexts)
        feature, num_contexts = np.unique(places.feature), len(ablated.feature) + len(traced.feature)
        with progress("Try features in the model", num_contexts, "contexts") as bar:
            effects = self._ablate(draft, bar, ablated, feature)
            windows = self._trace(draft, bar, traced, feature)
        return Trials(feature, effects, *windows)

    def _read_around(self, places: Places) -> Readings:
        """What is read to take a feature out."""
        return readings(self.hooked.corpus, places, self.config.causal_tokens, self.window.after)

    def _read_before(self, places: Places) -> Readings:
        """What is read to trace a feature; what comes behind has no part in it where a token sees only those before."""
        after = 0 if self.hooked.subject.is_causal else self.window.after
        return readings(self.hooked.corpus, places, max(self.config.causal_tokens, self.window.before), after)

    def _ablate(self, draft: Draft, bar: Bar, places: Places, feature_N: NDArray[np.int64]) -> Effects:
        read = self._read_around(places)
        read = read.take(join_alike(read.token_ids).order_P)

        def changes(some: Readings) -> dict[str, Tensor]:
            found = ablate(self.hooked, some, self.seed)
            return {name: torch.from_numpy(change) for name, change in zip(EFFECTS, found, strict=True)}

        found = _in_blocks(draft, bar, "ablation", read, changes)
        row_P = np.searchsorted(feature_N, read.feature)
        return {name: _means(found[name].numpy(), row_P, len(feature_N)) for name in EFFECTS}

    def _trace(
        self, draft: Draft, bar: Bar, places: Places, feature_N: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        read = self._read_before(places)

        def windows(some: Readings) -> dict[str, Tensor]:
            traced = attribute(self.hooked, some, self.config.attribution_steps)
            laid = {name: lay_out(values, some.peak, self.window) for name, values in traced._asdict().items()}
            return {name: torch.from_numpy(window_PW) for name, window_PW in laid.items()}

        found = _in_blocks(draft, bar, "attribution", read, windows)
        place = (np.searchsorted(feature_N, read.feature), read.rank)
        width = self.window.before + 1 + self.window.after
        shape = (len(feature_N), self.config.attribution_contexts, width)
        gradient, integrated = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
        gradient[place], integrated[place] = found["gradient"].numpy(), found["integrated"].numpy()
        return gradient, integrated


def tried(draft: Draft, trying: Trying, bought: Bought, places: Places) -> Trials:
    """Try the features that a budget buys in those of the contexts that are theirs, and say before what that takes."""
    if len(bought.features):
        asked, there = len(bought.features), len(bought.features) + bought.left_out
        cost = stated(bought.flop, subject_speed(trying.hooked.subject))
        say(f"Try {asked:,} of {there:,} features in the model: its passes take {cost}")
    return trying.run(draft, places.of(bought.features))


def summary_of(trials: Trials) -> Summary:
    """How many features were tried, and the mean of each effect over them."""
    means = {
        name: round(float(np.nanmean(values)), 6) if (~np.isnan(values)).any() else None
        for name, values in trials.effects.items()
    }
    return {"features_tried": len(trials.feature), **means}


def lay_out(traced: list[NDArray[np.float32]], peak_P: NDArray[np.int64], shown: Window) -> NDArray[np.float32]:
    """Lay what was read over the windows that are shown [P, W]: 0 behind what was read, NaN before it."""
    windows_PW = np.full((len(traced), shown.before + 1 + shown.after), np.nan, dtype=np.float32)
    for values, peak, window in zip(traced, peak_P.tolist(), windows_PW, strict=True):
        skipped = shown.before - peak  # places of the window before the first token that was read
        window[max(skipped, 0) :] = 0
        kept = values[max(-skipped, 0) :][: len(window) - max(skipped, 0)]
        window[max(skipped, 0) : max(skipped, 0) + len(kept)] = kept
    return windows_PW


def _in_blocks(
    draft: Draft, bar: Bar, name: str, read: Readings, work: Callable[[Readings], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """What ``work`` finds of all contexts, each block of them kept when it is done."""
    blocks = []
    for first in range(0, max(len(read.feature), 1), _CONTEXTS_AT_ONCE):
        some = read.take(np.arange(first, min(first + _CONTEXTS_AT_ONCE, len(read.feature))))
        blocks.append(load_file(draft.work_once(f"{name}-{first:07d}.safetensors", partial(_save, work, some))))
        bar.advance(len(some.feature))
    return {each: torch.cat([block[each] for block in blocks]) for each in blocks[0]}


def _save(work: Callable[[Readings], dict[str, Tensor]], read: Readings, path: Path) -> None:
    save_file(work(read), path)


def _means(change_P: NDArray[np.float32], row_P: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    """Means over the contexts of each feature in which anything could be asked [N]."""
    there = ~np.isnan(change_P)
    summed = np.bincount(row_P[there], weights=change_P[there], minlength=count)
    counts = np.bincount(row_P[there], minlength=count)
    return np.where(counts > 0, summed / np.maximum(counts, 1), np.nan).astype(np.float32)


def _lengths(read: _Read, places: Places) -> NDArray[np.int64]:
    """Tokens that are read of each context [P]; few texts are held at a time."""
    starts = range(0, len(places.feature), _CONTEXTS_MEASURED)
    blocks = (
        read(places.take(np.arange(first, min(first + _CONTEXTS_MEASURED, len(places.feature))))) for first in starts
    )
    return np.array([len(ids) for block in blocks for ids in block.token_ids], dtype=np.int64)
