"""One short name for each feature: people's own first, then those of the explainers, and no two alike."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mistudio.errors import InputError
from mistudio.explain.config import PERSON
from mistudio.explain.records import Explanation
from mistudio.guarded_json import parse_json, whole_number
from mistudio.plain_text import shortened, without_surrogates

MAX_FILE_BYTES = 32 * 1024 * 1024
MAX_LABEL_CHARACTERS = 1000


def read_labels(path: Path, num_features: int) -> list[Explanation]:
    """People's own labels from a JSON Lines or CSV file with the columns ``feature`` and ``label``.

    Raises:
        InputError: it cannot be read, or a line has no such columns, or names a feature that there is not.
    """
    try:
        rows = list(_rows(path))
    except (OSError, ValueError, csv.Error) as error:
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


def _rows(path: Path) -> Iterator[Any]:
    with path.open("rb") as handle:
        content = handle.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        message = f"it has more than {MAX_FILE_BYTES:,} bytes, the most that is read"
        raise ValueError(message)
    lines = io.StringIO(content.decode("utf-8-sig"), newline="")
    if path.suffix.lower() != ".csv":
        yield from (parse_json(line) for line in lines if line.strip())
        return
    reader = csv.DictReader(lines)
    names = reader.fieldnames or ()
    if any(names.count(name) > 1 for name in ("feature", "label")):
        message = "it has the column feature or label twice"
        raise ValueError(message)
    yield from reader


def _label(path: Path, number: int, row: Any, num_features: int) -> Explanation:
    values = row if isinstance(row, dict) else {}
    feature, text = whole_number(values.get("feature")), values.get("label")
    if feature is None or not isinstance(text, str):
        message = f"Entry {number} of {path} is {shortened(row)}: it needs a feature (a number) and a label (a text)."
        raise InputError(message)
    label = without_surrogates(text).strip()
    problem = _problem(feature, label, num_features)
    if problem:
        message = f"Entry {number} of {path} {problem}."
        raise InputError(message)
    return Explanation(feature=feature, explainer=PERSON, text=label, label=label, confidence=1.0)


def _problem(feature: int, label: str, num_features: int) -> str | None:
    if not label:
        return "has an empty label"
    if len(label) > MAX_LABEL_CHARACTERS:
        return f"has a label of {len(label):,} characters; at most {MAX_LABEL_CHARACTERS:,} are read"
    return f"names feature {feature}: there are 0 to {num_features - 1}" if feature >= num_features else None
