"""What the tests of drift keep of their promise, and how soon they tell, on firing patterns of a real store.

Run as ``python -m benchmarks.monitor_drift --store STORE`` with a store that holds an autoencoder and its activations;
takes the newest line. Prints a table, writes ``build/bench/monitor_drift.json`` and draws ``monitor_drift.png`` beside
it.

A text is a document with all features that fire in it, so that features depend on each other as they do. Clean streams
and their references are drawn from the same texts, with replacement: exchangeable by construction. A planted trigger
is a feature that practically never fires, and then fires in 1% of texts; with it alone nothing else changes, which is
the hard case. Beside our tests stand a z-test of windows with Bonferroni's correction, which is what is usually done,
and CUSUM that is told both shares, which nothing that has to estimate them can beat.
"""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from benchmarks import reporting
from benchmarks.monitor_kernel import Pool
from benchmarks.reporting import Row, row
from mistudio.artifacts import Catalog, Line, open_to_read
from mistudio.monitor.drift.detector import DriftConfig, DriftDetector
from mistudio.monitor.drift.profile import FiringProfile, Profile
from mistudio.monitor.drift.rates import PRIOR_NO, PRIOR_YES, new_tests
from mistudio.monitor.drift.shares import log_beyond
from mistudio.monitor.drift.stored_firing import stored_firing
from mistudio.monitor.records import Fired, Observation, Origin

WINDOW = 100  # texts
RATES = (1e2, 1e3, 1e4, 1e5, 1e6, 1e7)  # texts per false alarm
TRIGGER = 0.01  # share of texts
HORIZON = 4000  # texts for which a trigger is waited
WITHIN = 500
Reals = NDArray[np.float64]


class Clean(NamedTuple):
    """What clean streams showed."""

    num_texts: int
    num_streams: int
    most_S: list[Reals]  # of each stream, the largest log evidence of each feature


