"""The table of contexts that find publishes: one row a context, by feature, kind and rank.

Shape legend: F features, N of them tried, C contexts traced of each, P contexts of a block, W tokens of a window, S
strata.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mistudio.artifacts import Draft
from mistudio.corpus.reader import TokenCorpus
from mistudio.features import CONTEXT_KINDS, CONTEXTS
from mistudio.features.layout import writing
from mistudio.find.causal import Trials
from mistudio.find.contexts import TopContexts
from mistudio.find.sample import Sample
from mistudio.find.silent import SilentContexts
from mistudio.find.statistics import FeatureStatistics

_ROWS_OF_GROUP = 1024  # contexts, so that those of one feature are a small read
_MOST_OF_GROUP = 256  # features
_GROUPS_OF_FILE = 64  # so that the footer of a file is read at once
_FEATURES_AT_ONCE = 256
_WINDOW_TOKENS_AT_ONCE = 1 << 22


class Contexts(NamedTuple):
    """All contexts of a search."""

    top: TopContexts
    pool: TopContexts  # what the sampled ones are chosen from
    sampled: int  # how many of them
    strata: int
    statistics: FeatureStatistics
    sample: Sample
    random: SilentContexts
    hard_negatives: SilentContexts
    trials: Trials  # attributions stand beside the contexts that were traced


class _Rows(NamedTuple):
    """Contexts of a block of features in parallel arrays [P], with their windows [P, W]."""

    kind: NDArray[np.int64]  # place in CONTEXT_KINDS
    feature: NDArray[np.int64]
    rank: NDArray[np.int64]
    stratum: NDArray[np.int32]
    document: NDArray[np.int32]
    sequence: NDArray[np.int32]
    position: NDArray[np.int32]
    neighbour: NDArray[np.int32]
    window: NDArray[np.float32]

    def take(self, rows: NDArray[np.int64]) -> "_Rows":
        return _Rows._make(column[rows] for column in self)


def write_contexts(draft: Draft, contexts: Contexts, corpus: TokenCorpus, tokens: list[str]) -> dict[str, int]:
    """Write all contexts, in files of so many row groups; return how many there are of each kind."""
    written = dict.fromkeys(CONTEXT_KINDS, 0)
    words = pa.array(tokens)
    num_features = contexts.top.num_features
    of_group = features_of_group(contexts)
    at_once, of_file = max(_at_once(contexts), of_group), of_group * _GROUPS_OF_FILE
    for first in range(0, num_features, of_file):
        stop = min(first + of_file, num_features)
        with draft.stage(f"{CONTEXTS.name}/{first:07d}.parquet") as path, writing(path, CONTEXTS) as writer:
            for start in range(first, stop, at_once):
                rows = _block(contexts, start, min(start + at_once, stop))
                _write_groups(writer, _table(rows, contexts, corpus, words), of_group)
                for number, kind in enumerate(CONTEXT_KINDS):
                    written[kind] += int((rows.kind == number).sum())
    return written


def features_of_group(contexts: Contexts) -> int:
    """How many features share a row group: a power of two, so that a run of features ends where a group does."""
    silent = sum(int(each.rank.max(initial=-1)) + 1 for each in (contexts.random, contexts.hard_negatives))
    rows = contexts.top.num_contexts + contexts.sampled + silent
    return 1 << max(min(_ROWS_OF_GROUP // max(rows, 1), _MOST_OF_GROUP).bit_length() - 1, 0)


def _at_once(contexts: Contexts) -> int:
    """How many features are put together at a time: a power of two, as what shares a row group is."""
    rows = contexts.top.num_contexts + contexts.pool.num_contexts + 2 * contexts.sampled
    window_tokens = max(rows * contexts.top.window_FCW.shape[2], 1)
    return 1 << max(min(_FEATURES_AT_ONCE, _WINDOW_TOKENS_AT_ONCE // window_tokens).bit_length() - 1, 0)


def _write_groups(writer: pq.ParquetWriter, rows: pa.Table, of_group: int) -> None:
    group = rows["feature"].to_numpy() // of_group
    edges = np.flatnonzero(np.diff(group, prepend=-1, append=-1)).tolist()
    for start, stop in pairwise(edges):
        writer.write_table(rows.slice(start, stop - start))


def stratified(
    value_FC: NDArray[np.float32], shares_FC: NDArray[np.float64], strata: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Put drawn contexts, in the order of the lot, into strata, and rank them so that strata take turns.

    Args:
        value_FC: activations at the peaks; NaN where there is no context.
        shares_FC: share of the feature's activations that lies below each.
        strata: S.

    Returns:
        The stratum of each, 0 being the weakest, and its rank [F, C]; places without a context come last.
    """
    stratum_FC = np.minimum((shares_FC * strata).astype(np.int64), strata - 1)
    there_FC = ~np.isnan(value_FC)
    turn_FC = np.zeros(value_FC.shape, dtype=np.int64)
    for stratum in range(strata):
        own_FC = there_FC & (stratum_FC == stratum)
        turn_FC = np.where(own_FC, own_FC.cumsum(axis=1) - 1, turn_FC)
    key_FC = np.where(there_FC, turn_FC * strata + (strata - 1 - stratum_FC), np.iinfo(np.int64).max)
    rank_FC = np.argsort(np.argsort(key_FC, axis=1, kind="stable"), axis=1, kind="stable")
    return stratum_FC, rank_FC


def _block(contexts: Contexts, first: int, stop: int) -> _Rows:
    """All contexts of the features from ``first`` to before ``stop``."""
    parts = [
        _top(contexts.top, first, stop),
        _sampled(contexts, first, stop),
        _silent(contexts.random, "random", contexts, first, stop),
        _silent(contexts.hard_negatives, "hard_negative", contexts, first, stop),
    ]
    rows = _Rows._make(np.concatenate(columns) for columns in zip(*parts, strict=True))
    return rows.take(np.lexsort((rows.rank, rows.kind, rows.feature)))


