"""The probe step: how much of a labelled distinction a few latents hold.

Labelled documents run through the model, and their latents are pooled over tokens. Probes on 1, 2, 5 and 16
latents are compared with a dense probe on the pooled activations, which is about the most that can be read
off, and with two controls: the same number of latents of a random autoencoder, and latents chosen and fitted
after the training labels were shuffled. Where the corpus has no labels, its tasks serve as labels.
"""

import json
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from mistudio.activations.capture import check_tokenizer
from mistudio.artifacts import (
    Artifact,
    Draft,
    InputRef,
    JsonScalar,
    Produced,
    Recipe,
    Store,
    Summary,
    open_input,
    produce,
)
from mistudio.corpus.reader import SPLITS, Split, TokenCorpus
from mistudio.errors import InputError
from mistudio.evaluate.config import ProbeConfig
from mistudio.evaluate.control import random_latents
from mistudio.evaluate.pooling import Passage, Pooled, Pooler
from mistudio.evaluate.probes import (
    METRICS,
    Problem,
    find_problems,
    fit_probe,
    interval,
    resampled_figures,
    select_latents,
    shuffled,
)
from mistudio.evaluate.step import check_subject, numerics
from mistudio.instrument import open_session
from mistudio.progress import progress
from mistudio.subject import SubjectConfig, SubjectSource

PROBES_NAME = "probes.parquet"
PROBING_NAME = "probing.json"
_SAMPLE_TOKENS = 1024
_PREFIXES = {"sae": "", "random": "control.random_", "shuffled": "control.shuffled_"}


class Row(NamedTuple):
    """One probe on one problem."""

    problem: Problem
    representation: str  # sae, random, shuffled or dense
    k: int  # latents; 0 for the dense probe
    latents: NDArray[np.int64]
    weights: NDArray[np.float64]
    figures: NDArray[np.float64]  # see resampled_figures


def probe(
    store: Store,
    sae: Artifact,
    corpus: Artifact,
    source: SubjectSource,
    subject_config: SubjectConfig,
    config: ProbeConfig | None = None,
    seed: int = 0,
) -> Produced:
    """Publish how well labels can be read off a few latents of ``sae``.

    Raises:
        InputError: the corpus is tokenised for another model, the autoencoder is for another one, or no task has
            two labels with enough documents.
    """
    config = config or ProbeConfig()
    check_tokenizer(corpus, source)
    if "activations" in sae.manifest.inputs:
        check_subject(open_input(store, sae.manifest.inputs["activations"], "activations"), source)
    subject_ref = InputRef(uri=source.uri, digest=source.digest)
    inputs = {"sae": sae.ref, "corpus": corpus.ref, "subject": subject_ref}
    settings = {**config.model_dump(mode="json"), **numerics(subject_config)}
    recipe = Recipe(kind="probing", config=settings, inputs=inputs, seed=seed)

    def build(draft: Draft) -> Summary:
        tokens = TokenCorpus(corpus)
        passages, problems = _problems(tokens, config, seed)
        with open_session(sae, source, subject_config) as session:
            placed, batch_tokens = session.placed(), config.batch_size * tokens.context_length
            pooler = Pooler(session.subject, placed.ends.read, tokens, config.pool, batch_tokens)
            control = random_latents(placed.sae, _sample(pooler, passages["train"]), seed)
            pooled = {split: pooler.run(draft, split, passages[split], [placed.sae, control]) for split in SPLITS}
        return _publish(draft, _rows(problems, pooled, config, seed), passages)

    return produce(store, recipe, "probe", build)


def _problems(corpus: TokenCorpus, config: ProbeConfig, seed: int) -> tuple[dict[Split, list[Passage]], list[Problem]]:
    """What to encode and what to tell apart, by labels if there are any to tell apart."""
    for by in ("label", "task"):
        if config.labels in ("auto", by):
            passages = {split: list(_passages(corpus, split, by, config, seed)) for split in SPLITS}
            problems = find_problems(passages["train"], passages["heldout"], config.min_documents, config.max_classes)
            if problems:
                return passages, problems
    what = {"auto": "label or task", "label": "label", "task": "task"}[config.labels]
    message = (
        f"{corpus.artifact.uri} has nothing to probe for: it needs two values of {what} with at least "
        f"{config.min_documents} documents in each split. Lower min_documents, hold out more documents, or name "
        "the label column when it is ingested."
    )
    raise InputError(message)


def _passages(corpus: TokenCorpus, split: Split, by: str, config: ProbeConfig, seed: int) -> Iterator[Passage]:
    """Documents drawn at random, in the order of the corpus."""
    document_S = corpus.documents(split)
    first_P = np.flatnonzero(np.diff(document_S, prepend=-1))
    stop_P = np.append(first_P[1:], len(document_S))
    chosen: dict[int, Passage] = {}
    for place in np.random.default_rng(seed).permutation(len(first_P)).tolist():
        first, stop = int(first_P[place]), int(stop_P[place])
        sequence = corpus.sequence(split, first)
        label = sequence.label if by == "label" else sequence.task
        if label is not None:
            task = sequence.task if by == "label" else "task"
            chosen[first] = Passage(first, min(stop, first + config.max_sequences), task, label)
        if len(chosen) == config.max_documents:
            break
    return (chosen[first] for first in sorted(chosen))


