"""What MLflow is told of what was made: names that tell runs apart, datasets, the autoencoder, the figures."""

import shutil
from pathlib import Path

import pytest

from mistudio.artifacts import Artifact, InputRef, Recipe, Store, open_artifact, open_store, produce
from mistudio.steps.figures import autoencoder, datasets, description, headlines
from mistudio.steps.naming import facts, finished_title, model_name, pipeline_title, step_title
from tests.support.fake_sweep import jumprelu, publish_evaluation, topk


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def autoencoder_of(evaluation: Artifact) -> Artifact:
    return open_artifact(evaluation.store, evaluation.manifest.inputs["sae"].uri)


def test_runs_are_named_by_model_hook_architecture_width_sparsity_and_seed(store: Store) -> None:
    evaluation = publish_evaluation(store, topk(16), seed=3)
    sae = autoencoder_of(evaluation)
    assert finished_title("interpret", facts(sae), 1) == "stories260K resid_post.2 topk width 1024 k16 seed 3"
    assert step_title("train", sae) == "train topk width 1024 k16 seed 3"
    assert step_title("evaluate", evaluation) == "evaluate topk width 1024 k16 seed 3"
    assert finished_title("sweep", facts(sae), 4) == "sweep stories260K resid_post.2 4 autoencoders"
    other = publish_evaluation(store, jumprelu(8.0))
    assert facts(other)["sparsity"] == "target L0 8"


def test_what_is_gone_from_the_store_leaves_names_shorter(store: Store, tmp_path: Path) -> None:
    evaluation = publish_evaluation(store, topk(16))
    shutil.rmtree(tmp_path / "store" / "activations")
    assert facts(evaluation) == {}
    assert step_title("evaluate", evaluation) == "evaluate"


@pytest.mark.parametrize(
    ("values", "title"),
    [
        (
            {"model": "demo", "architecture": "topk", "k": 32, "width": -1, "seed": 0, "hook": ""},
            "demo topk k32 seed 0",
        ),
        ({"model": "/models/tiny", "architecture": "jumprelu", "k": -1, "seed": 1}, "tiny jumprelu seed 1"),
        ({"architectures": "topk,gated", "sparsities": "8,16", "seeds": "0"}, "topk,gated sparsity 8,16 seed 0"),
    ],
)
def test_until_then_by_what_was_asked_for(values: dict[str, object], title: str) -> None:
    assert pipeline_title("run", values) == f"run {title}"


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("folder:stories260K", "stories260K"),
        ("file:/models/tiny.gguf", "tiny.gguf"),
        ("hub:openai-community/gpt2@0123abc", "gpt2"),
        ("subject/0123456789abcdef", "subject/0123456789abcdef"),
    ],
)
def test_models_are_called_by_their_last_name(store: Store, uri: str, name: str) -> None:
    assert model_name(store, InputRef(uri=uri, digest="0" * 64)) == name


def test_an_autoencoder_is_told_with_settings_lineage_and_manifest(store: Store) -> None:
    sae = autoencoder_of(publish_evaluation(store, topk(16)))
    model = autoencoder(sae)
    assert model is not None
    assert (model.uri, model.digest) == (sae.uri, sae.digest)
    assert model.params["sparsity"] == "k16"
    assert model.tags["subject.uri"] == "folder:stories260K"
    assert model.tags["activations.digest"] == sae.manifest.inputs["activations"].digest
    assert b'"kind":"mistudio.sae/3"' in model.manifest


def test_corpus_and_activations_are_datasets_of_what_was_made_from_them(store: Store) -> None:
    corpus = produce(
        store,
        Recipe(kind="corpus", config={}, inputs={"source": InputRef(uri="file:/data/stories.jsonl", digest="1" * 64)}),
        "ingest",
        lambda _: {"tokens": 1000},
    ).artifact
    activations = produce(
        store,
        Recipe(
            kind="activations",
            config={"hooks": ["resid_post.2"]},
            inputs={"corpus": corpus.ref, "subject": InputRef(uri="folder:tiny", digest="2" * 64)},
        ),
        "capture",
        lambda _: {"tokens": 1000},
    ).artifact
    assert [(each.name, each.context) for each in datasets(activations)] == [("stories.jsonl", "training")]
    sae = produce(
        store, Recipe(kind="sae", config={}, inputs={"activations": activations.ref}), "train", lambda _: {}
    ).artifact
    found = {each.name: (each.digest, each.uri) for each in datasets(sae)}
    assert found == {
        "stories.jsonl": (corpus.digest, corpus.uri),
        "tiny resid_post.2": (activations.digest, activations.uri),
    }
    assert datasets(corpus) == []


def test_a_description_has_the_figures_and_no_markup_from_data(store: Store) -> None:
    made = produce(
        store,
        Recipe(kind="probing", config={}),
        "probe",
        lambda _: {"best": "<b>|x|</b>", "tokens": 12_345, "f1": 0.123456},
    ).artifact
    text = description("probe", made)
    assert "| tokens | 12,345 |" in text
    assert "| f1 | 0.1235 |" in text
    assert r"\<b\>\|x\|\</b\>" in text


def test_headlines_are_the_figures_that_runs_are_compared_by() -> None:
    summary = {"ce_recovered": 0.9, "l0": None, "control.random_ce_recovered": 0.1}
    assert headlines("evaluate", summary) == {"ce_recovered": 0.9}
    assert headlines("train", summary) == {}
