"""What the calibrate step computes: thresholds, rates on other texts, recalls, and the table of it all.

Shape legend: S texts, W columns, T tokens of a text.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mistudio.artifacts import Draft, JsonScalar, Summary
from mistudio.directions.example_files import File
from mistudio.errors import ConfigError, InputError
from mistudio.instrument.served import Served
from mistudio.monitor.calibrate import page as calibration_page
from mistudio.monitor.calibrate.baselines import baselines, kind_of
from mistudio.monitor.calibrate.calibration import CALIBRATION, LIST_NAME, PAGE_NAME, RANDOM, WATCHED
from mistudio.monitor.calibrate.config import CalibrateConfig
from mistudio.monitor.calibrate.ranks import check_enough, rank_for, rates_of
from mistudio.monitor.calibrate.rates import interval, threshold_for, upper_bound, upper_bound_by_document
from mistudio.monitor.calibrate.texts import Halves, Reference, halves, samples_of
from mistudio.monitor.calibrate.values import Floats, Largest, TextReader
from mistudio.monitor.records import Sample
from mistudio.monitor.watch.columns import Vector
from mistudio.monitor.watch.watch_list import WatchList
from mistudio.monitor.watch.watching import Watcher

FEWEST_POSITIVE = 8
_MOST_VALUES = 1 << 28
Rows = list[dict[str, Any]]


class Given(NamedTuple):
    """What thresholds are found for, and on."""

    served: Served
    watch_list: WatchList
    reference: Reference
    positive: File | None


@dataclass(frozen=True, eq=False)
class _Found:
    """Of each column its threshold, and how often reference texts or tokens were above it."""

    threshold_W: NDArray[np.float64]
    fitted_W: NDArray[np.int64]
    checked_W: NDArray[np.int64]
    above_W: NDArray[np.int64]
    bound_W: NDArray[np.float64]


def measure(draft: Draft, given: Given, config: CalibrateConfig, seed: int) -> Summary:
    """Find thresholds, check them, and write what was found.

    Raises:
        InputError: there are too few texts for the rate.
        ConfigError: there are more values than are held at once.
    """
    texts = given.reference.samples(config.max_texts, seed)
    parts = halves(texts, config.threshold_share, seed)
    rates = rates_of(given.watch_list, config)
    if config.per == "text":
        check_enough(min(rates), len(parts.found_on), "texts", config.threshold_share)
    positives = None if given.positive is None else _positive_halves(given.positive, texts, seed)
    watched, vectors = _with_baselines(given, parts, positives, config, seed)
    rates += [min(rates)] * (len(watched.watched) - len(rates))
    reader = TextReader(Watcher(given.served, watched, config.watch, vectors), config.texts_at_once)
    if config.per == "text":
        _check_size(len(parts.found_on), len(watched.watched))
        found = _by_text(reader, parts, rates, config)
    else:
        found = _by_token(reader, parts, rates, config, seed)
    recalled_SW = None
    if positives is not None:
        recalled_SW = _above(reader.by_text(positives.tried_on, "Read positive texts"), found.threshold_W)
    rows = _rows(reader.watcher, rates, found, recalled_SW, config, len(given.watch_list.watched))
    _write(draft, rows, given.watch_list, config)
    return _summary(rows, parts, config)


def _positive_halves(file: File, reference: Sequence[Sample], seed: int) -> Halves:
    known = set(reference)
    positives = [sample for sample in samples_of(file) if sample not in known]
    if len(positives) < FEWEST_POSITIVE:
        message = (
            f"{file.origin} has {len(positives)} positive texts that are no reference texts, and recall takes "
            f"{FEWEST_POSITIVE}: half of them fit what the columns are compared with. Add some, or leave them out."
        )
        raise InputError(message)
    return halves(positives, 0.5, seed)


def _with_baselines(
    given: Given, parts: Halves, positives: Halves | None, config: CalibrateConfig, seed: int
) -> tuple[WatchList, dict[str, Vector]]:
    """The list with what its columns are compared with, where there is something to fit that on."""
    plain = given.watch_list.model_copy(update={"encode_in_full": ()})
    if positives is None:
        return plain, {}
    columns = Watcher(given.served, plain, config.watch).columns
    subject = given.served.session.subject
    others, vectors = baselines(subject, columns, (positives.found_on, parts.found_on), config, seed)
    names = set(plain.names)
    taken = next((one.name for one in others if one.name in names), None)
    if taken is not None:
        message = f"watch list: {taken} is what a column is compared with: give the entry another name."
        raise ConfigError(message)
    return plain.model_copy(update={"watched": (*plain.watched, *others)}), vectors


def _check_size(texts: int, columns: int) -> None:
    if texts * columns > _MOST_VALUES:
        message = (
            f"{texts:,} texts of {columns:,} columns are more values than are held at once: set max_texts to "
            f"{2 * _MOST_VALUES // columns:,} or less, or calibrate parts of the list."
        )
        raise ConfigError(message)


def _by_text(reader: TextReader, parts: Halves, rates: Sequence[float], config: CalibrateConfig) -> _Found:
    value_SW = reader.by_text(parts.found_on, "Find thresholds")
    watched = reader.watcher.watch_list.watched
    threshold_W = np.zeros(len(rates))
    for column, rate in enumerate(rates):
        own_S = value_SW[~np.isnan(value_SW[:, column]), column]
        part = watched[column].part
        what = f"texts with a value of {watched[column].name}" + (f" (its part is {part})" if part != "all" else "")
        check_enough(rate, len(own_S), what, config.threshold_share)
        threshold_W[column] = threshold_for(own_S, rate)
    fitted_W = (~np.isnan(value_SW)).sum(axis=0)
    del value_SW
    checked_SW = reader.by_text(parts.tried_on, "Check thresholds")
    above_W = _above(checked_SW, threshold_W).sum(axis=0)
    num_W = (~np.isnan(checked_SW)).sum(axis=0)
    bound_W = [upper_bound(int(a), int(n), config.confidence) for a, n in zip(above_W, num_W, strict=True)]
    return _Found(threshold_W, fitted_W, num_W, above_W, np.array(bound_W))


def _by_token(reader: TextReader, parts: Halves, rates: Sequence[float], config: CalibrateConfig, seed: int) -> _Found:
    total = sum(reader.watcher.num_tokens(parts.found_on))
    check_enough(min(rates), total, "tokens", config.threshold_share)
    largest = Largest(len(rates), max(rank_for(rate, total) for rate in rates))
    for value_TW in reader.by_token(parts.found_on, "Find thresholds"):
        largest.add(value_TW)
    threshold_W = np.array(
        [largest.ranked(rank_for(rate, largest.count))[column] for column, rate in enumerate(rates)], dtype=np.float64
    )
    counts = [
        (len(value_TW), (value_TW > threshold_W).sum(axis=0))
        for value_TW in reader.by_token(parts.tried_on, "Check thresholds")
    ]
    of_S = np.array([count for count, _ in counts], dtype=np.float32)
    above_SW = np.stack([above_W for _, above_W in counts]).astype(np.float32)
    bounds = [
        upper_bound_by_document(above_SW[:, column], of_S, config.confidence, config.resamples, seed)
        for column in range(len(rates))
    ]
    checked_W = np.full(len(rates), int(of_S.sum()))
    fitted_W = np.full(len(rates), largest.count)
    return _Found(threshold_W, fitted_W, checked_W, above_SW.sum(axis=0).astype(np.int64), np.array(bounds))


def _above(value_SW: Floats, threshold_W: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which values are above; none where there is no value, which is no positive that was found either."""
    with np.errstate(invalid="ignore"):
        found: NDArray[np.bool_] = value_SW > threshold_W
    return found


