"""Positive and negative examples of something: what a direction is made from.

Of two classes, each text once. What cannot be used is left out and counted by the reason: nothing vanishes unseen.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mistudio.directions.example_files import Chat, Files
from mistudio.errors import ConfigError, InputError
from mistudio.plain_text import has_surrogates, shortened

FEWEST = 8  # of a class: with fewer, halves say nothing
FEW = 50  # of a class: with fewer, figures are rough

# Why a line is left out; the keys of the counts.
EMPTY = "empty"
UNLABELLED = "unlabelled"
OTHER_LABEL = "other_label"
REPEATED = "repeated"
CONTRADICTING = "contradicting"
BROKEN = "broken_unicode"
NOT_DRAWN = "not_drawn"
REASONS = (EMPTY, UNLABELLED, OTHER_LABEL, REPEATED, CONTRADICTING, BROKEN, NOT_DRAWN)

# What a label is called that needs no naming, and what it is called where it is not so; letter case aside.
_OPPOSITES = {"1": "0", "true": "false", "yes": "no", "positive": "negative", "pos": "neg"}
_SHOWN_LABELS = 10


class Example(NamedTuple):
    """One text or chat, and which class it is of."""

    text: str | Chat
    is_positive: bool


class Examples(NamedTuple):
    """What can be used, and how many lines could not, by the reason."""

    found: list[Example]
    left_out: Counter[str]


def read_examples(
    files: Files, positive_label: str | None, negative_label: str | None, most: int, seed: int
) -> Examples:
    """The examples of both classes, in the order of the files.

    Args:
        files: where they stand.
        positive_label: the label of the positive ones; None: what says so by itself, such as 1, true or positive.
        negative_label: that of the negative ones; None: all others.
        most: examples of a class that are kept at most, drawn at random.
        seed: of that draw.

    Raises:
        ConfigError: the labels do not tell the classes apart, or are given where files do.
        InputError: a line cannot be read, texts and chats are mixed, or a class has too few examples.
    """
    left_out: Counter[str] = Counter()
    labelled = _usable(_labelled(files, positive_label, negative_label, left_out), left_out)
    found = _drawn(_unambiguous(labelled, left_out), most, seed, left_out)
    if len({isinstance(each.text, str) for each in found}) > 1:
        message = (
            "The examples are texts and chats, which a model reads in different ways: give the ones or the others."
        )
        raise InputError(message)
    check_enough([each.is_positive for each in found], left_out)
    return Examples(found, left_out)


def check_enough(is_positive: Sequence[bool], left_out: Mapping[str, int]) -> None:
    """Refuse examples of one class alone, and too few to say anything.

    Raises:
        InputError: a class has too few.
    """
    positive, negative = sum(is_positive), len(is_positive) - sum(is_positive)
    if min(positive, negative) >= FEWEST:
        return
    reasons = ", ".join(f"{name} {count:,}" for name, count in left_out.items() if count)
    why = "all are of one class" if min(positive, negative) == 0 and is_positive else f"each class needs {FEWEST}"
    message = (
        f"There are {positive:,} positive and {negative:,} negative examples, and {why}. Left out: "
        f"{reasons or 'none'}. Add examples, or say by positive_label and negative_label which label is which."
    )
    raise InputError(message)


def _labelled(
    files: Files, positive_label: str | None, negative_label: str | None, left_out: Counter[str]
) -> Iterator[tuple[str | Chat | None, bool]]:
    """Every line that is of a class, with its class."""
    if files.labelled is None:
        if positive_label is not None or negative_label is not None:
            message = "positive_label and negative_label are for one file with labels: leave them out."
            raise ConfigError(message)
        for file, is_positive in ((files.positive, True), (files.negative, False)):
            yield from ((line.text, is_positive) for line in (file.lines() if file else ()))
        return
    lines = list(files.labelled.lines())
    positive, negative = _classes(Counter(line.label for line in lines if line.label), positive_label, negative_label)
    for line in lines:
        if line.label is None:
            left_out[UNLABELLED] += 1
        elif line.label == positive or negative in (None, line.label):
            yield line.text, line.label == positive
        else:
            left_out[OTHER_LABEL] += 1


def _classes(labels: Counter[str], positive: str | None, negative: str | None) -> tuple[str, str | None]:
    """The labels of the classes; None for the second: all others.

    Raises:
        ConfigError: there is no such label, or nothing tells which is which.
    """
    shown = ", ".join(f"{shortened(label)} ({count:,})" for label, count in labels.most_common(_SHOWN_LABELS)) or "none"
    for name, label in (("positive_label", positive), ("negative_label", negative)):
        if label is not None and label not in labels:
            message = f"{name} {shortened(label)} is on no line; the labels are {shown}."
            raise ConfigError(message)
    if positive is not None:
        if positive == negative:
            message = f"positive_label and negative_label are both {shortened(positive)}: give two."
            raise ConfigError(message)
        return positive, negative
    known = [label for label in labels if _OPPOSITES.get(label.casefold()) in {each.casefold() for each in labels}]
    if negative is None and len(labels) == 2 and len(known) == 1:
        return known[0], None
    if len(labels) == 1 and any(label.casefold() in {*_OPPOSITES, *_OPPOSITES.values()} for label in labels):
        (label,) = labels  # of one class alone, which is told when classes are counted
        return (label, None) if label.casefold() in _OPPOSITES else ("1", label)
    message = f"Which label is the positive one? Give positive_label; the labels are {shown}."
    raise ConfigError(message)


def _usable(lines: Iterator[tuple[str | Chat | None, bool]], left_out: Counter[str]) -> Iterator[Example]:
    for text, is_positive in lines:
        parts = [text] if isinstance(text, str) else [message["content"] for message in text or ()]
        if not any(part.strip() for part in parts):
            left_out[EMPTY] += 1
        elif any(has_surrogates(part) for part in parts):
            left_out[BROKEN] += 1
        elif text is not None:
            yield Example(text, is_positive)


def _unambiguous(examples: Iterator[Example], left_out: Counter[str]) -> list[Example]:
    """Each text once: a repeated one would stand in both halves, and one of both classes is an example of neither."""
    classes: dict[str, set[bool]] = {}
    first: dict[str, Example] = {}
    times: Counter[str] = Counter()
    for example in examples:
        key = json.dumps(example.text)
        classes.setdefault(key, set()).add(example.is_positive)
        first.setdefault(key, example)
        times[key] += 1
    for key, own in classes.items():
        left_out[CONTRADICTING if len(own) > 1 else REPEATED] += times[key] if len(own) > 1 else times[key] - 1
    return [example for key, example in first.items() if len(classes[key]) == 1]


def _drawn(examples: list[Example], most: int, seed: int, left_out: Counter[str]) -> list[Example]:
    """At most so many of each class."""
    kept: set[int] = set()
    for is_positive in (True, False):
        own = [place for place, example in enumerate(examples) if example.is_positive is is_positive]
        order = np.random.default_rng(seed).permutation(len(own))[:most]
        kept |= {own[place] for place in order.tolist()}
    left_out[NOT_DRAWN] += len(examples) - len(kept)
    return [example for place, example in enumerate(examples) if place in kept]
