"""An index that holds the explanations' words too, and look-ups that use it."""

import pytest

from mistudio.artifacts import Artifact, Line, Store, open_artifact, open_store
from mistudio.correlate.concepts import search as concepts
from mistudio.correlate.concepts.text_index import TEXTS_NAME, TextIndex
from mistudio.correlate.correlator import Correlator
from mistudio.correlate.index.config import IndexConfig
from mistudio.correlate.index.step import index
from mistudio.correlate.queries import ConceptQuery
from mistudio.errors import InputError
from tests.support.looked_up import LookedUp, looked_up


@pytest.fixture
def own_line(tmp_path_factory: pytest.TempPathFactory) -> LookedUp:
    """A copy, to publish in."""
    return looked_up(tmp_path_factory)


def parts(line: LookedUp, store: Store | None = None) -> tuple[Artifact, Artifact]:
    """The autoencoder and the explanations of the line."""
    store = store or line.store
    found = Line(store, open_artifact(store, line.scores.uri))
    assert found.explanations is not None
    return found.sae, found.explanations


def test_words_of_explanations_are_in_an_index_of_the_same_bytes(line: LookedUp, own_line: LookedUp) -> None:
    made = [index(own_line.store, parts(own_line)[0], IndexConfig(), 0, parts(own_line)[1]).artifact]
    sae, explanations = parts(line, open_store(line.store.url))
    again = index(line.store, sae, IndexConfig(), 0, explanations).artifact
    assert again.file(TEXTS_NAME).read_bytes() == made[0].file(TEXTS_NAME).read_bytes()
    texts = TextIndex(again.file(TEXTS_NAME), explanations.digest)
    assert texts.num_texts == again.manifest.summary["texts"] > 0
    assert again.uri != index(line.store, sae, IndexConfig()).artifact.uri


def test_look_ups_for_concepts_use_the_words_of_the_index(own_line: LookedUp, monkeypatch: pytest.MonkeyPatch) -> None:
    sae, explanations = parts(own_line)
    with own_line.open() as served:
        query = ConceptQuery(concept="the", autoencoder=served.features[0].name)
        expected = Correlator(served).concept(query)
    index(own_line.store, sae, IndexConfig(), 0, explanations)

    def unwanted(*_arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr(concepts, "write_text_index", unwanted)
    with own_line.open("r") as served:
        found = Correlator(served).concept(query)
    assert [hit.feature for hit in found.hits] == [hit.feature for hit in expected.hits]
    assert found.hits


def test_explanations_of_another_autoencoder_are_refused(own_line: LookedUp) -> None:
    _, explanations = parts(own_line)
    with pytest.raises(InputError, match=f"explains features of sae/.*, not of {own_line.later_sae.uri}"):
        index(own_line.store, own_line.later_sae, IndexConfig(), 0, explanations)
