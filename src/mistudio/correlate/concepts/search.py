"""From a concept in words to features, by what was said of them.

All explanations of all explainers are searched, and the labels with them: by their words (BM25), by their meaning
(the cosine of embeddings), or by both, where the two rankings are put together by reciprocal rank fusion (Cormack,
Clarke and Büttcher 2009): a feature at rank r of a way gets 1 / (60 + r). A feature counts as its best text does.
"""

import hashlib
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple
from uuid import uuid4

from mistudio.artifacts.scratch import scratch_folder
from mistudio.correlate.concepts.embedders import Embedder
from mistudio.correlate.concepts.text_index import TEXTS_NAME, Ranked, TextIndex, explanations_of, write_text_index
from mistudio.correlate.concepts.text_vectors import TextVectors, write_text_vectors
from mistudio.errors import InputError, StorageError
from mistudio.features import FeatureSet
from mistudio.plain_text import shortened

How = Literal["lexical", "embedding", "both"]
Way = Literal["lexical", "embedding"]

MOST_CHARACTERS = 4_000
MOST_HITS = 1_000
FOLDER = "concepts"  # in the private folder of this machine
_FUSED = 60  # of reciprocal rank fusion, as its authors have it
_DEPTH = 4  # features of each way that are fused, as a multiple of those asked for
_LEAST_DEPTH = 50
_KEY_DIGITS = 16


class ConceptHit(NamedTuple):
    """A feature that goes with a concept.

    Attributes:
        feature: its number.
        score: of the search: BM25 (lexical), the cosine (embedding), or the sum of reciprocal ranks (both); larger is
            better. Scores of different ways do not compare.
        text: what was said of it, that was found.
        explainer: who said it.
        ways: which ways found this feature among the first, best first.
    """

    feature: int
    score: float
    text: str
    explainer: str
    ways: tuple[Way, ...]


