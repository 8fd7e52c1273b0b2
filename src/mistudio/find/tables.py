"""The tables that find publishes of whole features: one row a feature, and one row a neighbour.

Shape legend: F features, D model width, V vocabulary, Q quantiles, n neighbours.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from mistudio.artifacts import Draft
from mistudio.features import FEATURES, MAP, NEIGHBOURS, About, Table
from mistudio.features.layout import part_names, write_rows
from mistudio.find.association import Associated, Associations
from mistudio.find.neighbours import Nearest
from mistudio.find.projection import Projection
from mistudio.find.search import POSITION_EDGES, Search
from mistudio.find.statistics import QUANTILES, FeatureStatistics, histogram_edges
from mistudio.subject import Subject, unembed

_FEATURES_AT_ONCE = 256
# Of a row group: few, so that one feature is a small read, and enough for a footer that is read at once.
_FEATURES_OF_GROUP = 128
_NEIGHBOUR_FEATURES_OF_GROUP = 256
_PLACES_OF_GROUP = 4096


class Lens(NamedTuple):
    """The output tokens that each feature promotes and suppresses most, by direct effect on the logits."""

    promoted: list[list[int]]
    promoted_logits: list[list[float]]
    suppressed: list[list[int]]
    suppressed_logits: list[list[float]]


def logit_lens(subject: Subject, W_dec_FD: Tensor, num_tokens: int) -> Lens:
    """Read decoder directions through the model's output head (nostalgebraist 2020, "logit lens").

    Raises:
        SubjectError: the model has no output embeddings.
    """
    lens = Lens([], [], [], [])
    for start in range(0, len(W_dec_FD), _FEATURES_AT_ONCE):
        logits_FV = unembed(subject, W_dec_FD[start : start + _FEATURES_AT_ONCE]).cpu()
        count = min(num_tokens, logits_FV.shape[1])
        for largest, ids, logits in (
            (True, lens.promoted, lens.promoted_logits),
            (False, lens.suppressed, lens.suppressed_logits),
        ):
            top = logits_FV.topk(count, dim=1, largest=largest)
            ids += top.indices.tolist()
            logits += top.values.tolist()
    return lens


def feature_rows(
    statistics: FeatureStatistics,
    lens: Lens | None,
    tokens: list[str],
    more: Mapping[str, pa.Array] | None = None,
) -> pa.Table:
    """One row a feature: how often and how strongly it fires, which output tokens it moves, and ``more``."""
    num_features = statistics.num_features
    empty: list[list[int]] = [[] for _ in range(num_features)]
    lens = lens or Lens(empty, [[] for _ in empty], empty, [[] for _ in empty])
    return FEATURES.build(
        {
            "feature": np.arange(num_features, dtype=np.int32),
            "count": statistics.count_F.numpy(),
            "density": (statistics.count_F.double() / max(statistics.num_tokens, 1)).numpy(),
            "mean": statistics.mean_F.astype(np.float32),
            "max": statistics.max_F.numpy(),
            "histogram": list(statistics.histogram_FH.numpy()),
            **_tokens("promoted", lens.promoted, tokens),
            "promoted_logits": lens.promoted_logits,
            **_tokens("suppressed", lens.suppressed, tokens),
            "suppressed_logits": lens.suppressed_logits,
            "quantiles": lists(statistics.quantiles()),
            **(more or {}),
        }
    )


def statistics_columns(
    statistics: FeatureStatistics, associated: Associations, tokens: list[str]
) -> dict[str, pa.Array]:
    """Tokens, tasks and positions that features go with."""
    columns = {f"{name}_density": lists(statistics.density_by(name)) for name in statistics.tokens_by}
    by_name: dict[str, Associated] = associated._asdict()
    for name, each in by_name.items():
        columns |= _tokens(name, each.tokens, tokens)
        columns[f"{name}_values"] = pa.array(each.values, pa.list_(pa.float32()))
    return columns


def write_features(draft: Draft, rows: pa.Table) -> None:
    """Write what :func:`feature_rows` made."""
    write_rows(draft, FEATURES, len(rows), _FEATURES_OF_GROUP, [rows])


def write_neighbours(draft: Draft, nearest: Mapping[str, Nearest]) -> None:
    """One row a neighbour, by feature, relation and rank."""
    num_features = len(next(iter(nearest.values())).other)
    firsts = range(0, num_features, _NEIGHBOUR_FEATURES_OF_GROUP)
    rows = (_neighbour_rows(nearest, first) for first in firsts)
    write_rows(draft, NEIGHBOURS, num_features, _NEIGHBOUR_FEATURES_OF_GROUP, rows)


def is_written(draft: Draft, table: Table, num_features: int) -> bool:
    """Whether a draft has the whole of a table: its last file comes last."""
    return draft.has(part_names(table, num_features)[-1])


def write_map(draft: Draft, projection: Projection | None, group_F: NDArray[np.int32]) -> None:
    """One row a feature: where it lies, its cluster and its group of near-duplicates; null where it has none."""
    count = len(group_F)
    place = projection.place if projection else np.full((count, 2), np.nan, dtype=np.float32)
    cluster = projection.cluster if projection else np.full(count, -1, dtype=np.int32)
    rows = MAP.build(
        {
            "feature": np.arange(count, dtype=np.int32),
            "x": place[:, 0],
            "y": place[:, 1],
            "cluster": pa.array(cluster, mask=cluster < 0),
            "group": pa.array(group_F, mask=group_F < 0),
        }
    )
    write_rows(draft, MAP, count, _PLACES_OF_GROUP, [rows])


def about(search: Search) -> About:
    """What a reader of the tables needs to know of them."""
    return About(
        histogram_edges=histogram_edges(search.statistics.activation_std),
        num_tokens=search.statistics.num_tokens,
        context_before=search.top.before,
        context_after=search.top.after,
        quantiles=list(QUANTILES),
        tasks=search.tasks,
        position_edges=list(POSITION_EDGES),
    )


def lists(values_FQ: NDArray[np.floating]) -> pa.Array:
    """A list of float32 for each row."""
    return pa.array(list(values_FQ.astype(np.float32)), pa.list_(pa.float32()))


def _neighbour_rows(nearest: Mapping[str, Nearest], first: int) -> pa.Table:
    parts = []
    for number, (others, values) in enumerate(nearest.values()):
        span = slice(first, first + _NEIGHBOUR_FEATURES_OF_GROUP)
        feature, rank = np.nonzero(others[span] >= 0)
        found = others[span][feature, rank], values[span][feature, rank]
        parts.append((feature + first, np.full(len(feature), number), rank, *found))
    feature, relation, rank, other, value = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.lexsort((rank, relation, feature))
    names = pa.array(list(nearest)).take(pa.array(relation[order]))
    columns = {"feature": feature[order], "relation": names, "rank": rank[order], "other": other[order]}
    return NEIGHBOURS.build({**columns, "value": value[order]})


def _tokens(name: str, ids: list[list[int]], tokens: list[str]) -> dict[str, pa.Array]:
    """Tokens by id and as they read; a model may have logits for more ids than its tokenizer knows."""
    known = len(tokens)
    words = [[tokens[token] if token < known else f"<unused {token}>" for token in row] for row in ids]
    return {
        f"{name}_token_ids": pa.array(ids, pa.list_(pa.int32())),
        f"{name}_tokens": pa.array(words, pa.list_(pa.string())),
    }
