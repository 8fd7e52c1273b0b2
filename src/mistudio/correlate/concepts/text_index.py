"""What was said of features, to be found by its words: a file of SQLite with a full-text index (FTS5), ranked by BM25.

Each explanation is a row: who said it, of which feature, label and text. Words are compared by their stems (Porter
1980), in either case and without accents. The rows lie by feature, and their numbers, from 0, are those of the vectors
beside them (:mod:`mistudio.correlate.concepts.text_vectors`).
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pyarrow.compute as pc

from mistudio.artifacts import Artifact
from mistudio.errors import DamagedArtifact, InputError
from mistudio.features import EXPLANATIONS, FeatureSet, is_control
from mistudio.features.tables import TableReader

TEXTS_NAME = "texts.sqlite"
MOST_WORDS = 64  # of a query; what comes behind is left out
MOST_CHARACTERS = 65_536  # of a text that is indexed
_VERSION = 1
_WORD = re.compile(r"\w+")
_READ_COLUMNS = ("explainer", "status", "text", "label")
_TOO_COMMON = 0.5  # share of the texts: BM25 gives a word in more of them no weight
# The words that Lucene leaves out of English text: in a concept they hold its other words together.
_STOP_TEXT = """a an and are as at be but by for if in into is it no not of on or such that the their then there these
they this to was will with"""
_STOP_WORDS = frozenset(_STOP_TEXT.split())
_SCHEMA = """
CREATE TABLE said (number INTEGER PRIMARY KEY, feature INTEGER, explainer TEXT, label TEXT, text TEXT);
CREATE VIRTUAL TABLE words USING fts5(label, text, content=said, content_rowid=number,
                                      tokenize='porter unicode61 remove_diacritics 2');
CREATE TABLE about (name TEXT PRIMARY KEY, value);
"""
_FIND = """
SELECT number, feature, explainer, said.label, said.text, -bm25(words) FROM words JOIN said ON number = words.rowid
WHERE words MATCH ? ORDER BY bm25(words), number LIMIT ?
"""


class Said(NamedTuple):
    """What one explainer says of a feature."""

    number: int  # of the row
    feature: int
    explainer: str
    label: str
    text: str

    @property
    def words(self) -> str:
        """Label and text, as they are embedded."""
        return self.text if not self.label or self.label in self.text else f"{self.label}. {self.text}"


class Ranked(NamedTuple):
    """A row that was found, and how well it fits."""

    said: Said
    score: float  # larger is better


def write_text_index(features: FeatureSet, path: Path) -> int:
    """Write the texts of all explanations to a file, with the index of their words; return how many there are.

    Memory does not grow with the texts.

    Args:
        features: with explanations.
        path: of the file; it must not exist.

    Raises:
        InputError: nothing was said of these features.
    """
    explanations = explanations_of(features)
    with closing(sqlite3.connect(path)) as file:
        file.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _SCHEMA)
        file.executemany("INSERT INTO said VALUES (?, ?, ?, ?, ?)", _rows(explanations))
        file.execute("INSERT INTO words (words) VALUES ('rebuild')")
        count, by_feature = file.execute(
            "SELECT count(*), coalesce(max(each), 0) FROM (SELECT count(*) AS each FROM said GROUP BY feature)"
        ).fetchone()
        count = file.execute("SELECT count(*) FROM said").fetchone()[0]
        about = {"version": _VERSION, "explanations": explanations.digest, "texts": count, "of_feature": by_feature}
        file.executemany("INSERT INTO about VALUES (?, ?)", about.items())
        file.commit()
    return int(count)


def explanations_of(features: FeatureSet) -> Artifact:
    """The artifact of kind ``explanations`` of a feature set.

    Raises:
        InputError: there is none.
    """
    if features.explained is None:
        message = f"Nothing was said of the features of {features.artifact.uri}: run explain first."
        raise InputError(message)
    return features.explained


class TextIndex:
    """Texts in a file, to be found by their words or by number; any number of threads may read it.

    Args:
        path: that :func:`write_text_index` wrote.
        digest: of the explanations that it has to hold.

    Raises:
        DamagedArtifact: it is no such file, or of other explanations.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self._path = path
        if self._about.get("version") != _VERSION or self._about.get("explanations") != digest:
            message = f"{path} is no index of the texts of these explanations: remove it, and it is made anew."
            raise DamagedArtifact(message)
        self.num_texts, self.of_feature = int(self._about["texts"]), int(self._about["of_feature"])

    def find(self, query: str, num_features: int) -> list[Ranked]:
        """The texts with words of a query, best first: enough of them to hold so many features, where there are."""
        with self._opened() as file:
            words = self._telling(file, query)
            if not words:
                return []
            rows = file.execute(_FIND, (" OR ".join(words), num_features * max(self.of_feature, 1)))
            return [Ranked(Said(*row[:5]), row[5]) for row in rows]

    def read(self, numbers: Iterable[int]) -> dict[int, Said]:
        """Some texts by their numbers."""
        with self._opened() as file:
            return {
                number: Said(*file.execute("SELECT * FROM said WHERE number = ?", (number,)).fetchone())
                for number in numbers
            }

    def all(self) -> Iterator[Said]:
        """All texts in their order."""
        with self._opened() as file:
            for row in file.execute("SELECT * FROM said ORDER BY number"):
                yield Said(*row)

    def _telling(self, file: sqlite3.Connection, query: str) -> list[str]:
        """The words of a query that tell texts apart, quoted; all of them where none does."""
        words = list(dict.fromkeys(_WORD.findall(query.lower())))[:MOST_WORDS]
        most = int(_TOO_COMMON * self.num_texts)
        count = "SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT ?)"

        def tells(word: str) -> bool:
            return word not in _STOP_WORDS and file.execute(count, (f'"{word}"', most + 1)).fetchone()[0] <= most

        return [f'"{word}"' for word in list(filter(tells, words)) or words]

    @cached_property
    def _about(self) -> dict[str, str | int]:
        try:
            with self._opened() as file:
                return dict(file.execute("SELECT name, value FROM about"))
        except sqlite3.Error:
            return {}

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        uri = f"file:{quote(str(self._path.absolute()))}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as file:
            file.execute("PRAGMA trusted_schema = OFF")
            yield file


def _rows(explanations: Artifact) -> Iterator[tuple[int, int, str, str, str]]:
    number = 0
    for table in TableReader(explanations, EXPLANATIONS).ascending(_READ_COLUMNS):
        for row in table.filter(pc.equal(table["status"], "explained")).to_pylist():
            if not is_control(row["explainer"]) and (row["text"] or row["label"]):
                text, label = ((row[name] or "")[:MOST_CHARACTERS] for name in ("text", "label"))
                yield number, row["feature"], row["explainer"], label, text
                number += 1
