"""One short name for each feature: people's own first, then those of the explainers, and no two alike."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mistudio.errors import InputError
from mistudio.explain.config import PERSON
from mistudio.explain.records import Explanation


def read_labels(path: Path, num_features: int) -> list[Explanation]:
    """People's own labels from a JSON Lines or CSV file with the columns ``feature`` and ``label``.

    Raises:
        InputError: it cannot be read, or a line has no such columns, or names a feature that there is not.
    """
    try:
        rows = list(_rows(path))
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        message = f"The labels in {path} cannot be read: {error}. Give JSON Lines or CSV with feature and label."
        raise InputError(message) from error
    return [_label(path, number, row, num_features) for number, row in enumerate(rows, start=1)]


def choose_labels(explanations: Iterable[Explanation]) -> list[dict[str, Any]]:
    """One row a feature with its label, who gave it and how sure they are; the first explanation that has one wins.

    Labels that several features share get a number, from the second on.
    """
    chosen: dict[int, tuple[str, str, float | None]] = {}
    for each in explanations:
        if each.feature not in chosen and each.label:
            chosen[each.feature] = (each.label, each.explainer, each.confidence)
    taken = Counter[str]()
    used = {label for label, *_ in chosen.values()}
    rows = []
    for feature, (label, explainer, confidence) in sorted(chosen.items()):
        taken[label] += 1
        numbered = _free(label, taken, used) if taken[label] > 1 else label
        rows.append({"feature": feature, "label": numbered, "explainer": explainer, "confidence": confidence})
    return rows


def _free(label: str, taken: Counter[str], used: set[str]) -> str:
    """The label with the next number that makes it one of its own."""
    while (numbered := f"{label} ({taken[label]})") in used:
        taken[label] += 1
    used.add(numbered)
    return numbered


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as handle:
        if path.suffix.lower() == ".csv":
            yield from csv.DictReader(handle)
        else:
            yield from (json.loads(line) for line in handle if line.strip())


def _label(path: Path, number: int, row: Any, num_features: int) -> Explanation:
    try:
        feature, label = int(row["feature"]), str(row["label"]).strip()
    except (KeyError, TypeError, ValueError) as error:
        message = f"Entry {number} of {path} is {row!r}: it needs a feature (a number) and a label (a text)."
        raise InputError(message) from error
    if not 0 <= feature < num_features or not label:
        problem = "has an empty label" if not label else f"names feature {feature}: there are 0 to {num_features - 1}"
        message = f"Entry {number} of {path} {problem}."
        raise InputError(message)
    return Explanation(feature=feature, explainer=PERSON, text=label, label=label, confidence=1.0)
