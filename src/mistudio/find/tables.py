"""The tables that find publishes: one row a feature, and one row a context.

Shape legend: F features, C contexts a feature, W tokens of a window, D model width, V vocabulary.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from mistudio.corpus.reader import TokenCorpus
from mistudio.find.contexts import TopContexts
from mistudio.find.statistics import FeatureStatistics, histogram_edges
from mistudio.subject import Subject, unembed

_FEATURES_AT_ONCE = 256
_WINDOW_TOKENS_AT_ONCE = 1 << 22


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


def write_features(path: Path, statistics: FeatureStatistics, lens: Lens | None, tokens: list[str]) -> None:
    """One row a feature: how often and how strongly it fires, and which output tokens it moves."""
    num_features = len(statistics.count_F)
    empty: list[list[int]] = [[] for _ in range(num_features)]
    lens = lens or Lens(empty, [[] for _ in empty], empty, [[] for _ in empty])
    columns = {
        "feature": pa.array(np.arange(num_features), pa.int32()),
        "count": pa.array(statistics.count_F.numpy()),
        "density": pa.array((statistics.count_F.double() / max(statistics.num_tokens, 1)).numpy()),
        "mean": pa.array(statistics.mean_F.astype(np.float32)),
        "max": pa.array(statistics.max_F.numpy()),
        "histogram": pa.array(list(statistics.histogram_FH.numpy()), pa.list_(pa.int64())),
        "promoted_tokens": _words(lens.promoted, tokens),
        "promoted_logits": pa.array(lens.promoted_logits, pa.list_(pa.float32())),
        "suppressed_tokens": _words(lens.suppressed, tokens),
        "suppressed_logits": pa.array(lens.suppressed_logits, pa.list_(pa.float32())),
    }
    pq.write_table(pa.table(columns), path, compression="zstd")


def write_contexts(path: Path, contexts: TopContexts, corpus: TokenCorpus, tokens: list[str]) -> int:
    """One row a context, by feature and rank; return how many there are."""
    written = 0
    writer: pq.ParquetWriter | None = None
    for batch in _context_batches(contexts, corpus, pa.array(tokens)):
        writer = writer or pq.ParquetWriter(path, batch.schema, compression="zstd")
        writer.write_table(batch)
        written += batch.num_rows
    if writer is not None:
        writer.close()
    return written


def find_json(statistics: FeatureStatistics, contexts: TopContexts) -> bytes:
    """What a reader of the tables needs to know of them."""
    content = {
        "histogram_edges": histogram_edges(statistics.spread),
        "num_tokens": statistics.num_tokens,
        "context_before": contexts.before,
        "context_after": contexts.after,
    }
    return json.dumps(content).encode()


def _words(ids: list[list[int]], tokens: list[str]) -> pa.Array:
    """Readable tokens; a model may have logits for more ids than its tokenizer knows."""
    known = len(tokens)
    words = [[tokens[token] if token < known else f"<unused {token}>" for token in row] for row in ids]
    return pa.array(words, pa.list_(pa.string()))


def _context_batches(contexts: TopContexts, corpus: TokenCorpus, tokens: pa.Array) -> Iterator[pa.Table]:
    """Tables of the contexts of a few hundred features each; fewer where their windows are many or long."""
    window_tokens = contexts.window_FCW[0].size
    at_once = max(min(_FEATURES_AT_ONCE, _WINDOW_TOKENS_AT_ONCE // window_tokens), 1)
    for first in range(0, contexts.num_features, at_once):
        features = slice(first, first + at_once)
        feature, rank = np.nonzero(contexts.ints_FC["document"][features] >= 0)
        place = (feature + first, rank)
        sequence = contexts.ints_FC["sequence"][place]
        position = contexts.ints_FC["position"][place]
        rows = corpus.batch("train", sequence)
        peak_in_sequence = position - rows.start + corpus.num_prefix
        starts = np.maximum(peak_in_sequence - contexts.before, 0)
        stops = peak_in_sequence + contexts.after + 1
        ids = [row[start:stop] for row, start, stop in zip(rows.token_ids, starts, stops, strict=True)]
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        skipped = starts - (peak_in_sequence - contexts.before)
        windows = contexts.window_FCW[place]
        values = [row[skip : skip + length] for row, skip, length in zip(windows, skipped, lengths, strict=True)]
        flat_ids = np.concatenate([np.empty(0, np.int64), *ids]).astype(np.int64)
        flat_values = np.concatenate([np.empty(0, np.float32), *values])
        yield pa.table(
            {
                "feature": pa.array(place[0], pa.int32()),
                "rank": pa.array(rank, pa.int32()),
                "document": pa.array(contexts.ints_FC["document"][place]),
                "task": pa.array(rows.task.tolist(), pa.string()),
                "sequence": pa.array(sequence),
                "position": pa.array(position),
                "value": pa.array(contexts.value_FC[place]),
                "peak": pa.array(peak_in_sequence - starts, pa.int32()),
                "tokens": pa.ListArray.from_arrays(offsets, tokens.take(pa.array(flat_ids))),
                "values": pa.ListArray.from_arrays(offsets, pa.array(flat_values, pa.float32())),
            }
        )
