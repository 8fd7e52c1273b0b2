"""What follows the pass: features are compared with each other, tried in the model, and written to tables.

Shape legend: F features, n neighbours.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from torch import Tensor

from mistudio.activations import OrderedRows
from mistudio.artifacts import Draft, Summary
from mistudio.corpus.reader import TokenCorpus
from mistudio.errors import SubjectError
from mistudio.features import ABOUT_NAME, MAP, NEIGHBOURS
from mistudio.find.association import associations, chance_agreement, coherence
from mistudio.find.causal import Trials, Trying, Window, summary_of, tried
from mistudio.find.config import FindConfig
from mistudio.find.context_tables import Contexts, write_contexts
from mistudio.find.neighbours import Nearest, fire_together, near_duplicates, nearest_directions
from mistudio.find.projection import Projection, lay_out
from mistudio.find.reading import HookedSubject, places_of
from mistudio.find.sample import Sample
from mistudio.find.search import Search
from mistudio.find.silent import SilentSearch
from mistudio.find.tables import (
    Lens,
    about,
    feature_rows,
    is_written,
    logit_lens,
    statistics_columns,
    write_features,
    write_map,
    write_neighbours,
)
from mistudio.find.worth import NOTHING, buy, order_of_worth
from mistudio.instrument import Ends
from mistudio.parallel import in_background
from mistudio.sae import SparseAutoencoder
from mistudio.subject import HookPoint, Subject, resolve_hooks, token_strings


class Searched(NamedTuple):
    """A search, and what it is made on."""

    search: Search
    sae: SparseAutoencoder
    reader: OrderedRows
    corpus: TokenCorpus
    reads: str  # hook point of the autoencoder
    writes: str  # the same, or where a transcoder writes


def publish(draft: Draft, opened: Searched, subject: Subject, config: FindConfig, seed: int) -> Summary:
    """Compare features, try them in the model, and write all tables; what takes long is kept when it is done."""
    search, sample = opened.search, opened.search.sample.sample()
    tokens = token_strings(subject.tokenizer)
    nearest, group_F = _compare(draft, opened, config, sample)
    points = resolve_hooks(subject, [HookPoint.parse(hook) for hook in (opened.reads, opened.writes)])
    window = Window(config.context_before, config.context_after)
    trying = Trying(HookedSubject(subject, Ends(*points), opened.sae, opened.corpus), config, window, seed)
    coherence_F = _coherences(opened, sample, tokens)
    with in_background(partial(_projection, draft, opened.sae.W_dec.detach().cpu(), config, seed)) as projection:
        trials, figures = _trials(draft, trying, search, coherence_F, config.causal_tflop)
        if not is_written(draft, MAP, len(group_F)):
            write_map(draft, projection(), group_F)
    silent = SilentSearch(sample, config.context_before, config.context_after)
    contexts = Contexts(
        search.top,
        search.pool,
        config.sampled_contexts,
        config.strata,
        search.statistics,
        sample,
        silent.random(config.random_contexts, seed),
        silent.hard_negatives(_interleaved(nearest["decoder"], nearest["correlation"]), config.hard_negatives),
        trials,
    )
    counts = write_contexts(draft, contexts, opened.corpus, tokens)
    lens = _lens(opened, subject, config.lens_tokens)
    _write_features(draft, opened, sample, tokens, lens, coherence_F, trials, config)
    draft.write(ABOUT_NAME, about(search).model_dump_json().encode())
    return {
        "features": search.statistics.num_features,
        **counted(opened),
        **_figures(search, coherence_F, group_F, config),
        **figures,
        "contexts": sum(counts.values()),
        **{f"contexts.{kind}": count for kind, count in counts.items()},
        "logit_lens": lens is not None,
    }


def _trials(
    draft: Draft, trying: Trying, search: Search, coherence_F: np.ndarray, tflop: float | None
) -> tuple[Trials, Summary]:
    """Try as many features in the model as the budget buys, those that are worth most first; say so before."""
    statistics = search.statistics
    count_F = statistics.count_F.numpy()
    order_K = order_of_worth(count_F, count_F / max(statistics.num_tokens, 1), coherence_F)
    places = places_of(search.top, np.sort(order_K), trying.contexts)
    bought = buy(order_K, places.feature, trying.flop(places), tflop) if trying.contexts else NOTHING
    trials = tried(draft, trying, bought, places)
    return trials, {**summary_of(trials), "features_not_tried": len(order_K) - len(trials.feature)}


def counted(opened: Searched) -> dict[str, int | float]:
    """The tokens that were searched, and those that the autoencoder's norm limit left out, if it has one."""
    kept, filtered = opened.search.statistics.num_tokens, opened.search.statistics.filtered_tokens
    if opened.sae.norm_limit is None:
        return {"tokens": kept}
    fraction = round(filtered / max(kept + filtered, 1), 6)
    return {"tokens": kept, "filtered_tokens": filtered, "filtered_fraction": fraction}