def _rows(
    watcher: Watcher,
    rates: Sequence[float],
    found: _Found,
    recalled_SW: NDArray[np.bool_] | None,
    config: CalibrateConfig,
    num_watched: int,
) -> Rows:
    rows: Rows = []
    for number, column in enumerate(watcher.columns):
        one, is_watched = column.watched, number < num_watched
        above, checked = int(found.above_W[number]), int(found.checked_W[number])
        rows.append(
            {
                "name": one.name,
                "kind": WATCHED if is_watched else kind_of(one),
                "feature": column.feature if is_watched else None,
                "hook": column.hook,
                "part": one.part,
                "pool": one.pool,
                "top": one.top,
                "digest": column.digest if is_watched else None,
                "per": config.per,
                "rate": rates[number],
                "threshold": float(found.threshold_W[number]),
                "fitted_on": int(found.fitted_W[number]),
                "checked_on": checked,
                "above": above,
                "found_rate": above / checked if checked else None,
                "rate_bound": float(found.bound_W[number]),
                **_recall(None if recalled_SW is None else recalled_SW[:, number], config.confidence),
            }
        )
    return _random_together(rows)


def _recall(is_found_S: NDArray[np.bool_] | None, confidence: float) -> dict[str, Any]:
    if is_found_S is None:
        return {"positives": 0, "recall": None, "recall_low": None, "recall_high": None}
    low, high = interval(int(is_found_S.sum()), len(is_found_S), confidence)
    return {
        "positives": len(is_found_S),
        "recall": float(is_found_S.mean()),
        "recall_low": low,
        "recall_high": high,
    }


