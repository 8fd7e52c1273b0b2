"""Import of explanations from Neuronpedia's export, as an artifact of kind ``explanations``.

The export is JSON Lines (packed or not), as in the folder ``explanations`` of its tree, or one list, as its interface
gives. What is said of a feature is taken as it stands; nothing tells which documents it was made from.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from mistudio.artifacts import Artifact, Draft, InputRef, Produced, Recipe, Store, Summary, hash_file, produce
from mistudio.errors import ConfigError, InputError, NotFound
from mistudio.exchange.entries import read_entries
from mistudio.exchange.writing import chunks
from mistudio.explain import SUMMARY_NAME
from mistudio.explain.config import PERSON, PROGRAM, TOKEN_SET
from mistudio.explain.labels import choose_labels
from mistudio.explain.records import Explanation
from mistudio.explain.status import StatusCounts
from mistudio.explain.tables import (
    file_rows,
    publish_explanations,
    publish_labels,
    read_tables,
    write_explanations,
)
from mistudio.guarded_json import whole_number
from mistudio.paths import given_path
from mistudio.plain_text import shortened, without_surrogates

NEURONPEDIA = "neuronpedia"
_ROWS_AT_ONCE = 4096
_LABEL_CHARACTERS = 72
_SHOWN_SOURCES = 5
MAX_TEXT_CHARACTERS = 64 * 1024
MAX_NAME_CHARACTERS = 200
MAX_METHODS = 100
_OURS = (PROGRAM, TOKEN_SET, PERSON)


def import_explanations(
    store: Store, path: Path, features: Artifact, format_name: str = NEURONPEDIA, *, skip_unknown: bool = False
) -> Produced:
    """Publish the explanations of a file as those of found features.

    The explainer is named after the method that the file names; where it says more than one thing of a feature by the
    same method, the second is by ``METHOD-2``, and so on.

    Args:
        store: where to publish.
        path: a file of the export, or a folder of them.
        features: artifact of kind ``features``, of the same autoencoder.
        format_name: neuronpedia.
        skip_unknown: count explanations of features that there are not, instead of refusing the file.

    Raises:
        NotFound: there is no such file.
        ConfigError: the format is unknown.
        InputError: the file is no such export, or is of another autoencoder.
    """
    if format_name != NEURONPEDIA:
        message = f"Explanations are imported from {NEURONPEDIA}, not {shortened(format_name)}."
        raise ConfigError(message)
    path = given_path(path, "The export")
    paths = _files(path)
    num_features = int(str(features.manifest.summary["features"]))
    content = {"imported_from": format_name, "skip_unknown": skip_unknown}
    file_ref = InputRef(uri=f"file:{without_surrogates(path.name)}", digest=_digest(paths))
    recipe = Recipe(kind="explanations", config=content, inputs={"features": features.ref, "file": file_ref})

    def build(draft: Draft) -> Summary:
        return _Reading(paths, num_features, skip_unknown=skip_unknown).publish(draft)

    return produce(store, recipe, "import", build)


class _Reading:
    """Reads the rows of an export, and counts what it finds."""

    def __init__(self, paths: Sequence[Path], num_features: int, *, skip_unknown: bool) -> None:
        self.paths, self.num_features, self.skip_unknown = paths, num_features, skip_unknown
        self.sources: set[str] = set()
        self.unknown = 0
        self.first_unknown = ""
        self._occurrences: Counter[tuple[int, str]] = Counter()
        self._methods: set[tuple[str, int]] = set()

    def publish(self, draft: Draft) -> Summary:
        """Write the tables; what is there of a run that was killed is written again."""
        names = []
        for number, chunk in enumerate(chunks(self._explanations(), _ROWS_AT_ONCE)):
            names.append(f"rows-{number:07d}.parquet")
            with draft.stage_work(names[-1]) as path:
                write_explanations(path, chunk)
        self._check(len(names))
        table = pa.concat_tables(file_rows(map(draft.work_file, names)))
        rows = table.sort_by([("feature", "ascending"), ("explainer", "ascending")])
        published = publish_explanations(draft, self.num_features, [[rows]])
        status = StatusCounts(self.num_features)
        labels = choose_labels(status.watch(read_tables(map(draft.file, published))))
        publish_labels(draft, self.num_features, labels)
        return self._summary(draft, status, len(labels))

    def _explanations(self) -> Iterator[Explanation]:
        for path in self.paths:
            for place, row in read_entries(path):
                feature, text = _checked(row, place)
                self.sources.add(f"{_name(row, 'modelId', place) or '?'}/{_name(row, 'layer', place) or '?'}")
                if len(self.sources) > _SHOWN_SOURCES:
                    self._check_source()
                if feature >= self.num_features:
                    self.unknown += 1
                    self.first_unknown = self.first_unknown or f"{feature} in {place}"
                    continue
                yield self._explanation(feature, text, row, place)

    def _explanation(self, feature: int, text: str, row: dict[str, Any], place: str) -> Explanation:
        name = _name(row, "typeName", place) or NEURONPEDIA
        name = f"{NEURONPEDIA}-{name}" if name in _OURS else name  # which mean something else here
        self._occurrences[feature, name] += 1
        number = self._occurrences[feature, name]
        self._methods.add((name, number))
        if len(self._methods) > MAX_METHODS:
            message = f"{self._where} has explanations by more than {MAX_METHODS:,} methods, the most that are read."
            raise InputError(message)
        return Explanation(
            feature=feature,
            explainer=name if number == 1 else f"{name}-{number}",
            status="explained" if text else "failed",
            text=text or "The file has an empty description.",
            label=_short(text),
            model=_name(row, "explanationModelName", place),
        )

    def _check(self, num_chunks: int) -> None:
        """Refuse what is not of these features.

        Raises:
            InputError: it is of several sources, of another autoencoder, or empty.
        """
        where = self._where
        self._check_source()
        if self.unknown and not self.skip_unknown:
            message = (
                f"{where} has {self.unknown} explanations of features that there are not, first {self.first_unknown}: "
                f"there are 0 to {self.num_features - 1}. Give the file of this autoencoder, or --skip-unknown."
            )
            raise InputError(message)
        if not num_chunks:
            message = f"{where} holds no explanation of any of the {self.num_features} features."
            raise InputError(message)

    def _check_source(self) -> None:
        """Refuse explanations of several autoencoders.

        Raises:
            InputError: they are.
        """
        if len(self.sources) > 1:
            some = ", ".join(sorted(self.sources)[:_SHOWN_SOURCES])
            message = f"{self._where} holds explanations of several sources: {some}. Give the file of one autoencoder."
            raise InputError(message)

    @property
    def _where(self) -> Path:
        return self.paths[0].parent if len(self.paths) > 1 else self.paths[0]

    def _summary(self, draft: Draft, status: StatusCounts, num_labels: int) -> Summary:
        counts = status.by_explainer
        content = {"explainers": counts, "searched": {}, "unknown": self.unknown, "source": min(self.sources)}
        draft.write(SUMMARY_NAME, json.dumps(content, indent=1, sort_keys=True).encode())
        return {
            "features": self.num_features,
            **status.features,
            "labels": num_labels,
            "explainers": ", ".join(sorted(counts)),
            "imported_from": NEURONPEDIA,
            "source": min(self.sources),
            "unknown": self.unknown,
        }


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _LABEL_CHARACTERS else words[: _LABEL_CHARACTERS - 1].rstrip() + "…"


def _files(path: Path) -> list[Path]:
    """The file, or those of a folder by number.

    Raises:
        NotFound: there is none.
    """
    if path.is_file():
        return [path]
    names = ("*.jsonl.gz", "*.jsonl")
    found = [each for name in names for each in path.glob(name) if each.is_file()]
    if not found:
        message = (
            f"There is no export of explanations at {path}: give a file (.jsonl.gz, .jsonl or .json), or the folder "
            "explanations of Neuronpedia's tree."
        )
        raise NotFound(message)
    return sorted(found, key=lambda each: (len(each.name), each.name))


def _digest(paths: Sequence[Path]) -> str:
    if len(paths) == 1:
        return hash_file(paths[0])
    return hashlib.sha256("".join(map(hash_file, paths)).encode()).hexdigest()


def _checked(row: Any, place: str) -> tuple[int, str]:
    """The feature and the text of an entry.

    Raises:
        InputError: it has none.
    """
    values = row if isinstance(row, dict) else {}
    feature, text = whole_number(values.get("index")), values.get("description")
    if feature is None or not isinstance(text, str):
        message = (
            f"The {place} is no explanation: it needs an index (a number from 0) and a description (a text). In "
            "Neuronpedia's tree, explanations lie in the folder explanations."
        )
        raise InputError(message)
    _check_length(text, MAX_TEXT_CHARACTERS, f"description of {place}")
    return feature, without_surrogates(text).strip()


def _name(row: dict[str, Any], key: str, place: str) -> str | None:
    """What an entry names by a key: a method, a model, a layer.

    Raises:
        InputError: it is too long for a name.
    """
    name = without_surrogates(str(row[key])) if row.get(key) else None
    _check_length(name or "", MAX_NAME_CHARACTERS, f"{key} of {place}")
    return name


def _check_length(text: str, most: int, what: str) -> None:
    if len(text) > most:
        message = f"The {what} has {len(text):,} characters; at most {most:,} are read."
        raise InputError(message)