def clean(
    pool: Pool, draw: np.random.Generator, num_streams: int, length: int, reference: int, repeat: int = 1
) -> Clean:
    """Streams in which nothing changes; ``repeat``: each text comes so many times in a row, as in a session."""
    log_least = math.log(pool.num_features * RATES[0])
    most_S = []
    for _ in range(num_streams):
        drawn_T = np.repeat(draw.integers(len(pool.texts), size=length // repeat), repeat)
        most_S.append(pool.stream(drawn_T, pool.reference(draw, reference), reference, log_least)[0])
    return Clean(num_streams * length, num_streams, most_S)


def alarms(found: Clean, num_features: int, texts_per_false_alarm: float) -> int:
    """Features of streams whose evidence reached the threshold."""
    needed = math.log(num_features * texts_per_false_alarm)
    return int(sum((most_H >= needed).sum() for most_H in found.most_S))


def clean_rows(found: Clean, num_features: int, what: str, *, is_promised: bool = True) -> list[Row]:
    """False alarms at several rates, beside what was promised."""
    rows = []
    for each in RATES:
        count, bound = alarms(found, num_features, each), found.num_texts / each
        holds = count <= max(bound, 1) if is_promised else None
        rows.append(
            row(
                f"{what}: false alarms in {found.num_texts:,} texts at one in {each:,.0f}",
                count,
                "alarms",
                f"bound {bound:,.1f}",
                None if not is_promised else round(max(bound, 1), 1),
                holds,
            )
        )
    return rows


def naive_windows(pool: Pool, draw: np.random.Generator, num_windows: int, reference: int) -> int:
    """Windows in which a z-test of any feature, corrected for their number, says 1 in 100,000."""
    critical, alarming, block = norm.isf(1e-5 / 2 / pool.num_features), 0, 2000
    for start in range(0, num_windows, block):
        share_H = (pool.reference(draw, reference) + 0.5) / (reference + 1)
        drawn_WT = draw.integers(len(pool.texts), size=(min(block, num_windows - start), WINDOW))
        count_WH = np.stack([pool.fires_PH[drawn_T].sum(axis=0) for drawn_T in drawn_WT])
        error_H = np.sqrt(share_H * (1 - share_H) * (1 / WINDOW + 1 / reference))
        alarming += int((np.abs(count_WH / WINDOW - share_H) / error_H >= critical).any(axis=1).sum())
    return alarming


def delays(
    draw: np.random.Generator, clean_share: float, reference: int, num_seeds: int, num_features: int, rate: float
) -> Reals:
    """Texts until the alarm of one feature of so many, by seed; infinite where it does not come within the horizon."""
    tests = new_tests(draw.binomial(reference, clean_share, num_seeds), reference)
    needed, small = math.log(num_features * rate), math.log(DriftConfig().texts_per_small_change)
    delay_S = np.full(num_seeds, np.inf)
    for text in range(1, HORIZON + 1):
        which_A = np.flatnonzero(draw.random(num_seeds) < clean_share + TRIGGER)
        log_e_A = tests.count(which_A)
        sure_A = which_A[(log_e_A >= needed) & np.isinf(delay_S[which_A])]
        beyond_A = log_beyond(tests.segments(sure_A), DriftConfig().tolerance, (PRIOR_YES, PRIOR_NO))
        delay_S[sure_A[beyond_A >= small]] = text
    return delay_S


def cusum_delays(
    draw: np.random.Generator, clean_share: float, num_seeds: int, num_features: int, rate: float
) -> Reals:
    """The same of CUSUM that knows both shares, at a threshold that promises the same rate (Lorden 1971)."""
    now, needed = clean_share + TRIGGER, math.log(num_features * rate)
    yes, no = math.log(now / clean_share), math.log((1 - now) / (1 - clean_share))
    sum_S, delay_S = np.zeros(num_seeds), np.full(num_seeds, np.inf)
    for text in range(1, HORIZON + 1):
        sum_S = np.maximum(sum_S, 0) + np.where(draw.random(num_seeds) < now, yes, no)
        delay_S[(sum_S >= needed) & np.isinf(delay_S)] = text
    return delay_S


def delay_rows(what: str, delay_S: Reals, *, to_reach: bool = False) -> list[Row]:
    """Median with its interval, and how many came in time."""
    ranked_S, count = np.sort(delay_S), len(delay_S)
    off = 1.96 * math.sqrt(count) / 2
    low, high = ranked_S[max(int(count / 2 - off), 0)], ranked_S[min(int(count / 2 + off), count - 1)]
    middle, late = ranked_S[count // 2], ranked_S[int(0.9 * count)]
    within = float((delay_S <= WITHIN).mean())
    error = 1.96 * math.sqrt(within * (1 - within) / count)
    detail = f"{low:g} to {high:g}; 90% by {late:g}; {count} seeds"
    return [
        row(
            f"{what}: median delay",
            float(middle),
            "texts",
            detail,
            WITHIN if to_reach else None,
            bool(middle <= WITHIN),
        ),
        row(f"{what}: told within {WITHIN}", round(within, 3), "share", f"+- {error:.3f}"),
    ]


def whole_delays(
    pool: Pool, draw: np.random.Generator, reference: int, num_seeds: int, planted: int
) -> tuple[Reals, int]:
    """Delays of the detector itself, with all features, and how many other alerts there were."""
    silenced = [text[text != planted] for text in pool.texts]
    delay_S, others = np.full(num_seeds, np.inf), 0
    for seed in range(num_seeds):
        texts_F = pool.reference(draw, reference)
        texts_F[planted] = 0
        detector = DriftDetector(Profile({"sae": FiringProfile(reference, reference, texts_F, texts_F)}))
        for number in range(1, HORIZON + 1):
            fired = silenced[draw.integers(len(silenced))]
            fired = np.append(fired, planted) if draw.random() < TRIGGER else fired
            told = detector.update([_observation(number, np.sort(fired))])
            others += sum(alert.watched != (f"sae#{planted}",) for alert in told)
            if any(f"sae#{planted}" in alert.watched for alert in told):
                delay_S[seed] = number
                break
    return delay_S, others


def repeated_rows(pool: Pool, draw: np.random.Generator, reference: int, num_texts: int = 4000) -> list[Row]:
    """The same with the detector, which leaves repeats out."""
    texts_F = pool.reference(draw, reference)
    detector = DriftDetector(Profile({"sae": FiringProfile(reference, reference, texts_F, texts_F)}))
    drawn_T = np.repeat(draw.integers(len(pool.texts), size=num_texts // 5), 5)
    seen = [_observation(number, pool.texts[text]) for number, text in enumerate(drawn_T.tolist())]
    found = len(detector.update(seen))
    what = f"each text five times in a row, repeats left out: false alarms in {num_texts:,} texts"
    rest = f"{detector.num_repeats:,} of {num_texts * 4 // 5:,} repeats left out"
    return [row(what, found, "alarms", rest, 0, found == 0)]


def cost_rows(draw: np.random.Generator, num_features: int, fired: int, num_texts: int = 200) -> list[Row]:
    """What a text costs with so many features, and what is saved of it."""
    texts_F = draw.binomial(10_000, fired / num_features, num_features)
    detector = DriftDetector(Profile({"sae": FiringProfile(10_000, 10_000, texts_F, texts_F)}))
    chosen = [np.sort(draw.choice(num_features, fired, replace=False)) for _ in range(num_texts)]
    seen = [_observation(number, features) for number, features in enumerate(chosen)]
    detector.update(seen[:1])
    whole = len(detector.state())
    start = time.perf_counter()
    detector.update(seen[1:])
    each_ms = (time.perf_counter() - start) / (num_texts - 1) * 1e3
    what = f"{num_features:,} features, {fired} fire"
    rest = "all looked at every 64 texts; loaded machine"
    return [
        row(f"{what}: a text", round(each_ms, 2), "ms", rest),
        row(f"{what}: added to the state by a text", len(detector.delta()) // (num_texts - 1), "bytes"),
        row(f"{what}: whole state", round(whole / 1e6, 2), "MB"),
    ]


def _observation(number: int, feature_A: NDArray[np.int64]) -> Observation:
    ones_A, none_W = np.ones(len(feature_A)), np.empty(0, dtype=np.float32)
    fired = {"sae": Fired(feature_A, ones_A.astype(np.int64), ones_A.astype(np.float32))}
    origin, places_W = Origin("m", "predictor"), np.empty(0, dtype=np.int64)
    return Observation(str(number), 0, float(number), origin, 1, None, none_W, places_W, none_W, fired)


def draw_plot(path: Path, found: Clean, num_features: int, by_name: dict[str, Reals]) -> None:
    """False alarms beside the bound, and delays."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    left.loglog(RATES, [found.num_texts / each for each in RATES], "k--", label="bound")
    left.loglog(RATES, [alarms(found, num_features, each) or 0.1 for each in RATES], "o-", label="found (0 at 0.1)")
    left.set(xlabel="texts per false alarm, as asked for", ylabel=f"false alarms in {found.num_texts:,} clean texts")
    left.legend()
    for name, delay_S in by_name.items():
        right.plot(np.sort(np.minimum(delay_S, HORIZON)), np.linspace(0, 1, len(delay_S)), label=name)
    right.axvline(WITHIN, color="grey", lw=0.7)
    right.set(xlabel="texts since a trigger in 1% of texts began", ylabel="share of seeds told", xlim=(0, 1500))
    right.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def run(arguments: argparse.Namespace, pool: Pool) -> list[Row]:
    """All of it."""
    draw, count = np.random.default_rng(arguments.seed), pool.num_features
    rows = [row("kernel against the library, largest relative difference", pool.check(draw), "", "", 1e-9, True)]
    rows[0]["holds"] = bool(rows[0]["value"] <= 1e-9)  # type: ignore[operator]
    length = arguments.length
    num_streams = max(arguments.windows * WINDOW // length, 1)
    found = clean(pool, draw, num_streams, length, arguments.reference)
    at_once = alarms(found, count, RATES[-1])
    what = f"false alarms in {found.num_texts // WINDOW:,} clean windows of {WINDOW} texts, {count:,} features at once"
    promised = found.num_texts / RATES[-1]
    rows.append(row(what, at_once, "alarms", f"bound {promised:g}", 1, at_once <= 1))
    rows += clean_rows(found, count, f"reference of {arguments.reference:,}")
    few = clean(pool, draw, max(num_streams // 10, 1) * 5, length // 5, 1000)
    rows += clean_rows(few, count, "reference of 1,000")
    repeated = clean(pool, draw, max(num_streams // 10, 1), length, arguments.reference, repeat=5)
    rows += clean_rows(repeated, count, "each text five times in a row, all counted", is_promised=False)
    rows += repeated_rows(pool, draw, arguments.reference)
    windows = max(arguments.windows // 10, 1)
    naive = naive_windows(pool, draw, windows, arguments.reference)
    rows.append(row(f"z-test with Bonferroni: false alarms in {windows:,} windows", naive, "windows", "promises 0.1"))
    by_name: dict[str, Reals] = {}
    for share in (0.0, 1e-5, 1e-4):
        for reference in (10_000, 50_000, 200_000):
            name = f"clean share {share:g}, {reference:,} texts known"
            by_name[name] = delays(draw, share, reference, arguments.seeds, count, RATES[-1])
            rows += delay_rows(name, by_name[name], to_reach=reference >= 50_000 and share <= 1e-5)
        if share:
            by_name[f"CUSUM told {share:g}"] = cusum_delays(draw, share, arguments.seeds, count, RATES[-1])
            rows += delay_rows(f"clean share {share:g}, CUSUM that knows it", by_name[f"CUSUM told {share:g}"])
    for rate in (1e5, 1e6):
        name = f"clean share 1e-05, 50,000 texts known, one false alarm in {rate:,.0f} texts"
        rows += delay_rows(name, delays(draw, 1e-5, 50_000, arguments.seeds, count, rate))
    planted = int(pool.fires_PH.sum(axis=0).argmin())
    delay_S, others = whole_delays(pool, draw, 50_000, arguments.whole_seeds, planted)
    rows += delay_rows(f"detector over all {count:,} features, 50,000 texts known", delay_S, to_reach=True)
    rows.append(row("other alerts meanwhile", others, "alerts", "", 0, others == 0))
    rows += cost_rows(draw, count, 320) + cost_rows(draw, 1_000_000, 320)
    reporting.FOLDER.mkdir(parents=True, exist_ok=True)
    draw_plot(reporting.FOLDER / "monitor_drift.png", found, count, by_name)
    return rows


def texts_of(line: Line) -> Sequence[NDArray[np.int64]]:
    """The features that fired in each document of both splits."""
    return [fired.feature_A for split in ("train", "heldout") for fired, _ in stored_firing(line, split, "document")]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--store", required=True)
    parser.add_argument("--windows", type=int, default=100_000, help="clean windows of 100 texts")
    parser.add_argument("--length", type=int, default=100_000, help="texts of a clean stream")
    parser.add_argument("--reference", type=int, default=50_000, help="texts of a reference")
    parser.add_argument("--seeds", type=int, default=2000, help="of delays of one feature")
    parser.add_argument("--whole-seeds", type=int, default=40, help="of delays with all features")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with Catalog(open_to_read(arguments.store)) as catalog:
        line = catalog.newest_line()
    start = time.perf_counter()
    pool = Pool(texts_of(line), int(str(line.sae.manifest.summary["width"])))
    rows = run(arguments, pool)
    rows.append(row("all of this", round(time.perf_counter() - start), "s", "loaded machine"))
    reporting.publish(
        "monitor_drift", "Drift", rows, reporting.describe_machine(), reporting.versions("numpy", "scipy")
    )


if __name__ == "__main__":
    main()
