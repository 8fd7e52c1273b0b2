"""Texts that nothing is the matter with, to find thresholds on: documents of a corpus, or lines of a file.

A line is a text or a chat; where a chat ends with the assistant's message, that is its reply. A text that is there
twice is taken once, so that none stands on both sides of a split.

Shape legend: N documents.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.artifacts import Artifact, InputRef
from mistudio.corpus.statistics import Split
from mistudio.directions.example_files import File
from mistudio.errors import InputError
from mistudio.instrument.messages import Message
from mistudio.monitor.records import Sample


class Halves(NamedTuple):
    """Texts that something is found on, and others that it is tried on."""

    found_on: list[Sample]
    tried_on: list[Sample]


class Reference(NamedTuple):
    """Where reference texts come from: an artifact of kind ``corpus``, or a file."""

    origin: Artifact | File
    split: Split

    @property
    def ref(self) -> InputRef:
        """How an artifact names it as its input."""
        return self.origin.ref

    def samples(self, most: int, seed: int) -> list[Sample]:
        """At most so many documents, drawn at random, in an order drawn at random.

        Raises:
            InputError: there is nothing to read.
        """
        if isinstance(self.origin, File):
            found = samples_of(self.origin)
            return [found[number] for number in np.random.default_rng(seed).permutation(len(found))[:most].tolist()]
        return list(_documents(self.origin, self.split, most, seed))


def samples_of(file: File) -> list[Sample]:
    """The texts and chats of a file, each once.

    Raises:
        InputError: a line cannot be read, or there is none.
    """
    found: dict[str, Sample] = {}
    for line in file.lines():
        if isinstance(line.text, str) and line.text.strip():
            found.setdefault(_key(line.text), Sample(line.text))
        elif line.text and not isinstance(line.text, str):
            messages = tuple(Message.model_validate(dict(each)) for each in line.text)
            answered = len(messages) > 1 and messages[-1].role == "assistant"
            found.setdefault(_key(line.text), Sample(messages, len(messages) - 1 if answered else None))
    if not found:
        message = f"{file.origin} holds no text: write lines with text, or with messages."
        raise InputError(message)
    return list(found.values())


def halves(samples: Sequence[Sample], share: float, seed: int) -> Halves:
    """Texts in two parts, drawn at random."""
    order = np.random.default_rng(seed).permutation(len(samples)).tolist()
    first = round(share * len(samples))
    return Halves([samples[number] for number in order[:first]], [samples[number] for number in order[first:]])


def _key(text: object) -> str:
    return hashlib.sha256(json.dumps(text, default=dict).encode()).hexdigest()


def _documents(corpus: Artifact, split: Split, most: int, seed: int) -> Iterator[Sample]:
    from mistudio.corpus.reader import TokenCorpus

    reader = TokenCorpus(corpus)
    documents = reader.documents(split)
    numbers = np.unique(documents)
    if not len(numbers):
        message = f"{corpus.uri} has no documents in its {split} split: take the other one."
        raise InputError(message)
    order = np.argsort(documents, kind="stable")
    start_N = np.searchsorted(documents[order], numbers)
    ends_N = np.append(start_N[1:], len(documents))
    for number in np.random.default_rng(seed).permutation(len(numbers))[:most].tolist():
        yield Sample(tuple(_tokens(reader, split, order[start_N[number] : ends_N[number]])))


def _tokens(reader: "object", split: Split, sequences: NDArray[np.int64]) -> list[int]:
    """The tokens of a document behind the special ones that begin a sequence."""
    from mistudio.corpus.reader import TokenCorpus

    assert isinstance(reader, TokenCorpus)  # noqa: S101
    ids: list[int] = []
    ordered = sorted((reader.sequence(split, int(each)) for each in sequences), key=lambda each: each.start)
    for each in ordered:
        end = len(each.token_ids) - reader.num_suffix
        ids += each.token_ids[reader.num_prefix if ids else 0 : end].tolist()
    return ids