class ConceptSearch:
    """Searches what was said of the features of one autoencoder; any number of threads may use it.

    Args:
        features: whose explanations are searched.
        folder: where the index of words and the vectors lie, in a folder for each artifact of explanations, or are
            put when they are first asked for; None: in the private folder of this machine for the store.
        embedder: makes vectors of texts; None: words alone are searched.
        texts: the index of words, where the step index has made it.

    Raises:
        InputError: nothing was said of these features.
    """

    def __init__(
        self,
        features: FeatureSet,
        folder: Path | None = None,
        embedder: Embedder | None = None,
        texts: Path | None = None,
    ) -> None:
        self._features, self._explanations = features, explanations_of(features)
        base = scratch_folder(self._explanations.store) / FOLDER if folder is None else folder
        self._folder = base / self._explanations.digest[:_KEY_DIGITS]
        self._embedder, self._texts_made = embedder, texts
        self._making_texts, self._making_vectors = Lock(), Lock()
        self._texts: TextIndex | None = None
        self._vectors: TextVectors | None = None

    @property
    def ways(self) -> tuple[Way, ...]:
        """How this can be searched: always by words, and by embedding where there is an embedder."""
        return ("lexical",) if self._embedder is None else ("lexical", "embedding")

    def search(self, text: str, count: int = 10, how: How | None = None) -> list[ConceptHit]:
        """The features that go best with a concept, best first, each once.

        Args:
            text: the concept in words, in at most ``MOST_CHARACTERS``.
            count: hits to give at most, up to ``MOST_HITS``.
            how: by words, by embedding, or both; None: both where there is an embedder.

        Raises:
            InputError: the text is empty or too long, the count is out of range, or there is no embedder.
            StorageError: the files that are searched cannot be made.
        """
        how = how or ("lexical" if self._embedder is None else "both")
        self._check(text, count, how)
        if how != "both":
            return [_hit(ranked, (how,)) for ranked in self._ranked(how, text, count)[:count]]
        depth = max(_DEPTH * count, _LEAST_DEPTH)
        return _fused({way: self._ranked(way, text, depth) for way in self.ways}, count)

    def prepare(self) -> None:
        """Make what is searched where it is not there, as a server does before it is ready; it may take long."""
        if self._open_texts().num_texts and self._embedder is not None:
            self._open_vectors(self._embedder)

    def _check(self, text: str, count: int, how: How) -> None:
        if not text.strip() or len(text) > MOST_CHARACTERS:
            message = (
                f"The concept {shortened(text)} has {len(text):,} characters: give words, in 1 to {MOST_CHARACTERS:,}."
            )
            raise InputError(message)
        if not 1 <= count <= MOST_HITS:
            message = f"{shortened(count)} hits are asked for: ask for 1 to {MOST_HITS:,}."
            raise InputError(message)
        if how != "lexical" and self._embedder is None:
            message = (
                f"how: {how} needs an embedder, and there is none: search by words (lexical), or name one with "
                "--embed-with (of a server, --correlate-embed-with)."
            )
            raise InputError(message)

    def _ranked(self, way: Way, text: str, count: int) -> list[Ranked]:
        """The best features of one way, each with its best text."""
        texts = self._open_texts()
        if way == "lexical" or self._embedder is None or not texts.num_texts:
            return _by_feature(texts.find(text, count))[:count]
        vectors = self._open_vectors(self._embedder)
        near = vectors.nearest(self._embedder.embed([text])[0], count * max(texts.of_feature, 1))
        said = texts.read(near.number_K.tolist())
        found = zip(near.number_K.tolist(), near.cosine_K.tolist(), strict=True)
        return _by_feature(Ranked(said[number], cosine) for number, cosine in found)[:count]

    def _open_texts(self) -> TextIndex:
        """The index of words; the first thread that wants it makes it."""
        with self._making_texts:
            if self._texts is None:
                path = self._texts_made or self._folder / TEXTS_NAME
                if not path.is_file():
                    self._write_texts(path)
                self._texts = TextIndex(path, self._explanations.digest)
            return self._texts

    def _write_texts(self, path: Path) -> None:
        part = path.with_name(f".{uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text_index(self._features, part)
            part.replace(path)
        except (OSError, sqlite3.Error) as error:
            raise self._cannot_write(error) from error
        finally:
            with suppress(OSError):
                part.unlink()

    def _cannot_write(self, error: Exception) -> StorageError:
        return StorageError(
            f"What is searched for concepts cannot be kept in {self._folder}: {error}. Make room there, or name "
            "another folder in MISTUDIO_SCRATCH."
        )

    def _open_vectors(self, embedder: Embedder) -> TextVectors:
        """The vectors of this embedder; the first thread that wants them makes them."""
        texts = self._open_texts()
        with self._making_vectors:
            if self._vectors is None:
                folder = self._folder / hashlib.sha256(embedder.identity.encode()).hexdigest()[:_KEY_DIGITS]
                try:
                    write_text_vectors((said.words for said in texts.all()), texts.num_texts, embedder, folder)
                except OSError as error:
                    raise self._cannot_write(error) from error
                self._vectors = TextVectors(folder, embedder.identity, texts.num_texts)
            return self._vectors


def _by_feature(ranked: Iterable[Ranked]) -> list[Ranked]:
    """The first text of each feature."""
    best: dict[int, Ranked] = {}
    for each in ranked:
        best.setdefault(each.said.feature, each)
    return list(best.values())


def _fused(by_way: dict[Way, list[Ranked]], count: int) -> list[ConceptHit]:
    """Put rankings together; like sums by number of the feature."""
    score: dict[int, float] = {}
    found: dict[int, dict[Way, tuple[int, Ranked]]] = {}
    for way, ranking in by_way.items():
        for rank, each in enumerate(ranking, start=1):
            feature = each.said.feature
            score[feature] = score.get(feature, 0.0) + 1 / (_FUSED + rank)
            found.setdefault(feature, {})[way] = (rank, each)
    hits = []
    for feature in sorted(score, key=lambda feature: (-score[feature], feature))[:count]:
        ways = sorted(found[feature], key=lambda way: found[feature][way][0])
        best = found[feature][ways[0]][1]
        hits.append(_hit(best._replace(score=score[feature]), tuple(ways)))
    return hits


def _hit(ranked: Ranked, ways: tuple[Way, ...]) -> ConceptHit:
    said = ranked.said
    return ConceptHit(said.feature, ranked.score, said.text or said.label, said.explainer, ways)