def _random_together(rows: Rows) -> Rows:
    """Random directions that are read alike in one row: the mean of what they find, the least and the most."""
    kept: Rows = []
    alike: dict[tuple[Any, ...], Rows] = {}
    for row in rows:
        if row["kind"] != RANDOM:
            kept.append(row)
            continue
        alike.setdefault((row["hook"], row["part"], row["pool"], row["top"]), []).append(row)
    for some in alike.values():
        recalls = [row["recall"] for row in some]
        means = {
            name: float(np.mean([row[name] for row in some])) for name in ("threshold", "found_rate", "rate_bound")
        }
        recall = {"recall": float(np.mean(recalls)), "recall_low": min(recalls), "recall_high": max(recalls)}
        above = round(float(np.mean([row["above"] for row in some])))
        kept.append(
            {**some[0], **means, **recall, "above": above, "name": some[0]["name"].replace(f"{RANDOM}.0", RANDOM)}
        )
    return kept


def _write(draft: Draft, rows: Rows, watch_list: WatchList, config: CalibrateConfig) -> None:
    with draft.stage(CALIBRATION.name) as path:
        columns = {name: [row[name] for row in rows] for name in CALIBRATION.names}
        pq.write_table(CALIBRATION.build(columns), path, compression="zstd")
    draft.write(LIST_NAME, json.dumps(watch_list.model_dump(mode="json"), indent=1).encode())
    draft.write(PAGE_NAME, calibration_page.page(rows, config).encode())


def _summary(rows: Rows, parts: Halves, config: CalibrateConfig) -> Summary:
    watched = [row for row in rows if row["kind"] == WATCHED]
    summary: dict[str, JsonScalar] = {
        "columns": len(watched),
        "per": config.per,
        "rate": config.false_positive_rate,
        "texts": len(parts.found_on),
        "checked_texts": len(parts.tried_on),
        "found_rate": _mean(row["found_rate"] for row in watched),
        "largest_rate_bound": max(row["rate_bound"] for row in watched),
        "positives": watched[0]["positives"],
    }
    if watched[0]["positives"]:
        summary["recall"] = _mean(row["recall"] for row in watched)
        for kind in dict.fromkeys(row["kind"] for row in rows):
            if kind != WATCHED:
                summary[f"control.{kind}_recall"] = _mean(row["recall"] for row in rows if row["kind"] == kind)
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in summary.items()}


def _mean(values: Any) -> float:
    return float(np.mean([value for value in values if value is not None] or [0.0]))
