"""What the command line of the servers refuses before anything is loaded."""

import re

import pytest

from model_servers.command_line import _PREDICTORS, _SERVER, _parser, main


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_setting_of_what_is_not_served_is_refused_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(["--models", "steer", "--correlate-passes", "3"], capsys)
    assert "--correlate-passes is a setting of correlate, which is not served" in said
    assert "--models steer,correlate" in said
    assert "--rows is a setting of steer" in refusal(["--models", "correlate", "--rows", "3"], capsys)


@pytest.mark.parametrize("models", ["", "melt", "steer,", "steer,melt"])
def test_a_predictor_that_there_is_not_is_refused_with_those_that_there_are(
    models: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "correlate, " in refusal(["--models", models], capsys)


def test_settings_of_two_predictors_do_not_get_in_each_others_way() -> None:
    options = _parser().parse_args(["--max-tokens", "10", "--correlate-max-tokens", "20"])
    assert (options.max_tokens, options.correlate_max_tokens) == ("10", "20")


def test_help_is_short_and_names_what_shows_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as ended:
            main([flag])
        assert ended.value.code == 0
        shown[flag] = capsys.readouterr().out
    assert "--help-all" in shown["--help"]
    assert len(shown["--help"].splitlines()) < 110
    every = {flag for action in _parser()._actions for flag in action.option_strings}
    assert set(re.findall(r"--[a-z][a-z0-9-]+", shown["--help-all"])) >= {flag for flag in every if len(flag) > 2}
    assert "--monitor-watch-list" in shown["--help"]
    assert "--monitor-drift-sweep-texts" not in shown["--help"]


def test_what_help_shows_is_there() -> None:
    for offered in (_SERVER, *(entry.offered for entry in _PREDICTORS.values())):
        assert offered.often <= {name for name, _ in offered.leaves()}