def _top(top: TopContexts, first: int, stop: int) -> _Rows:
    feature, rank = np.nonzero(top.ints_FC["document"][first:stop] >= 0)
    nothing = np.full(len(feature), -1, dtype=np.int32)
    return _kept(top, "top", (feature + first, rank), rank, nothing)


def _sampled(contexts: Contexts, first: int, stop: int) -> _Rows:
    pool = contexts.pool
    value_FC = pool.window_FCW[first:stop, :, pool.before]
    shares_FC = contexts.statistics.shares_below(value_FC, slice(first, stop))
    stratum_FC, rank_FC = stratified(value_FC, shares_FC, contexts.strata)
    chosen_FC = (pool.ints_FC["document"][first:stop] >= 0) & (rank_FC < contexts.sampled)
    feature, place = np.nonzero(chosen_FC)
    stratum, rank = stratum_FC[feature, place].astype(np.int32), rank_FC[feature, place]
    return _kept(pool, "sampled", (feature + first, place), rank, stratum)


def _kept(
    top: TopContexts,
    kind: str,
    place: tuple[NDArray[np.int64], NDArray[np.int64]],
    rank: NDArray[np.int64],
    stratum: NDArray[np.int32],
) -> _Rows:
    ints = {name: column[place] for name, column in top.ints_FC.items()}
    kinds = np.full(len(rank), CONTEXT_KINDS.index(kind))
    nobody = np.full(len(rank), -1, dtype=np.int32)
    window = top.window_FCW[place]
    return _Rows(kind=kinds, feature=place[0], rank=rank, stratum=stratum, neighbour=nobody, window=window, **ints)


def _silent(found: SilentContexts, kind: str, contexts: Contexts, first: int, stop: int) -> _Rows:
    low, high = np.searchsorted(found.feature, (first, stop))
    row, sample, top = found.row[low:high], contexts.sample, contexts.top
    near_PW = row[:, None] + np.arange(-top.before, top.after + 1)
    inside_PW = (near_PW >= sample.first[row][:, None]) & (near_PW < sample.stop[row][:, None])
    return _Rows(
        kind=np.full(len(row), CONTEXT_KINDS.index(kind)),
        feature=found.feature[low:high].astype(np.int64),
        rank=found.rank[low:high].astype(np.int64),
        stratum=np.full(len(row), -1, dtype=np.int32),
        document=sample.document[row],
        sequence=sample.sequence[row],
        position=sample.position[row],
        neighbour=found.neighbour[low:high],
        window=np.where(inside_PW, np.float32(0), np.float32(np.nan)),
    )


def _table(rows: _Rows, contexts: Contexts, corpus: TokenCorpus, words: pa.Array) -> pa.Table:
    texts = corpus.batch("train", rows.sequence)
    before, after = contexts.top.before, contexts.top.after
    peak_in_sequence = rows.position - texts.start + corpus.num_prefix
    starts = np.maximum(peak_in_sequence - before, 0)
    stops = peak_in_sequence + after + 1
    ids = [row[start:stop] for row, start, stop in zip(texts.token_ids, starts, stops, strict=True)]
    spans = list(zip((starts - (peak_in_sequence - before)).tolist(), map(len, ids), strict=True))
    offsets = pa.array(np.cumsum([0, *(length for _, length in spans)]), pa.int32())
    flat_ids = np.concatenate([np.empty(0, np.int64), *ids]).astype(np.int64)
    values = [row[skip : skip + length] for row, (skip, length) in zip(rows.window, spans, strict=True)]
    return CONTEXTS.build(
        {
            "feature": rows.feature,
            "kind": pa.array([CONTEXT_KINDS[kind] for kind in rows.kind.tolist()], pa.string()),
            "rank": rows.rank,
            "stratum": pa.array(rows.stratum, pa.int32(), mask=rows.stratum < 0),
            "document": rows.document,
            "task": pa.array(texts.task.tolist(), pa.string()),
            "sequence": rows.sequence,
            "position": rows.position,
            "value": rows.window[:, before],
            "peak": peak_in_sequence - starts,
            "neighbour": pa.array(rows.neighbour, pa.int32(), mask=rows.neighbour < 0),
            "token_ids": pa.ListArray.from_arrays(offsets, pa.array(flat_ids, pa.int32())),
            "tokens": pa.ListArray.from_arrays(offsets, words.take(pa.array(flat_ids))),
            "values": pa.ListArray.from_arrays(
                offsets, pa.array(np.concatenate([np.empty(0, np.float32), *values]), pa.float32())
            ),
            "gradient": _attributions(contexts, contexts.trials.gradient, rows, spans),
            "integrated": _attributions(contexts, contexts.trials.integrated, rows, spans),
        }
    )


def _attributions(
    contexts: Contexts, traced_NCW: NDArray[np.float32], rows: _Rows, spans: list[tuple[int, int]]
) -> pa.Array:
    """Attributions of the contexts that have them, null for all others."""
    row_P = contexts.trials.rows(contexts.top.num_features)[rows.feature]
    has = (rows.kind == CONTEXT_KINDS.index("top")) & (rows.rank < traced_NCW.shape[1]) & (row_P >= 0)
    lists = [
        traced_NCW[row, rank, skip : skip + length] if there else None
        for there, row, rank, (skip, length) in zip(has, row_P, rows.rank, spans, strict=True)
    ]
    return pa.array(lists, pa.list_(pa.float32()))
