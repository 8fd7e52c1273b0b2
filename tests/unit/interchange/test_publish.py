"""Import publishes what the rest of the platform opens; export gives it back."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mistudio.activations import ActivationReader, CaptureConfig, capture
from mistudio.artifacts import Artifact, Store, open_artifact
from mistudio.cli import app
from mistudio.errors import ConfigError, InputError, NotFound
from mistudio.interchange import FORMATS, export_sae, import_sae
from mistudio.sae import activation_std_of, hook_of, load_autoencoder, new_autoencoder
from mistudio.subject import SubjectConfig
from mistudio.train import TrainConfig, train
from tests.support.naive_sae import small_config
from tests.support.synthetic import HOOK, plant, publish_activations
from tests.support.tiny import MLP_WIDTH, WIDTH, tiny_corpus, tiny_llama
from tests.unit.interchange.samples import assert_same, make


@pytest.fixture
def activations(store: Store) -> Artifact:
    return publish_activations(store, plant(1_500, width=12).acts_ND)


@pytest.mark.parametrize("form", FORMATS)
def test_a_trained_autoencoder_goes_out_and_comes_back(
    form: str, store: Store, activations: Artifact, tmp_path: Path
) -> None:
    architecture = small_config("jumprelu" if form == "gemma_scope" else "topk")
    config = TrainConfig(hook=HOOK, sae=architecture, tokens=3_000, batch_size=128)
    trained = train(store, activations, config).artifact
    paths = export_sae(trained, tmp_path / "out", form)
    assert all(path.is_file() for path in paths)
    hook = HOOK if form in ("sparsify", "gemma_scope") else None
    back = import_sae(store, tmp_path / "out", form, activations, hook).artifact
    assert (back.manifest.short_kind, hook_of(back)) == ("sae", HOOK)
    assert back.manifest.inputs == {"activations": activations.ref}
    assert activation_std_of(back) == pytest.approx(activation_std_of(trained), rel=0.02)
    assert back.manifest.summary["sample_fvu"] == pytest.approx(trained.manifest.summary["train_fvu"], rel=0.3)
    x_TD = plant(50, width=12, seed=4).acts_ND
    torch.testing.assert_close(
        load_autoencoder(back).reconstruct(x_TD), load_autoencoder(trained).reconstruct(x_TD), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("ratio", [None, 1.5])
def test_an_export_says_that_it_cannot_hold_a_norm_limit_and_an_import_has_none(
    ratio: float | None, store: Store, activations: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = TrainConfig(hook=HOOK, sae=small_config("topk"), tokens=256, batch_size=128, max_norm_ratio=ratio)
    export_sae(train(store, activations, config).artifact, tmp_path / "out", "saelens")
    assert ("norm limit" in caplog.text) is (ratio is not None)
    back = import_sae(store, tmp_path / "out", "saelens", activations).artifact
    assert load_autoencoder(back).norm_limit is None


def test_the_same_import_is_found_and_other_weights_are_another_artifact(
    store: Store, activations: Artifact, tmp_path: Path
) -> None:
    sae = make("topk")
    FORMATS["saelens"].write(sae, tmp_path / "a", HOOK, None)
    first = import_sae(store, tmp_path / "a", "saelens", activations)
    assert import_sae(store, tmp_path / "a", "saelens", activations).found
    assert_same(sae, load_autoencoder(first.artifact))
    sae.b_dec.add_(1)
    FORMATS["saelens"].write(sae, tmp_path / "b", HOOK, None)
    assert import_sae(store, tmp_path / "b", "saelens", activations).artifact.uri != first.artifact.uri


def test_reconstructions_that_are_not_finite_are_refused(store: Store, tmp_path: Path) -> None:
    sae = make("gated")
    sae.W_enc.fill_(9e8)
    sae.r_mag.fill_(20.0)
    sae.W_dec.fill_(9e8)
    FORMATS["saelens"].write(sae, tmp_path / "in", HOOK, None)
    captured = publish_activations(store, plant(300, width=12).acts_ND.abs() * 1e4)
    with pytest.raises(InputError, match="reconstructions are not finite"):
        import_sae(store, tmp_path / "in", "saelens", captured)
    assert not list(store.list("sae"))


def test_an_autoencoder_of_another_width_or_hook_point_is_refused(store: Store, tmp_path: Path) -> None:
    FORMATS["saelens"].write(make("topk"), tmp_path / "in", HOOK, None)
    wider = publish_activations(store, plant(300, width=16).acts_ND)
    with pytest.raises(ConfigError, match=rf"12 wide where {wider.uri} has 16 at resid_post\.1"):
        import_sae(store, tmp_path / "in", "saelens", wider)
    with pytest.raises(InputError, match=r"no activations of mlp_out\.2"):
        import_sae(store, tmp_path / "in", "saelens", wider, "mlp_out.2")
    assert not list(store.list("sae"))


def test_a_format_a_folder_or_a_hook_point_that_is_not_known_is_refused(
    store: Store, activations: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="'pickle' is unknown: use one of saelens"):
        import_sae(store, tmp_path, "pickle", activations)
    with pytest.raises(ConfigError, match="use one of saelens, sparsify, gemma_scope, dictionary_learning.$"):
        import_sae(store, tmp_path, "onnx", activations)
    with pytest.raises(NotFound, match="no folder"):
        import_sae(store, tmp_path / "nowhere", "saelens", activations)
    FORMATS["sparsify"].write(make("topk"), tmp_path / "in", HOOK, None)
    with pytest.raises(ConfigError, match="does not say which hook point"):
        import_sae(store, tmp_path / "in", "sparsify", activations)


def test_an_export_in_an_unknown_format_is_refused_with_all_that_there_are(
    store: Store, activations: Artifact, tmp_path: Path
) -> None:
    FORMATS["saelens"].write(make("topk"), tmp_path / "in", HOOK, None)
    artifact = import_sae(store, tmp_path / "in", "saelens", activations).artifact
    all_of_them = "'foo' is unknown: use one of saelens, sparsify, gemma_scope, dictionary_learning, onnx.$"
    for features in ((), (1,)):
        with pytest.raises(ConfigError, match=all_of_them):
            export_sae(artifact, tmp_path / "out", "foo", features)
    assert not (tmp_path / "out").exists()


def test_where_only_held_out_activations_are_stored_the_sample_is_of_them(store: Store, tmp_path: Path) -> None:
    source = tiny_llama(tmp_path / "model")
    corpus = tiny_corpus(store, source, tmp_path / "text", num_documents=30)
    config = CaptureConfig(hooks=(HOOK, "mlp_act.1"), stored="heldout")
    captured = capture(store, corpus, source, SubjectConfig(device="cpu"), config).artifact
    shutil.rmtree(tmp_path / "model")  # the command has no model to name, and needs none
    sae = new_autoencoder(small_config("standard"), WIDTH, MLP_WIDTH)
    x_ND, y_NE = (ActivationReader(captured, hook, "heldout") for hook in config.hooks)
    x_ND, y_NE = (rows.acts(0, len(rows)).float() for rows in (x_ND, y_NE))
    sae.for_training().initialise(x_ND, torch.Generator().manual_seed(0), y_NE.mean(dim=0))
    FORMATS["saelens"].write(sae, tmp_path / "in", HOOK, "mlp_act.1")
    options = ["--from", "saelens", "--activations", captured.uri, "--store", store.url]
    done = CliRunner().invoke(app, ["import", "sae", str(tmp_path / "in"), *options])
    assert done.exit_code == 0, done.output
    imported = open_artifact(store, done.stdout.split()[1].rstrip(":"), "sae")
    left = (y_NE - sae.reconstruct(x_ND)).square().sum() / (y_NE - y_NE.mean(dim=0)).square().sum()
    assert imported.manifest.summary["sample_fvu"] == pytest.approx(float(left), rel=0.05)
    assert activation_std_of(imported) == pytest.approx(float(y_NE.var(dim=0, correction=0).mean().sqrt()), rel=0.05)


def test_an_autoencoder_that_does_not_fit_the_activations_is_warned_of(
    store: Store, activations: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    FORMATS["saelens"].write(make("standard"), tmp_path, HOOK, None)
    with caplog.at_level(logging.WARNING):
        artifact = import_sae(store, tmp_path, "saelens", activations).artifact
    assert float(str(artifact.manifest.summary["sample_fvu"])) > 1
    assert "worse than their mean" in caplog.text


def test_the_commands_import_and_export_and_never_overwrite(
    store: Store, activations: Artifact, tmp_path: Path
) -> None:
    FORMATS["saelens"].write(make("batchtopk"), tmp_path / "in", HOOK, None)
    runner = CliRunner()
    options = ["saelens", "--store", store.url]
    source = str(tmp_path / "in")
    done = runner.invoke(app, ["import", "sae", source, "--activations", activations.uri, "--from", *options])
    assert done.exit_code == 0, done.output
    uri = done.stdout.split()[1].rstrip(":")
    assert done.stdout.startswith(f"Imported {uri}: jumprelu of width 64 at {HOOK}")
    out = tmp_path / "out"
    assert runner.invoke(app, ["export", "sae", uri, str(out), "--to", *options]).exit_code == 0
    assert_same(make("batchtopk"), FORMATS["saelens"].read(out).sae)
    again = runner.invoke(app, ["export", "sae", uri, str(out), "--to", *options])
    assert isinstance(again.exception, ConfigError)
    assert "already has cfg.json" in str(again.exception)


@pytest.mark.parametrize("command", ["import", "export"])
def test_help_shows_an_example(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "sae", "--help"]).output
    assert f"mistudio {command} sae" in shown


def test_chosen_latents_are_refused_where_they_mean_nothing(
    store: Store, activations: Artifact, tmp_path: Path
) -> None:
    FORMATS["saelens"].write(make("topk"), tmp_path / "in", HOOK, None)
    artifact = import_sae(store, tmp_path / "in", "saelens", activations).artifact
    with pytest.raises(ConfigError, match="format onnx alone, not saelens"):
        export_sae(artifact, tmp_path / "out", "saelens", [1])
    options = ["--to", "onnx", "--store", store.url, "--features"]
    for features, reason in (("1,x", "are not numbers of latents"), ("64", "no latent 64")):
        done = CliRunner().invoke(app, ["export", "sae", artifact.uri, str(tmp_path / "out"), *options, features])
        assert isinstance(done.exception, ConfigError)
        assert reason in str(done.exception)
    assert not (tmp_path / "out").exists()
