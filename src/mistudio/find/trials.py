"""Trials of features after the search: the model and the contexts are opened again, and tables of the trials written.

Shape legend: F features, P contexts, K features in their order, N features tried, C contexts traced of each.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mistudio.artifacts import Artifact, Draft, Summary
from mistudio.corpus.reader import TokenCorpus
from mistudio.errors import ConfigError
from mistudio.features import TRACES, TRIALS, FeatureSet, Table
from mistudio.features.tables import TableReader, writing
from mistudio.find.causal import EFFECTS, Trials, Trying, Window, tried
from mistudio.find.config import TrialConfig
from mistudio.find.reading import HookedSubject, Places
from mistudio.find.worth import buy
from mistudio.instrument import Ends
from mistudio.sae import hook_of, load_autoencoder, target_hook_of
from mistudio.subject import HookPoint, SubjectConfig, SubjectSource, load_subject, resolve_hooks

_PLACE = ("rank", "sequence", "position")
_ROWS_OF_GROUP = 256
_EVERY = 1 << 31


class Search(NamedTuple):
    """What was found, and what it was found in."""

    found: FeatureSet
    sae: Artifact
    corpus: Artifact
    source: SubjectSource
    subject_config: SubjectConfig

    @property
    def window(self) -> Window:
        """The tokens that are shown around a peak."""
        return Window(self.found.about.context_before, self.found.about.context_after)

    def open(self) -> HookedSubject:
        """The model with the autoencoder at its hook points."""
        subject = load_subject(self.source, self.subject_config)
        hook = hook_of(self.sae)
        points = [HookPoint.parse(name) for name in (hook, target_hook_of(self.sae) or hook)]
        sae = load_autoencoder(self.sae, subject.device)
        return HookedSubject(subject, Ends(*resolve_hooks(subject, points)), sae, TokenCorpus(self.corpus))

    def places(self, features: NDArray[np.int64], count: int) -> Places:
        """The first contexts of some features."""
        wanted_F = np.zeros(self.found.num_features, dtype=bool)
        wanted_F[features] = True
        stream = self.found.stream(columns=["count"], context_columns=_PLACE, limits={"top": count}, neighbours=False)
        rows = [
            (each.feature, *(context[name] for name in _PLACE))
            for each in stream
            if wanted_F[each.feature]
            for context in each.contexts
        ]
        feature, rank, sequence, position = np.array(rows, dtype=np.int64).reshape(-1, 4).T
        return Places(feature, rank, sequence.astype(np.int32), position.astype(np.int32))


def try_further(draft: Draft, search: Search, config: TrialConfig, order_K: NDArray[np.int64]) -> tuple[Trials, int]:
    """Try as many of the features as the budget buys, in their order; and how many it does not reach.

    Raises:
        ConfigError: it reaches none.
    """
    trying = Trying(search.open(), config, search.window, search.found.artifact.manifest.seed)
    places = search.places(order_K, trying.contexts)
    flop_P = trying.flop(places)
    bought = buy(order_K, places.feature, flop_P, config.causal_tflop)
    if len(order_K) and not len(bought.features):
        needed = float(flop_P[places.feature == order_K[0]].sum()) / 1e12
        message = (
            f"causal_tflop {config.causal_tflop:g} buys no trial: the first feature, {order_K[0]}, takes {needed:.3g}. "
            "Give as much or more, or name features with only and leave causal_tflop out."
        )
        raise ConfigError(message)
    return tried(draft, trying, bought, places), bought.left_out


def no_trials(search: Search) -> Trials:
    """Trials of no feature."""
    window = search.window
    none = np.empty((0, 0, window.before + 1 + window.after), dtype=np.float32)
    effects = {name: np.empty(0, dtype=np.float32) for name in EFFECTS}
    return Trials(np.empty(0, dtype=np.int64), effects, none, none)


def write_trials(draft: Draft, search: Search, trials: Trials, base: Artifact | None) -> Summary:
    """Write the tables, with the rows of the base, and say how many features they hold."""
    effects = TRIALS.build({"feature": trials.feature, **{name: _nullable(trials.effects[name]) for name in EFFECTS}})
    rows = _with_base(effects, base, TRIALS, ["feature"])
    _write(draft, TRIALS, rows)
    _write(draft, TRACES, _with_base(_traces(search, trials), base, TRACES, ["feature", "rank"]))
    columns = {name: rows[name].to_numpy(zero_copy_only=False) for name in EFFECTS}
    means = {name: _mean(values) for name, values in columns.items()}
    return {
        "features": search.found.num_features,
        "features_tried": len(rows),
        "features_new": len(trials.feature),
        **means,
    }


def _traces(search: Search, trials: Trials) -> pa.Table:
    """The attributions, beside the tokens that each context shows."""
    rows: list[tuple[int, int, NDArray[np.float32], NDArray[np.float32]]] = []
    count, before = trials.gradient.shape[1], search.window.before
    for row, feature in enumerate(trials.feature.tolist()):
        for context in search.found.contexts(feature, {"top": count}):
            rank, skip = context["rank"], before - context["peak"]
            shown = slice(skip, skip + len(context["token_ids"]))
            rows.append((feature, rank, trials.gradient[row, rank, shown], trials.integrated[row, rank, shown]))
    return TRACES.build({name: [row[place] for row in rows] for place, name in enumerate(TRACES.names)})


def _with_base(rows: pa.Table, base: Artifact | None, table: Table, order: Sequence[str]) -> pa.Table:
    if base is None:
        return rows
    return pa.concat_tables([TableReader(base, table).read(0, _EVERY), rows]).sort_by(
        [(name, "ascending") for name in order]
    )


def _write(draft: Draft, table: Table, rows: pa.Table) -> None:
    with draft.stage(table.name) as path, writing(path, table) as writer:
        writer.write_table(rows, row_group_size=_ROWS_OF_GROUP)


def _nullable(values: NDArray[np.float32]) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def _mean(values: NDArray[np.float32]) -> float | None:
    return None if np.isnan(values).all() else round(float(np.nanmean(values)), 6)
