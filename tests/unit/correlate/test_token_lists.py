"""What programs list, as words: which tokens, in which order, and what they count beside texts."""

from pathlib import Path

import pytest

from mistudio.artifacts import open_store
from mistudio.correlate.concepts.search import ConceptSearch
from mistudio.correlate.concepts.text_index import TextIndex, write_text_index
from mistudio.correlate.concepts.token_lists import MOST_TOKENS, TokenLists
from mistudio.explain.programs.language import Branch, Condition, Flag, Member, Pair, Program
from mistudio.explain.records import Explanation
from mistudio.features import FeatureSet
from tests.support.feature_tables import publish_feature_tables
from tests.support.said import said

STRINGS = (" robin", "Robin", " owl", " the", "\n", "(", " eag", "le", " heron", *(f" word{i}" for i in range(200)))
ROBIN, CAPITAL, OWL, THE, BREAK, BRACKET, EAG, LE, HERON, WORDS = range(10)


def program(*conditions: Condition) -> str:
    return Program(branches=(Branch(conditions=conditions, value=1.0),)).to_json()


def explained(folder: Path, *explanations: Explanation) -> FeatureSet:
    return said(open_store(str(folder)), explanations, 32, STRINGS)


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> TokenLists:
    return TokenLists(
        explained(tmp_path_factory.mktemp("lists"), Explanation(feature=0, explainer="program", text="birds"))
    )


def test_tokens_are_those_that_the_text_does_not_name_each_once(lists: TokenLists) -> None:
    birds = program(Member(column="current", tokens=(ROBIN, OWL, CAPITAL, HERON)))
    assert lists.beyond(birds, "Fires on birds.") == "robin, owl, heron"
    assert lists.beyond(birds, "Fires on ` Robin` and 3 more.") == "owl, heron"


def test_what_a_feature_fires_on_comes_before_where_and_what_is_ruled_out_is_left_out(lists: TokenLists) -> None:
    written = program(
        Member(column="previous", tokens=(THE,)),
        Member(column="next", tokens=(HERON,), negated=True),
        Flag(name="at the start of a line"),
        Member(column="current", tokens=(OWL, BREAK, BRACKET, -1, 10_000)),
        Pair(pairs=((EAG, LE), (THE, ROBIN))),
    )
    assert lists.beyond(written, "") == "owl, eagle, the robin, the"


def test_long_lists_end_at_a_bound_with_those_that_matter_most(lists: TokenLists) -> None:
    many = program(Member(column="current", tokens=tuple(range(WORDS + 199, WORDS - 1, -1))))
    assert lists.beyond(many, "").split(", ") == [f"word{i}" for i in range(199, 199 - MOST_TOKENS, -1)]


def test_tokens_are_read_from_the_contexts_too(tmp_path: Path) -> None:
    features = publish_feature_tables(open_store(str(tmp_path)), 40)
    tables = {
        token: text
        for row in features.rows([*range(40)], ["mean_tokens", "mean_token_ids"])
        for token, text in zip(row["mean_token_ids"], row["mean_tokens"], strict=True)
    }
    (context, *_) = features.contexts(7)
    token = next(each for each in context["token_ids"] if each not in tables)
    assert TokenLists(features).beyond(program(Member(column="current", tokens=(token,))), "") == f"tok{token}"


def test_a_text_that_says_a_word_comes_before_the_programs_that_list_it(tmp_path: Path) -> None:
    listing = program(Member(column="current", tokens=(ROBIN,)))
    listed = [
        Explanation(feature=feature, explainer="program", text="Birds", program=listing) for feature in range(1, 9)
    ]
    others = [
        Explanation(feature=feature, explainer="program", text="Fires on quite another thing beside it.")
        for feature in range(16, 32)
    ]
    written = Explanation(feature=14, explainer="language-model", text="Fires on a robin or another thing.")
    called = Explanation(feature=15, explainer="person", label="robin", text="")
    features = explained(tmp_path, *listed, written, called, *others)
    hits = ConceptSearch(features, tmp_path / "concepts").search("robins", 16)
    assert [hit.feature for hit in hits] == [15, 14, *range(1, 9)]


def test_texts_without_a_program_are_embedded_as_they_are(tmp_path: Path) -> None:
    listing = program(Member(column="current", tokens=(ROBIN, OWL)))
    own = Explanation(feature=1, explainer="program", label="owls", text="Fires on owl.", program=listing)
    features = explained(tmp_path, Explanation(feature=0, explainer="person", label="owls", text="All birds."), own)
    write_text_index(features, tmp_path / "texts")
    assert features.explained is not None
    texts = TextIndex(tmp_path / "texts", features.explained.digest)
    assert [each.words for each in texts.all()] == ["owls. All birds.", "owls. Fires on owl. robin"]