def _compare(
    draft: Draft, opened: Searched, config: FindConfig, sample: Sample
) -> tuple[dict[str, Nearest], np.ndarray]:
    """Neighbours of each feature, whose table is written unless it is there, and its group of near-duplicates."""
    nearest = {"decoder": nearest_directions(opened.sae.W_dec, config.neighbours)}
    nearest |= fire_together(sample, config.neighbours)
    group_F = near_duplicates(nearest["decoder"], config.duplicate_cosine)
    if not is_written(draft, NEIGHBOURS, len(group_F)):
        write_neighbours(draft, nearest)
    return nearest, group_F


def _projection(draft: Draft, W_dec_FD: Tensor, config: FindConfig, seed: int) -> Projection | None:
    """The map, if one is wanted and none is there: it takes as long as trying the features, and needs no model."""
    return lay_out(W_dec_FD, seed) if config.map and not is_written(draft, MAP, len(W_dec_FD)) else None


def _interleaved(one: Nearest, two: Nearest) -> np.ndarray:
    """The neighbours of two kinds in turns, nearest first [F, n]."""
    width = max(one.other.shape[1], two.other.shape[1])
    padded = [np.pad(each.other, ((0, 0), (0, width - each.other.shape[1])), constant_values=-1) for each in (one, two)]
    return np.stack(padded, axis=2).reshape(len(one.other), -1)


def _coherences(opened: Searched, sample: Sample, tokens: list[str]) -> np.ndarray:
    top, corpus = opened.search.top, opened.corpus
    chance = chance_agreement(sample, tokens)
    coherence_F = np.full(top.num_features, np.nan, dtype=np.float32)
    for feature in range(top.num_features):
        there = top.ints_FC["document"][feature] >= 0
        rows = corpus.batch("train", top.ints_FC["sequence"][feature][there])
        peaks = (top.ints_FC["position"][feature][there] - rows.start + corpus.num_prefix).tolist()
        coherence_F[feature] = coherence(rows.token_ids, peaks, tokens, chance)
    return coherence_F


def _lens(opened: Searched, subject: Subject, num_tokens: int) -> Lens | None:
    """The logit lens, where features are directions in the residual stream and the model has an output head."""
    if not HookPoint.parse(opened.writes).is_in_stream:
        return None
    try:
        return logit_lens(subject, opened.sae.W_dec, num_tokens)
    except SubjectError:
        return None


def _write_features(
    draft: Draft,
    opened: Searched,
    sample: Sample,
    tokens: list[str],
    lens: Lens | None,
    coherence_F: np.ndarray,
    trials: Trials,
    config: FindConfig,
) -> None:
    figures = {"coherence": coherence_F, **trials.of_all(len(coherence_F))}
    more = {name: pa.array(values, mask=np.isnan(values)) for name, values in figures.items()}
    more["coherent"] = pa.array(coherence_F >= config.coherence_threshold)
    more["tried"] = pa.array(trials.rows(len(coherence_F)) >= 0)
    if config.include_statistics:
        found = associations(sample, len(tokens), config.lens_tokens)
        more |= statistics_columns(opened.search.statistics, found, tokens)
    write_features(draft, feature_rows(opened.search.statistics, lens, tokens, more))


def _figures(search: Search, coherence_F: np.ndarray, group_F: np.ndarray, config: FindConfig) -> Summary:
    return {
        "silent_features": int((search.statistics.count_F == 0).sum()),
        "coherent_features": int((coherence_F >= config.coherence_threshold).sum()),
        "near_duplicates": int((group_F >= 0).sum()),
    }
