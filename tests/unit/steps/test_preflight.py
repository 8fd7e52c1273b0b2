"""What a pipeline is asked for is checked before its first step: what a later step would refuse is refused at once."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mistudio import steps
from mistudio.cli import app
from mistudio.errors import ConfigError, SubjectError
from mistudio.runs.checkout import check_settings, load_pipeline, pipeline_names, signature
from mistudio.steps import check_together, given
from pipelines import interpret, sweep

ENDPOINT = {"judge_url": "http://localhost:1/v1", "judge_model": "clerk"}


def check(settings: dict[str, object]) -> None:
    """Check settings as the pipeline does that has such a parameter."""
    for pipeline in (interpret, sweep):
        if settings.keys() <= {name for of in pipeline.TAKES.values() for name in of.values()}:
            check_together(pipeline.TAKES, settings)
            return
    pytest.fail(f"no pipeline has the parameters {', '.join(settings)}")


def refusal(settings: dict[str, object]) -> str:
    with pytest.raises(ConfigError) as raised:
        check(settings)
    return str(raised.value)


@pytest.mark.parametrize("pipeline", pipeline_names())
def test_the_defaults_of_every_pipeline_pass(pipeline: str) -> None:
    loaded = load_pipeline(pipeline)
    check_settings(loaded, {name: each.default for name, each in signature(loaded).items()})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 3.0}, "keep: input should be less than or equal to 1, not 3.0."),
        ({"dtype": "float8"}, "dtype: input should be 'auto', 'float32', 'bfloat16' or 'float16', not 'float8'."),
        ({"quantization": "int3"}, "quantization: input should be 'none', 'int8' or 'nf4', not 'int3'."),
        ({"context_length": 3}, "context_length: input should be greater than or equal to 8, not 3."),
        ({"max_tokens": 0}, "max_tokens: input should be greater than or equal to 1, not 0."),
        ({"train_tokens": 0}, "train_tokens: input should be greater than or equal to 1, not 0."),
        ({"contexts": 5000}, "contexts: input should be less than or equal to 1000, not 5000."),
        ({"contexts": -1}, "contexts: input should be greater than or equal to 1, not -1."),
        ({"l1_coefficient": 2.0, "architecture": "gated"}, "l1_coefficient: input should be less than or equal to 1"),
    ],
)
def test_a_value_that_the_configuration_of_its_step_refuses_is_refused_by_name(
    settings: dict[str, object], message: str
) -> None:
    assert message in refusal(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_dead": 5.0}, "max_dead: input should be less than or equal to 1, not 5.0."),
        ({"min_explained_variance": 2.0}, "min_explained_variance: input should be less than or equal to 1, not 2.0."),
        ({"min_ce_recovered": -1.0}, "min_ce_recovered: input should be greater than or equal to 0, not -1.0."),
        ({"min_interpretable": -1}, "min_interpretable: input should be greater than or equal to 0, not -1."),
    ],
)
def test_a_limit_that_the_gate_refuses_is_refused_with_its_words(settings: dict[str, float], message: str) -> None:
    assert refusal(settings).startswith(message)
    with pytest.raises(ConfigError, match=refusal(settings)):
        given.check(steps.STEPS["gate"], settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"explainer": "foo"}, "There is no explainer 'foo': use program, max-activating, contrastive"),
        ({"explainer": "foo", **ENDPOINT}, "There is no explainer 'foo'"),
        ({"explainer": "program,program"}, "explainers names one twice"),
        ({"explainer": "contrastive"}, "The explainer contrastive needs a language model, and none is named"),
        ({"scorer": "foo"}, "There is no scorer 'foo': use program, detection, fuzzing"),
        ({"scorer": "detection,foo", **ENDPOINT}, "There is no scorer 'foo'"),
        ({"scorer": "detection"}, "The scorer detection needs a language model, and none is named"),
        ({"scorer": ""}, "scorer: list should have at least 1 item"),
        (
            {"explainer": "contrastive", **ENDPOINT},
            "scorer program runs programs, and explainer contrastive writes no",
        ),
        ({"judge_url": "localhost", "judge_model": "clerk"}, "base_url is 'localhost'"),
        ({"judge_url": "http://localhost:1/v1"}, "no name of a model there"),
        ({"judge_settings": "{concurrency: 32}"}, "judge_settings is not JSON"),
        ({"explain_only": "90-40"}, "only has the range 90-40, which ends before it begins: write 40-90"),
        ({"explain_only": "best:50"}, "only best:50 needs scores that there are before the run"),
        ({"explain_settings": '{"only": "unlabelled"}'}, "only unlabelled needs explanations that there are before"),
        ({"score_settings": '{"only": "best:50"}'}, "only best:50 needs scores that there are before the run"),
    ],
)
def test_who_explains_and_scores_is_known_and_has_the_language_model_it_asks(
    settings: dict[str, object], message: str
) -> None:
    assert message in refusal(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hook": "resid_post,mlp_out"}, "hook resid_post,mlp_out is more than one hook point"),
        ({"hook": "resid_post.0,resid_post.1"}, "run the steps capture and train by themselves"),
        ({"hook": "resid_past"}, "'resid_past' is not a hook point"),
        ({"hook": "resid_post.1", "layer": 2}, "layer 2 is for hook points that name no layer"),
        ({"layer": -2}, "layer -2 is out of range"),
    ],
)
def test_a_pipeline_captures_one_hook_point_that_train_finds_without_its_name(
    settings: dict[str, object], message: str
) -> None:
    assert message in refusal(settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"hook": "mlp_in.2"},
        {"hook": "mlp_in", "layer": 0},
        {"explainer": "program, contrastive", "scorer": "program,detection", **ENDPOINT, "judge_tokens": 1000},
        {"keep": 1.0, "dtype": "bfloat16"},
        {"max_dead": 0.0, "min_explained_variance": 1.0, "dtype": "bfloat16"},
        dict.fromkeys(("layer", "width", "k", "target_l0", "max_tokens", "context_length", "judge_tokens"), -1),
    ],
)
def test_values_at_the_ends_of_their_ranges_and_choices_left_to_the_steps_pass(settings: dict[str, object]) -> None:
    check(settings)


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_quantisation_is_refused_where_loading_the_model_would_refuse_it(
    quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mistudio.subject.devices.find_spec", lambda _name: object())
    check({"quantization": quantization})
    monkeypatch.setattr("mistudio.subject.devices.find_spec", lambda _name: None)
    with pytest.raises(SubjectError, match=rf"{quantization} needs bitsandbytes, which is not installed"):
        check({"quantization": quantization})


@pytest.mark.parametrize(("pipeline", "setting"), [("sweep", "keep=3.0"), ("interpret", "max_dead=5")])
def test_the_run_command_refuses_before_anything_runs(
    pipeline: str, setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mistudio.runs.local.new_folder", lambda *_: pytest.fail("the pipeline was to be run"))
    done = CliRunner().invoke(app, ["run", pipeline, "--set", setting, "--store", str(tmp_path)])
    assert isinstance(done.exception, ConfigError)
    assert setting.partition("=")[0] in str(done.exception)
