"""Limits: what is refused names the field; no way of writing an edit gets around them."""

from typing import Any

import pytest

from mistudio.errors import ConfigError
from mistudio.instrument.edits import Edits
from mistudio.steer.bounds import SteerLimits, check

NAMES = {None: "sae/a", "first": "sae/a", "sae/a": "sae/a", "resid_post.1": "sae/a", "sae/b": "sae/b"}


def canonical(name: str | None) -> str:
    return NAMES[name]


def checked(*edits: dict[str, Any], preset: list[dict[str, Any]] | None = None, **limits: Any) -> None:
    own = Edits.model_validate({"edits": edits})
    other = None if preset is None else Edits.model_validate({"edits": preset})
    check(own, SteerLimits.model_validate(limits), canonical, preset=other)


def add(strength: float, unit: str = "feature_max", feature: int = 5, **more: Any) -> dict[str, Any]:
    return {"op": "add", "feature": feature, "strength": strength, "unit": unit, **more}


LIMITS = {"max_absolute": 10.0, "max_relative": 0.5, "max_feature_max": 4.0, "max_scale": 3.0}
RISING = {"start": 0.5, "end": -2.0, "steps": 5}


@pytest.mark.parametrize(
    ("edit", "field", "dose"),
    [
        (add(-11, "absolute"), "strength", "11 (absolute)"),
        (add(0.6, "relative"), "strength", "0.6 (relative)"),
        (add(4.1), "strength", "4.1 (feature_max)"),
        (add(3, schedule=RISING), "strength", "6 (feature_max)"),
        (add(3, schedule={"start": -2, "end": 0.5}), "strength", "6 (feature_max)"),
        ({"op": "add", "direction": "calm", "strength": 0.6, "unit": "relative"}, "strength", "0.6 (relative)"),
        ({"op": "clamp", "feature": 5, "value": -11}, "value", "11 (absolute)"),
        ({"op": "clamp", "feature": 5, "value": 5, "unit": "feature_max"}, "value", "5 (feature_max)"),
        ({"op": "clamp", "feature": 5, "value": 1, "schedule": {"end": 4}}, "schedule", "4 (scale)"),
        ({"op": "scale", "feature": 5, "factor": -3}, "factor", "4 (scale)"),
        ({"op": "scale", "feature": 5, "factor": 3, "schedule": RISING}, "factor", "4 (scale)"),
        ({"op": "ablate", "feature": 5, "schedule": {"end": 100}}, "schedule", "100 (scale)"),
        ({"op": "cap", "feature": 5, "value": -11}, "value", "11 (absolute)"),
        ({"op": "cap", "direction": "calm", "value": -6, "schedule": RISING}, "value", "12 (absolute)"),
    ],
)
def test_each_edit_is_held_against_its_units_limit_as_strongly_as_it_acts(
    edit: dict[str, Any], field: str, dose: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        checked(add(0.1, feature=1), edit, **LIMITS)
    assert str(refused.value).startswith(f"steering.edits[1].{field}: it acts with {dose}, and at most ")
    checked(edit, max_absolute=None, max_relative=None, max_feature_max=None, max_scale=None)


@pytest.mark.parametrize(
    "edit",
    [
        add(-4),
        add(10, "absolute"),
        add(2, schedule=RISING),
        {"op": "clamp", "feature": 5, "value": 10},
        {"op": "scale", "feature": 5, "factor": 4},
        {"op": "ablate", "feature": 5},
        {"op": "cap", "feature": 5, "value": 1000},
    ],
)
def test_what_is_at_the_limit_is_allowed(edit: dict[str, Any]) -> None:
    checked(edit, **LIMITS)


def test_edits_of_one_feature_count_together_however_its_autoencoder_is_written() -> None:
    edits = [add(1.5), add(1.5, autoencoder="first"), add(1.5, autoencoder="resid_post.1")]
    with pytest.raises(ConfigError, match=r"edits\[2\].strength: .* together with the edits before it 4.5, .* 4 is"):
        checked(*edits, **LIMITS)
    checked(*edits[:2], add(1.5, autoencoder="sae/b"), add(1.5, feature=6), **LIMITS)
    listed = {"op": "add", "features": [4, 5], "strength": 1.5, "unit": "feature_max"}
    with pytest.raises(ConfigError, match=r"edits\[2\].strength"):
        checked(*edits[:2], listed, **LIMITS)


def test_edits_along_one_direction_count_together() -> None:
    along = {"op": "add", "direction": "calm", "strength": 0.3, "unit": "relative"}
    with pytest.raises(ConfigError, match=r"edits\[1\].strength"):
        checked(along, along, **LIMITS)
    checked(along, {**along, "direction": "kind"}, **LIMITS)


def test_numbers_of_edits_and_of_features_are_limited() -> None:
    checked(*[add(0.1, feature=number) for number in range(3)], max_edits=3, max_features=3)
    with pytest.raises(ConfigError, match=r"steering\.edits: there are 3 edits, and at most 2"):
        checked(*[add(0.1)] * 3, max_edits=2)
    with pytest.raises(ConfigError, match=r"steering\.edits: they name 4 features, and at most 3"):
        checked({"op": "ablate", "features": [1, 2, 3, 4]}, max_features=3)
    with pytest.raises(ConfigError, match="they name 2 features, and at most 1"):
        checked(add(0.1, when={"feature": 9}), max_features=1)
    checked(add(0.1), add(0.1, autoencoder="first"), max_features=1)


def test_features_that_end_an_answer_count_as_named() -> None:
    edits = Edits.model_validate({"edits": [add(0.1)], "stop_when": [{"feature": 9}]})
    with pytest.raises(ConfigError, match="they name 2 features, and at most 1"):
        check(edits, SteerLimits(max_features=1), canonical)


@pytest.mark.parametrize("written", [None, "first", "sae/a", "resid_post.1"])
@pytest.mark.parametrize("listed", ["first", "sae/a", "resid_post.1"])
def test_a_denied_feature_is_refused_however_its_autoencoder_is_written(written: str | None, listed: str) -> None:
    edit = add(0.1, autoencoder=written)
    with pytest.raises(ConfigError, match=r"steering\.edits\[0\]\.feature: feature 5 of sae/a may not be changed here"):
        checked(edit, deny={listed: [4, 5]})
    checked({**edit, "feature": 6}, deny={listed: [4, 5]})
    checked({**edit, "autoencoder": "sae/b"}, deny={listed: [4, 5]})


def test_only_allowed_features_pass_and_denying_wins() -> None:
    checked(add(0.1), allow={"sae/a": [5]})
    with pytest.raises(ConfigError, match=r"edits\[0\]\.features: feature 6 of sae/a"):
        checked({"op": "ablate", "features": [5, 6]}, allow={"first": [5]})
    with pytest.raises(ConfigError, match="feature 5 of sae/b"):
        checked(add(0.1, autoencoder="sae/b"), allow={"sae/a": [5]})
    with pytest.raises(ConfigError, match="feature 5 of sae/a"):
        checked(add(0.1), allow={"sae/a": [5]}, deny={"resid_post.1": [5]})


def test_directions_can_be_limited_to_some() -> None:
    along = {"op": "add", "direction": "calm", "strength": 0.1}
    checked(along, directions=["calm"])
    with pytest.raises(ConfigError, match=r"edits\[0\]\.direction: 'calm' may not be used here"):
        checked(along, directions=["kind"])


def test_presets_are_not_exempt_unless_it_is_said() -> None:
    strong = [add(9)]
    with pytest.raises(ConfigError, match=r"steering\.preset\.edits\[0\]\.strength"):
        checked(preset=strong, **LIMITS)
    with pytest.raises(ConfigError, match=r"steering\.preset\.edits\[0\]\.strength: .* together"):
        checked(add(3), preset=[add(3)], **LIMITS)
    with pytest.raises(ConfigError, match="feature 5 of sae/a"):
        checked(preset=strong, deny={"first": [5]})
    checked(preset=strong, exempt_presets=True, deny={"first": [5]}, **LIMITS)
    with pytest.raises(ConfigError, match=r"steering\.edits\[0\]\.strength"):
        checked(add(9), preset=strong, exempt_presets=True, **LIMITS)
