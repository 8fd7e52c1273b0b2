"""The commands validate-model, check-memory and gpu."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from mistudio.cli.subject import register
from mistudio.errors import ConfigError, SubjectError
from mistudio.subject import resolve_source


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MISTUDIO_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "120")
    app = typer.Typer()
    register(app)

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments)

    return invoke


def test_validate_model_says_what_a_model_is(run, model_folder: Path) -> None:
    result = run("validate-model", str(model_folder), "--device", "cpu", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (report["architecture"], report["num_layers"], report["d_model"]) == ("LlamaForCausalLM", 3, 32)
    assert (report["dtype_on_disk"], report["dtype"]) == ("F32", "float32")
    kinds = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_in", "mlp_out", "mlp_act")
    assert report["hook_points"] == [f"{kind}.1" for kind in kinds]
    assert report["digest"] == resolve_source(str(model_folder)).digest


def test_validate_model_prints_a_table(run, model_folder: Path) -> None:
    result = run("validate-model", str(model_folder), "--device", "cpu")
    assert result.exit_code == 0
    for words in ("LlamaForCausalLM", "resid_mid.1", "vocabulary", "dtype on disk"):
        assert words in result.stdout


def test_validate_model_refuses_the_tokenizer_of_another_model(run, model_folder: Path) -> None:
    from tests.support.families import CAUSAL, build_model

    assert CAUSAL["llama"]().vocab_size == 61
    build_model("llama").save_pretrained(model_folder)
    result = run("validate-model", str(model_folder))
    assert isinstance(result.exception, SubjectError)
    assert "tokenizer of another model" in str(result.exception)


def test_validate_model_refuses_weights_that_give_no_finite_logits(run, model_folder: Path) -> None:
    import transformers as tf

    model = tf.AutoModelForCausalLM.from_pretrained(model_folder)
    model.model.norm.weight.data[3] = float("nan")
    model.save_pretrained(model_folder)
    result = run("validate-model", str(model_folder))
    assert isinstance(result.exception, SubjectError)
    assert "logits that are not finite" in str(result.exception)


def test_check_memory_exits_with_0_when_it_fits(run, model_folder: Path) -> None:
    arguments = ("check-memory", str(model_folder), "--context-length", "64", "--width", "128", "--device", "cpu")
    result = run(*arguments)
    assert result.exit_code == 0
    for words in ("subject weights", "autoencoder optimizer state", "evaluate", "128 features", "nf4", "It fits with"):
        assert words in result.stdout


def test_check_memory_exits_with_2_and_a_reason_when_it_does_not(run, model_folder: Path) -> None:
    arguments = (
        "check-memory",
        str(model_folder),
        "--context-length",
        "64",
        "--device",
        "cpu",
        "--budget-gb",
        "0.0001",
    )
    result = run(*arguments)
    assert result.exit_code == 2
    assert "the budget is 100.0 kB" in result.stderr
    as_json = run(*arguments, "--json")
    assert as_json.exit_code == 2
    assert json.loads(as_json.stdout)["fits"] is False


def test_check_memory_breaks_no_word_at_80_columns(run, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mistudio.steps.memory import PART_NAMES

    monkeypatch.setenv("COLUMNS", "80")
    shown = run("check-memory", str(model_folder), "--device", "cpu").stdout
    assert max(map(len, shown.splitlines())) <= 80
    words = {word for name in PART_NAMES.values() for word in name.split()}
    assert words | {"capture", "evaluate", "MB"} <= set(shown.split())


def test_check_memory_takes_what_the_steps_choose_for_the_model(run, model_folder: Path) -> None:
    estimate = json.loads(run("check-memory", str(model_folder), "--device", "cpu", "--json").stdout)
    positions = json.loads((model_folder / "config.json").read_text())["max_position_embeddings"]
    assert estimate["width"] == 1024  # 8 x 32 is below the least
    assert estimate["asked"]["context_length"] == min(positions, 512)
    explicit = ("--width", "1024", "--context-length", str(min(positions, 512)), "--active", "8")
    given = json.loads(run("check-memory", str(model_folder), "--device", "cpu", "--json", *explicit).stdout)
    assert given["parts"] == estimate["parts"]


def test_check_memory_reads_no_weights(run, model_folder: Path) -> None:
    (model_folder / "model.safetensors").unlink()
    assert run("check-memory", str(model_folder), "--context-length", "64", "--json").exit_code == 0


def test_a_layer_that_does_not_exist_is_refused(run, model_folder: Path) -> None:
    result = run("check-memory", str(model_folder), "--layer", "3", "--context-length", "64")
    assert isinstance(result.exception, SubjectError)
    assert "0 to 2" in str(result.exception)


def test_a_device_that_is_none_is_refused_as_a_parameter(run, model_folder: Path) -> None:
    result = run("validate-model", str(model_folder), "--device", "tpu")
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == "device is 'tpu'; use auto, cpu, cuda or cuda:N."


def test_gpu_lists_what_there_is(run) -> None:
    listed = json.loads(run("gpu", "--json").stdout)
    assert len(listed) == torch.cuda.device_count()
    if not listed:
        assert "no GPU" in run("gpu").stdout


@pytest.mark.parametrize("command", ["validate-model", "check-memory", "gpu"])
def test_help_shows_an_example(command: str, run) -> None:
    assert f"mistudio {command}" in run(command, "--help").stdout


def test_help_does_not_wait_for_heavy_libraries() -> None:
    code = (
        "import sys, mistudio.cli.subject; sys.exit(bool({'torch', 'transformers', 'accelerate'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