def _sample(pooler: Pooler, passages: list[Passage]) -> torch.Tensor:
    """Activations of the first training documents, for the random autoencoder to be fitted to."""
    parts: list[torch.Tensor] = []
    for passage in passages:
        parts += [acts_ND for acts_ND, _ in pooler.tokens_of("train", [passage])]
        if sum(len(part) for part in parts) >= _SAMPLE_TOKENS:
            break
    return torch.cat(parts)[:_SAMPLE_TOKENS]


def _rows(problems: list[Problem], pooled: dict[Split, Pooled], config: ProbeConfig, seed: int) -> list[Row]:
    """Every probe on every problem."""
    rows = []
    with progress("Fit probes", len(problems), "problems") as bar:
        for problem in problems:
            rows.append(_dense(problem, pooled, config, seed))
            rows += _sparse(problem, "sae", 0, pooled, config, seed)
            rows += _sparse(problem, "random", 1, pooled, config, seed)
            rows += _shuffled(problem, pooled, config, seed)
            bar.advance()
    return rows


def _dense(problem: Problem, pooled: dict[Split, Pooled], config: ProbeConfig, seed: int) -> Row:
    train, heldout = pooled["train"].acts[problem.train_P], pooled["heldout"].acts[problem.heldout_P]
    fit = fit_probe(train, problem.train_is_P, heldout)
    figures = resampled_figures(fit.scores_P, problem.heldout_is_P, config.resamples, seed)
    return Row(problem, "dense", 0, np.empty(0, dtype=np.int64), fit.weights_K, figures)


def _sparse(
    problem: Problem, name: str, number: int, pooled: dict[Split, Pooled], config: ProbeConfig, seed: int
) -> Iterator[Row]:
    """One probe for each k, on the latents of autoencoder ``number``."""
    train_PF = pooled["train"].latents[number][problem.train_P]
    heldout_PF = pooled["heldout"].latents[number][problem.heldout_P]
    best = select_latents(train_PF, problem.train_is_P, max(config.ks))
    train_PK, heldout_PK = train_PF[:, best].toarray(), heldout_PF[:, best].toarray()
    for k in config.ks:
        fit = fit_probe(train_PK[:, :k], problem.train_is_P, heldout_PK[:, :k])
        figures = resampled_figures(fit.scores_P, problem.heldout_is_P, config.resamples, seed)
        yield Row(problem, name, k, best[:k], fit.weights_K, figures)


def _shuffled(problem: Problem, pooled: dict[Split, Pooled], config: ProbeConfig, seed: int) -> list[Row]:
    """What probes find where there is nothing: their mean over shuffles, and in place of resamples each shuffle.

    A probe that learnt chance differences leans one way or the other on all held-out documents alike, which no
    resampling of documents would show.
    """
    once = config.model_copy(update={"resamples": 0})
    controls = shuffled(problem, config.shuffles, seed)
    shuffles = [list(_sparse(control, "shuffled", 0, pooled, once, seed)) for control in controls]
    none = np.empty(0, dtype=np.int64)
    rows = []
    for own in zip(*shuffles, strict=True):
        figures = np.concatenate([row.figures for row in own], axis=1)
        figures = np.concatenate([figures.mean(axis=1, keepdims=True), figures], axis=1)
        rows.append(own[0]._replace(problem=problem, latents=none, weights=none.astype(np.float64), figures=figures))
    return rows


def _publish(draft: Draft, rows: list[Row], passages: dict[Split, list[Passage]]) -> Summary:
    with draft.stage(PROBES_NAME) as path:
        pq.write_table(pa.Table.from_pylist([_record(row) for row in rows]), path)
    averages = _averages(rows)
    draft.write(PROBING_NAME, json.dumps({"averages": averages}, indent=1).encode())
    problems = {(row.problem.task, row.problem.label) for row in rows}
    summary: dict[str, JsonScalar] = {
        "problems": len(problems),
        "train_documents": len(passages["train"]),
        "heldout_documents": len(passages["heldout"]),
    }
    for average in averages:
        probe_name = f"k{average['k']}_" if average["k"] else "dense_"
        prefix = _PREFIXES.get(str(average["representation"]), "")
        summary[f"{prefix}{probe_name}{average['metric']}"] = round(float(average["value"] or 0), 6)
    return summary


def _record(row: Row) -> dict[str, object]:
    record: dict[str, object] = {
        "task": row.problem.task,
        "label": row.problem.label,
        "representation": row.representation,
        "k": row.k,
        "train_documents": len(row.problem.train_P),
        "train_positive": int(row.problem.train_is_P.sum()),
        "heldout_documents": len(row.problem.heldout_P),
        "heldout_positive": int(row.problem.heldout_is_P.sum()),
        "latents": row.latents.tolist(),
        "weights": row.weights.tolist(),
    }
    for metric, (value, *draws) in zip(METRICS, row.figures, strict=True):
        low, high = interval(np.array(draws))
        record |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
    return record


def _averages(rows: list[Row]) -> list[dict[str, JsonScalar]]:
    """Means over problems with their intervals, in the order of the rows."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.representation, row.k), []).append(row)
    averages: list[dict[str, JsonScalar]] = []
    for (representation, k), own in groups.items():
        means = np.mean([row.figures for row in own], axis=0)
        for metric, (value, *draws) in zip(METRICS, means, strict=True):
            low, high = interval(np.array(draws))
            figure: dict[str, JsonScalar] = {"value": float(value), "low": low, "high": high}
            averages.append({"representation": representation, "k": k, "metric": metric, **figure})
    return averages
