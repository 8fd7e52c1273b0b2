"""What each term of a selection selects, and that every fault names its term and says what to do."""

from pathlib import Path

import pytest

from mistudio.artifacts import Artifact, open_input, open_store
from mistudio.errors import ConfigError, InputError
from mistudio.features import FeatureSet
from mistudio.features.selection import parse_selection
from tests.support.fake_meaning import publish_meaningful_run


def selected(text: str, told: FeatureSet) -> list[int]:
    found = FeatureSet(told.artifact)
    return parse_selection(text).features(found, told.scored, told.explained).tolist()


@pytest.mark.parametrize(
    ("text", "written", "features"),
    [
        ("12", "12", [12]),
        (" 12, 14 - 16".replace(" - ", "-"), "12,14-16", [12, 14, 15, 16]),
        ("3-3,3,003", "3", [3]),
        ("16-18,12,17", "16-18,12,17", [12, 16, 17, 18]),  # as asked, and ascending
        ("best:3", "best:3", [37, 38, 39]),
        ("best:2,0", "best:2,0", [0, 38, 39]),
        ("unlabelled", "unlabelled", [4, 9]),  # the dead ones
        ("cluster:0", "cluster:0", list(range(0, 40, 3))),
        ("coherent:3", "coherent:3", [0, 1, 2]),  # all alike: by number
        ("coherent:1000", "coherent:1000", [each for each in range(40) if each not in (4, 9)]),
    ],
)
def test_terms_select_features_that_ascend(text: str, written: str, features: list[int], told: FeatureSet) -> None:
    assert str(parse_selection(text)) == written
    assert selected(text, told) == features


def test_orders_by_density_leave_dead_features_out_and_take_like_ones_by_number(told: FeatureSet) -> None:
    density = told.column("density").to_pylist()
    alive = [feature for feature, count in enumerate(told.column("count").to_pylist()) if count]
    for kind, sign in (("densest", -1), ("rarest", 1)):
        in_order = sorted(alive, key=lambda feature: (sign * density[feature], feature))
        assert selected(f"{kind}:7", told) == sorted(in_order[:7])
        assert selected(f"{kind}:1000", told) == alive


def test_groups_of_near_duplicates_are_those_of_the_map(features: Artifact) -> None:
    found = FeatureSet(features)
    group_F = found.column("group").to_pylist()
    first = next((each for each in group_F if each is not None), None)
    if first is None:
        with pytest.raises(InputError, match="group:0, but .* has no such group of near-duplicates: none"):
            parse_selection("group:0").features(found)
    else:
        expected = [feature for feature, group in enumerate(group_F) if group == first]
        assert parse_selection(f"group:{first}").features(found).tolist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty term: write numbers and ranges"),
        ("12,", "an empty term"),
        ("abc", "the term 'abc'"),
        ("-3", "the term '-3'"),
        ("1.5", "the term '1.5'"),
        ("٣", "the term '٣'"),
        ("9" * 5000, "the term '999"),
        ("best", "the term 'best'"),
        ("best:-1", "the term 'best:-1'"),
        ("worst:50", "the term 'worst:50'"),
        ("numbers:5", "the term 'numbers:5'"),
        ("unlabelled:5", "the term 'unlabelled:5'"),
        ("90-40", "the range 90-40, which ends before it begins: write 40-90"),
        ("densest:0", "densest:0, which asks for no features: ask for one or more"),
    ],
)
def test_a_malformed_selection_is_refused_by_its_term(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        parse_selection(text)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,40", "the term 40, but there are features 0 to 39"),
        ("30-40", "the term 30-40, but there are features 0 to 39"),
        ("9999999999", "the term 9999999999, but"),
        ("group:3", "the term group:3, but .* has no such group of near-duplicates: none"),
        ("cluster:2", "the term cluster:2, but .* has no such cluster on the map: there are 0, 1"),
    ],
)
def test_features_that_there_are_not_are_refused(text: str, message: str, told: FeatureSet) -> None:
    with pytest.raises(InputError, match=message):
        selected(text, told)


def test_what_a_term_needs_has_to_be_given_and_of_the_same_features(told: FeatureSet, features: Artifact) -> None:
    found = FeatureSet(told.artifact)
    with pytest.raises(InputError, match="the term best:3, which needs scores"):
        parse_selection("best:3").features(found)
    with pytest.raises(InputError, match="the term unlabelled, which needs explanations"):
        parse_selection("unlabelled").features(found)
    other = FeatureSet(features)
    with pytest.raises(InputError, match=f"is of {told.artifact.uri}, not of {features.uri}"):
        parse_selection("best:3").features(other, told.scored)
    with pytest.raises(InputError, match=f"is of {told.artifact.uri}, not of {features.uri}"):
        parse_selection("unlabelled").features(other, explanations=told.explained)


def test_a_selection_of_nothing_is_refused(tmp_path: Path) -> None:
    features, _, scores = publish_meaningful_run(open_store(str(tmp_path)), 5)
    explanations = open_input(scores.store, scores.manifest.inputs["explanations"], "explanations")
    with pytest.raises(InputError, match="only 'unlabelled' selects none of 5 features"):
        parse_selection("unlabelled").features(FeatureSet(features), explanations=explanations)


@pytest.mark.parametrize(
    ("text", "most"), [("12,40-49", 11), ("coherent:30,densest:5", 35), ("best:500", 100), ("group:1,3", 100)]
)
def test_how_many_are_selected_at_most_is_known_before(text: str, most: int) -> None:
    assert parse_selection(text).at_most(100) == most
