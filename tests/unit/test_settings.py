"""Settings: listed from the configurations that declare them, and read from plain values."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from mistudio.errors import ConfigError
from mistudio.settings import (
    COMMAND,
    CONTEXT,
    DASHBOARD,
    Settings,
    Variants,
    find_leaf,
    get,
    has,
    json_object,
    leaves,
    nested,
    option_name,
    validated,
)


class Round(Settings):
    shape: Literal["round"] = "round"
    size: int = Field(default=1, ge=1, description="how large", json_schema_extra=DASHBOARD)
    radius: float = Field(default=2.0, description="how far", json_schema_extra=DASHBOARD)


class Square(Settings):
    shape: Literal["square"] = "square"
    size: int = Field(default=1, ge=1, description="how large", json_schema_extra=DASHBOARD)
    side: float | None = Field(default=None, description="how long; None: as it comes")


class Inner(Settings):
    size: int = Field(default=3, description="of the inner one")
    colours: tuple[str, ...] = Field(default=("red",), description="colours")


class Whole(Settings):
    names: tuple[str, ...] = Field(default=("a", "b"), description="names", json_schema_extra=option_name("name"))
    most: int | None = Field(default=10, ge=1, description="most; None: all", json_schema_extra=COMMAND)
    own: str = Field(default="", json_schema_extra=CONTEXT)
    inner: Inner = Inner()
    figure: Annotated[Round | Square, Variants("shape", "round", "kind of figure", lambda: KNOWN)] = Round()


KNOWN = {"round": Round, "square": Square}
ALL = tuple(leaves(Whole))


def refusal(**given: object) -> str:
    with pytest.raises(ConfigError) as raised:
        nested(ALL, given, "the test")
    return str(raised.value)


def test_every_setting_is_listed_once_with_its_path_and_what_people_call_it() -> None:
    assert {leaf.path: leaf.name for leaf in ALL} == {
        "names": "name",
        "most": "most",
        "inner.size": "size",
        "inner.colours": "colours",
        "figure.shape": "shape",
        "figure.size": "size",
        "figure.radius": "radius",
        "figure.side": "side",
    }
    assert {leaf.name for leaf in ALL if leaf.place == "dashboard"} == {"name", "shape", "size", "radius"}


def test_a_default_of_one_variant_is_no_default_of_the_others() -> None:
    radius = find_leaf(ALL, "radius", "")
    assert (radius.default, radius.owners) == (None, ("round",))
    assert radius.shown() == "How far (round); -1: 2.0."
    assert find_leaf(ALL, "figure.size", "").default == 1


def test_what_people_read_says_what_they_can_give() -> None:
    assert find_leaf(ALL, "shape", "").shown() == "Kind of figure (round, square)."
    assert find_leaf(ALL, "most", "").shown() == "Most; -1: all."


def test_plain_values_go_where_they_belong() -> None:
    given = {"name": "x, y", "inner": {"colours": ["blue"]}, "figure.size": 5, "radius": 1.5}
    content = nested(ALL, given, "the test")
    assert content == {"names": ["x", "y"], "inner": {"colours": ["blue"]}, "figure": {"size": 5, "radius": 1.5}}
    assert get(content, "figure.size") == 5
    assert get(content, "figure.none.such") is None


def test_none_is_a_value_only_where_it_is_one_and_not_the_default() -> None:
    assert nested(ALL, {"most": None, "side": None, "shape": None}, "the test") == {"most": None}
    most, shape = (find_leaf(ALL, name, "") for name in ("most", "shape"))
    assert (most.plain(-1), shape.plain(""), most.plain(3)) == (None, "", 3)
    assert (most.parse("null"), most.parse("1_000")) == (None, 1000)


def test_a_name_that_could_be_several_is_refused_with_their_paths() -> None:
    assert refusal(size=3) == "the test names 'size', which could be inner.size, figure.size: use one of these."


def test_an_unknown_name_and_one_given_twice_are_refused() -> None:
    assert "the test names 'colour', which is no setting; there are colours, most, name" in refusal(colour="red")
    assert refusal(**{"figure.radius": 1.0, "radius": 2.0}) == "radius is given twice, as 1.0 and as 2.0: give it once."


def test_what_a_variant_does_not_have_is_refused_even_at_the_default_of_the_other() -> None:
    assert refusal(shape="square", radius=2.0) == (
        "square has no radius (given: 2): leave it out. It has settings of its own."
    )
    assert refusal(shape="oval", radius=2.0) == "shape 'oval' is unknown: use one of round, square."
    assert not has(ALL, {"figure": {"shape": "square"}}, "figure.radius")
    assert has(ALL, {}, "figure.radius")
    assert has(ALL, {}, "most")
    assert not has(ALL, {}, "nothing")


def test_a_value_is_refused_by_the_name_that_people_know() -> None:
    with pytest.raises(ConfigError, match="train_most: input should be greater than or equal to 1, not 0"):
        validated(Whole, {"most": 0}, {"most": "train_most"})
    with pytest.raises(ConfigError, match="colour: extra inputs are not permitted, not 'red'"):
        validated(Inner, {"colour": "red"})


def test_a_value_of_another_kind_is_refused_on_the_command_line() -> None:
    with pytest.raises(ConfigError, match="size takes a value of type int, not 'big'"):
        find_leaf(ALL, "figure.size", "").parse("big")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nest deeper"),
        ('{"a": ' * 100_000, "nest deeper"),
        ('{"size": ' + "1" * 5000 + "}", "digits"),
        ('{"size": 1e999}', "too large"),
        ('{"size": NaN}', "NaN is no number"),
        ('{"size": 1, "size": 2}', "'size' twice"),
        ('["' + "x" * 5000 + '"]', "not a JSON object"),
    ],
)
def test_json_that_cannot_be_settings_is_refused_in_short(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"figure_settings is .*{reason}") as refused:
        json_object("figure_settings", text, '{"size": 2}')
    assert len(str(refused.value)) < 400
