"""An evaluation as a page of Markdown, for dashboards and people."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mistudio.steer.evaluate.records import STEERED, Tried
from mistudio.steer.evaluate.trying import Outcome

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#])")
_MOST_LABEL = 60


def page(about: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """The page.

    Args:
        about: what the artifact's JSON file says.
        outcomes: of its features, by number.
    """
    of = {outcome.tried[0].feature: outcome for outcome in outcomes}
    return "\n".join([*_head(about), *_overview(about), *(line for one in about["features"] for line in _one(one, of))])


def _head(about: Mapping[str, Any]) -> list[str]:
    judged = about["labels_auroc"]
    labels = f" The probe of the labels has AUROC {judged:.3f} on the half it has not seen." if judged else ""
    return [
        "# Steering",
        "",
        f"{len(about['features'])} features at {about['hook']}, chosen by {about['chosen_by']}; {about['prompts']} "
        f"beginnings of held-out documents. Perplexity of unsteered texts {_number(about['unsteered']['perplexity'])}, "
        f"of held-out text {_number(about['natural']['perplexity'])}.{labels}",
    ]


def _overview(about: Mapping[str, Any]) -> Iterator[str]:
    yield from ["", "| feature | label | for use | best | dose and response |", "| ---: | --- | --- | ---: | ---: |"]
    for one in about["features"]:
        ships = one["ship_range"]
        label = _escape(one["label"] or "")[:_MOST_LABEL]
        yield (
            f"| {one['feature']} | {label} | {ships['low']:g} to {ships['high']:g} × its largest activation | "
            f"{_number(one['best_strength'])} | {_number(one['dose_response'])} |"
        )


def _one(one: Mapping[str, Any], of: Mapping[int, Outcome]) -> Iterator[str]:
    rows = of[one["feature"]].tried
    yield from ["", f"## Feature {one['feature']}", ""]
    yield f"In held-out text the concept is on {_number(one['natural_rate'])} of stretches as long."
    yield from ["", "| written under | strength | concept | perplexity × | KL | dose | repetition | for use |"]
    yield "| --- | ---: | --- | ---: | ---: | ---: | ---: | --- |"
    yield from map(_row, rows)


def _row(row: Tried) -> str:
    low, high = (row.active_low, row.active_high) if row.labelled is None else (row.labelled_low, row.labelled_high)
    is_plain = row.method == STEERED and row.strength == 0
    name = "as it is" if is_plain else row.method.replace("_", " ")
    usable = "" if row.in_range is None else "yes" if row.in_range else "no"
    ends = f"{_number(row.perplexity_ratio_low)} to {_number(row.perplexity_ratio_high)}"
    cells = [
        name,
        _number(row.strength),
        f"{_number(row.rate)} ({_number(low)} to {_number(high)})",
        f"{_number(row.perplexity_ratio)} ({ends})",
        *map(_number, (row.kl, row.dose, row.repetition)),
        usable,
    ]
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.3g}"  # noqa: PLR0124 - NaN is not itself


def _escape(text: str) -> str:
    """Text from data, so that it can neither break the table nor turn into markup."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
