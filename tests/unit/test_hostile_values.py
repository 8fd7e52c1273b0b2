"""Values on the command line and in settings that no one can mean: refused in short, before anything runs."""

from pathlib import Path

import pytest

from mistudio.artifacts import open_store
from mistudio.cli.pipelines import _check_address
from mistudio.demo import DemoConfig, train_demo
from mistudio.errors import ConfigError, InputError, MistudioError
from mistudio.paths import given_path
from mistudio.plain_text import shortened
from mistudio.settings import MOST_SEED, check_seed
from mistudio.steps import STEPS
from mistudio.steps.given import check
from mistudio.verify.checks import run_checks
from tests.fuzz.command_line import run


@pytest.mark.parametrize("seed", [-1, MOST_SEED + 1, 10**30, 10**5000], ids=["-1", "most", "30", "5000"])
def test_seeds_out_of_range_are_refused_wherever_they_are_given(seed: int, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for call in (lambda: check_seed(seed), lambda: train_demo(store, DemoConfig(), seed)):
        with pytest.raises(ConfigError, match="out of range"):
            call()
    with pytest.raises(ConfigError, match="seeds .* is out of range"):
        run_checks(store, ["planted"], seed)
    if seed < 10**40:
        with pytest.raises(ConfigError, match=r"seeds: seed .* is out of range|whole numbers"):
            check_grid(str(seed))


def check_grid(seeds: str) -> None:
    step = STEPS["grid"]
    asked = check(step, {"seeds": seeds})
    assert step.check is not None
    step.check(asked, {})


@pytest.mark.parametrize(
    ("step", "given", "message"),
    [
        ("train", {"checkpoint_every_steps": 0}, "checkpoint_every_steps"),
        ("evaluate", {"device": "gpu"}, "device"),
        ("evaluate", {"model_settings": {"max_memory_gb": -1}}, "max_memory_gb"),
        ("explain", {"judge_url": "http://localhost:99999/v1", "judge_model": "x"}, "base_url"),
        ("score", {"judge_model": "x", "judge_settings": {"batch_size": 0}}, "batch_size"),
    ],
)
def test_checks_refuse_what_the_step_would_refuse(step: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(STEPS[step], given)


@pytest.mark.parametrize(
    "path", ["~no_such_user/x", "x" * 256, "a/" * 3000, "a\0b"], ids=["user", "name", "path", "zero"]
)
def test_paths_that_no_file_can_have_are_refused(path: str) -> None:
    with pytest.raises(InputError, match="The file cannot be at") as refused:
        given_path(path, "The file")
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 0), ("127.0.0.1", 65_536), ("127.0.0.1", -1), ("a b", 5000)])
def test_addresses_that_nothing_can_listen_on_are_refused(host: str, port: int) -> None:
    with pytest.raises(ConfigError, match="port"):
        _check_address(host, port)


@pytest.mark.parametrize("value", ["x" * 5000, "9" * 5000, "x" * 400, 10**5000], ids=["x", "9", "400", "10"])
def test_a_long_value_is_repeated_cut(value: str | int) -> None:
    assert len(shortened(value)) < 100
    assert isinstance(value, int) or len(str(MistudioError(f"{value} is odd."))) < 200


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--activations", "activations/0123456789abcdef", "--k", "x" * 5000],
        ["train", "--activations", "activations/0123456789abcdef", "--learning-rate", "9x" * 2000],
        ["train", "--" + "x" * 5000],
        ["x" * 5000],
        ["gpu", *["ab"] * 2000],
        ["demo", "--seed", "5x"],
    ],
)
def test_refusals_of_the_command_line_are_short_and_name_the_value(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTUDIO_STORE", str(tmp_path))
    outcome = run(arguments)
    message = outcome.err.rpartition("Error: ")[2]
    assert outcome.code == 2
    assert len(message) < 1000
    assert arguments[-1][:10] in message or arguments[-2] in message
