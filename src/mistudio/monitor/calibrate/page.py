"""A page on a calibration, in Markdown: thresholds, rates and recalls, beside what they are compared with."""

from collections.abc import Mapping, Sequence
from typing import Any

from mistudio.monitor.calibrate.calibration import WATCHED
from mistudio.monitor.calibrate.config import CalibrateConfig
from mistudio.plain_text import in_markdown

_MOST_ROWS = 500


def page(rows: Sequence[Mapping[str, Any]], config: CalibrateConfig) -> str:
    """The page."""
    watched = [row for row in rows if row["kind"] == WATCHED]
    first = watched[0]
    lines = [
        "# Calibration",
        "",
        f"{len(watched):,} columns. Thresholds were found on {first['fitted_on']:,} {config.per}s, and checked on "
        f"{first['checked_on']:,} of other documents. A rate is a share of {config.per}s; its bound is one-sided, at "
        f"{config.confidence:.0%} for each column by itself.",
        "",
        "| column | kind | threshold | asked | found | below | recall | interval |",
        "|---|---|---|---|---|---|---|---|",
        *map(_line, rows[:_MOST_ROWS]),
    ]
    if len(rows) > _MOST_ROWS:
        lines.append(f"\n{len(rows) - _MOST_ROWS:,} more are in the table.")
    if first["positives"]:
        lines += ["", f"Recall is of {first['positives']:,} positive texts that nothing was fitted on."]
    else:
        lines += ["", "No positive texts were given: what the columns find of them is not known."]
    return "\n".join(lines) + "\n"


def _line(row: Mapping[str, Any]) -> str:
    found = "" if row["found_rate"] is None else f"{row['found_rate']:.3g}"
    recall = "" if row["recall"] is None else f"{row['recall']:.1%}"
    ends = "" if row["recall"] is None else f"{row['recall_low']:.1%} to {row['recall_high']:.1%}"
    cells = [in_markdown(row["name"]), row["kind"].replace("_", " "), f"{row['threshold']:.4g}", f"{row['rate']:g}"]
    cells += [found, f"{row['rate_bound']:.3g}", recall, ends]
    return f"| {' | '.join(cells)} |"
