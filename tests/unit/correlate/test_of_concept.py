"""Concepts find what was said of features, by the correlator's interface."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mistudio.correlate.concepts.embedding import open_embedder
from mistudio.correlate.correlator import Correlator
from mistudio.correlate.queries import ConceptQuery, FeatureQuery
from mistudio.errors import ConfigError, InputError
from mistudio.features import EXPLANATIONS
from mistudio.instrument.served import Served
from tests.support.looked_up import FEATURES, LATER_HOOK, LookedUp


@pytest.fixture(scope="module")
def with_vectors(served: Served) -> Iterator[Correlator]:
    with open_embedder("subject:1", served) as embedder:
        yield Correlator(served, embedder=embedder)


def explained(served: Served) -> dict[int, str]:
    """What the program explainer said of each feature."""
    features = served.features[0].features
    assert features is not None
    return {feature: features.explanations(feature)[0]["text"] for feature in range(FEATURES)}


def test_a_features_own_explanation_finds_it(correlator: Correlator, served: Served) -> None:
    texts = explained(served)
    for feature in (4, 11, 30):
        reply = correlator.concept(ConceptQuery(concept=texts[feature], top=5))
        found = {hit.feature: hit for hit in reply.hits}
        assert feature in found
        assert found[feature].explanation is not None
        assert found[feature].explainer
        assert {hit.measure for hit in reply.hits} == {"lexical"}
        assert [hit.value for hit in reply.hits] == sorted((hit.value for hit in reply.hits), reverse=True)


def test_with_an_embedder_both_ways_are_gone(with_vectors: Correlator, served: Served) -> None:
    text = explained(served)[11]
    assert {hit.measure for hit in with_vectors.concept(ConceptQuery(concept=text)).hits} == {"both"}
    by_meaning = with_vectors.concept(ConceptQuery(concept=text, how="embedding", top=3))
    assert by_meaning.hits[0].measure == "embedding"
    cosines = [hit.value for hit in by_meaning.hits]
    assert len(cosines) == 3
    assert 1 >= cosines[0] >= cosines[1] >= cosines[2] > 0


def test_what_is_searched_can_be_made_beforehand(own: LookedUp, tmp_path: Path) -> None:
    with own.open() as opened, open_embedder("subject", opened) as embedder:
        correlator = Correlator(opened, embedder=embedder, concepts_folder=tmp_path)
        correlator.prepare()
        made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
        assert made
        assert correlator.concept(ConceptQuery(concept="cat")).hits
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == made


def test_like_explanations_leave_out_the_feature_itself(correlator: Correlator, served: Served) -> None:
    reply = correlator.feature(FeatureQuery(feature=11, relations=("explanation",), top=4))
    assert reply.hits
    assert 11 not in {hit.feature for hit in reply.hits}
    assert {hit.measure for hit in reply.hits} == {"explanation"}
    text = explained(served)[11]
    nearest = correlator.concept(ConceptQuery(concept=text, top=5)).hits
    assert [hit.feature for hit in reply.hits] == [hit.feature for hit in nearest if hit.feature != 11][:4]


def test_embeddings_that_there_are_not_and_concepts_that_are_none_are_refused(correlator: Correlator) -> None:
    with pytest.raises(InputError, match="embedder"):
        correlator.concept(ConceptQuery(concept="cat", how="embedding"))
    with pytest.raises(InputError, match="concept"):
        correlator.concept(ConceptQuery(concept="  "))
    with pytest.raises(InputError, match="concept: nothing is known of the features of resid_post.2"):
        correlator.concept(ConceptQuery(concept="cat", autoencoder=LATER_HOOK))


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("subject:9", "layers 0 to 2"),
        ("subject:" + "9" * 5000, "layers 0 to 2"),
        ("http://127.0.0.1:9/v1", "write ADDRESS#MODEL"),
        ("no-folder", "is nothing that embeds"),
        ("ftp://x#m", "base_url"),
    ],
)
def test_what_embeds_nothing_is_refused(served: Served, named: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said), open_embedder(named, served):
        pass


def test_every_feature_of_the_fixture_is_explained(served: Served) -> None:
    assert EXPLANATIONS.names[0] == "feature"
    assert all(explained(served).values())
