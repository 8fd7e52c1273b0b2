"""What a step was given, from Python, JSON or a command line: of the right kind, or refused before anything runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mistudio import steps
from mistudio.activations import OUTLIER_RATIO
from mistudio.errors import ConfigError
from mistudio.settings import MOST_SEED
from mistudio.steps import STEPS
from mistudio.steps.given import check, sort_given


@pytest.mark.parametrize(
    ("step", "given", "message"),
    [
        ("train", {"k": "4"}, "k takes a whole number, not '4'"),
        ("train", {"k": True}, "k takes a whole number, not True"),
        ("train", {"k": [4]}, r"k takes a whole number, not \[4\]"),
        ("train", {"k": 4.5}, "k takes a whole number, not 4.5"),
        ("train", {"train_settings": {"k": True}}, "k takes a whole number, not True"),
        ("train", {"learning_rate": "0.1"}, "learning_rate takes a number"),
        ("train", {"allow_wide": 1}, "allow_wide takes true or false, not 1"),
        ("train", {"hook": 5}, "hook takes a text, not 5"),
        ("train", {"train_settings": 5}, "train_settings is not a JSON object: '5'"),
        ("train", {"seed": 0.9}, "seed takes a whole number, not 0.9"),
        ("train", {"seed": float("nan")}, "seed takes a whole number, not nan"),
        ("train", {"seed": "0"}, "seed takes a whole number, not '0'"),
        ("train", {"seed": -1}, "seed -1 is out of range"),
        ("train", {"seed": MOST_SEED + 1}, "out of range"),
        ("train", {"seed": 10**400}, "seed 1000.* is out of range"),
        ("train", {"activations": 5}, "activations takes artifacts, such as activations/0123456789abcdef, not 5"),
        ("train", {"activations": [5]}, "activations takes artifacts"),
        ("train", {"activations": " "}, "train needs activations"),
        ("train", {"activations": [None]}, "activations takes artifacts"),
        ("train", {"activations": "a/1,a/2"}, "activations takes one artifact, not 2"),
        ("capture", {"layer": "1"}, "layer takes a whole number"),
        ("capture", {"hooks": 5}, "hook takes several values"),
        ("capture", {"hooks": [None]}, "hook takes a text, not None"),
        ("ingest", {"context_length": "64"}, "context_length takes a whole number"),
        ("find_part", {"part": True}, "part takes a whole number"),
        ("find_part", {"part": 0.5}, "part takes a whole number"),
        ("explain", {"labels": 5}, "labels takes a text"),
        ("fail_gate", {}, "fail-gate needs missed"),
    ],
)
def test_what_is_of_another_kind_is_refused(step: str, given: dict[str, Any], message: str) -> None:
    inputs = {each.name: f"{each.kind}/1" for each in STEPS[step].inputs}
    with pytest.raises(ConfigError, match=message):
        sort_given(STEPS[step], inputs | given)


def test_numbers_of_other_libraries_and_paths_are_what_they_say(tmp_path: Path) -> None:
    given = {"k": np.int64(4), "learning_rate": np.float32(0.5), "tokens": 2e4, "seed": np.int32(3)}
    asked = check(STEPS["train"], given)
    assert (asked.config.sae.k, asked.config.learning_rate, asked.config.tokens) == (4, 0.5, 20_000)
    assert asked.given["seed"] == 3
    assert check(STEPS["explain"], {"labels": tmp_path}).given["labels"] == str(tmp_path)
    assert check(STEPS["capture"], {"hooks": {"resid_post.1"}}).config.hooks == ("resid_post.1",)


@pytest.mark.parametrize(
    ("given", "ratio"),
    [
        ({}, OUTLIER_RATIO),
        ({"max_norm_ratio": None}, None),
        ({"train_settings": {"max_norm_ratio": None}}, None),
        ({"train_settings": '{"max_norm_ratio": null}'}, None),
        ({"max_norm_ratio": 12}, 12.0),
    ],
)
def test_outliers_are_left_out_unless_that_is_switched_off(given: dict[str, Any], ratio: float | None) -> None:
    assert check(STEPS["train"], given).config.max_norm_ratio == ratio


@pytest.mark.parametrize(
    ("run", "step", "message"),
    [
        (steps.run_step, "gate", "gate publishes nothing: use call"),
        (steps.run_step, "train_together", "publishes several artifacts: use run_all"),
        (steps.call, "evaluate", "evaluate publishes what it makes: use run_step"),
        (steps.run_step, ["train"], "There is no step"),
    ],
)
def test_a_step_is_called_as_what_it_is(run: Any, step: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(step)
