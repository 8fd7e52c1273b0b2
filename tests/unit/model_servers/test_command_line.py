"""What the command line of the servers refuses before anything is loaded."""

import pytest

from model_servers.command_line import _parser, main


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
