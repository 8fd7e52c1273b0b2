"""From a concept in words to features, by what was said of them.

All explanations of all explainers are searched, and the labels with them: by their words (BM25), by their meaning
(the cosine of embeddings), or by both, where the two rankings are put together by reciprocal rank fusion (Cormack,
Clarke and Büttcher 2009): a feature at rank r of a way gets 1 / (60 + r). A feature counts as its best text does.
"""

from pathlib import Path
from typing import Literal, NamedTuple

from mistudio.correlate.embedders import Embedder
from mistudio.features import FeatureSet

How = Literal["lexical", "embedding", "both"]
Way = Literal["lexical", "embedding"]

MOST_CHARACTERS = 4_000
MOST_HITS = 1_000


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
        folder: where the index of words and the vectors lie, or are put when they are first asked for; None: in the
            private folder of this machine for the store. See :func:`mistudio.correlate.text_index.write_text_index`.
        embedder: makes vectors of texts; None: words alone are searched.

    Raises:
        InputError: nothing was said of these features.
    """

    def __init__(self, features: FeatureSet, folder: Path | None = None, embedder: Embedder | None = None) -> None:
        raise NotImplementedError

    @property
    def ways(self) -> tuple[Way, ...]:
        """How this can be searched: always by words, and by embedding where there is an embedder."""
        raise NotImplementedError

    def search(self, text: str, count: int = 10, how: How | None = None) -> list[ConceptHit]:
        """The features that go best with a concept, best first, each once.

        Args:
            text: the concept in words, in at most ``MOST_CHARACTERS``.
            count: hits to give at most, up to ``MOST_HITS``.
            how: by words, by embedding, or both; None: both where there is an embedder.

        Raises:
            InputError: the text is empty or too long, the count is out of range, or there is no embedder.
        """
        raise NotImplementedError
