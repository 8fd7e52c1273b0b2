"""Stability and probing as steps of plain values, through the command line, and their plots, in MLflow too."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from mistudio import steps
from mistudio.artifacts import Store, open_store
from mistudio.cli import app
from mistudio.errors import ConfigError, InputError
from mistudio.steps import measuring
from tests.support.dictionaries import dictionary, published
from tests.support.tiny import tiny_documents, tiny_llama


@pytest.fixture(autouse=True)
def _untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_TRACKING", "off")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(str(tmp_path_factory.mktemp("quality") / "store"))


@pytest.fixture(scope="module")
def two(store: Store) -> str:
    return ", ".join(published(store, dictionary(seed)).uri for seed in (0, 1))


class Figures:
    """Keeps the figures that a step would log."""

    def __init__(self) -> None:
        self.logged: dict[str, Any] = {}

    def log_figure(self, figure: Any, name: str) -> None:
        self.logged[name] = figure


def png_files(store: Store, step: str, folder: Path) -> set[str]:
    """Names of the images that a real MLflow has of the only run of a step."""
    tracking = pytest.importorskip("mlflow.tracking")
    client = tracking.MlflowClient(f"sqlite:///{store.url}/.mistudio/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("mistudio").experiment_id])
    (run,) = (run for run in runs if run.data.tags["mistudio.step"] == step)
    assert run.info.status == "FINISHED"
    paths = [
        Path(client.download_artifacts(run.info.run_id, file.path, str(folder)))
        for file in client.list_artifacts(run.info.run_id)
    ]
    return {path.name for path in paths if path.read_bytes().startswith(b"\x89PNG")}


def test_stability_is_measured_once_and_found_after(store: Store, two: str) -> None:
    first = steps.run_step("stability", saes=two, store=store.url)
    again = steps.run_step("stability", saes=two, store=store.url)
    assert (first.found, again.found) == (False, True)
    assert first.artifact.uri == again.artifact.uri
    assert first.artifact.uri.startswith("stability/")
    assert first.metrics()["control.random_max_cosine"] > 0
    figures = Figures()
    measuring._plot_stability(first.artifact, figures)
    assert list(figures.logged) == ["stability.png"]


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_the_plot_of_stability_is_with_its_run_in_mlflow(
    store: Store, two: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTUDIO_TRACKING", "on")
    steps.run_step("stability", saes=two, found_above=0.6, store=store.url)
    assert png_files(store, "stability", tmp_path) == {"stability.png"}


def test_stability_refuses_one_autoencoder_and_other_kinds(store: Store, two: str) -> None:
    one = two.split(",")[0]
    with pytest.raises(InputError, match="two or more autoencoders, not 1"):
        steps.run_step("stability", saes=one, store=store.url)
    found = steps.run_step("stability", saes=two, store=store.url).artifact.uri
    with pytest.raises(InputError, match="kind sae is needed"):
        steps.run_step("stability", saes=f"{one},{found}", store=store.url)
    with pytest.raises(ConfigError, match="found_above"):
        steps.run_step("stability", saes=two, found_above=1.5, store=store.url)


def test_stability_is_a_command(store: Store, two: str) -> None:
    result = CliRunner().invoke(app, ["stability", "--saes", two, "--store", store.url, "--json"])
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert shown["step"] == "stability"
    assert shown["pairs"] == 1
    help_text = CliRunner().invoke(app, ["stability", "--help"]).output
    assert "sae/0123456789abcdef,sae/" in help_text.replace("\n", "")


class Prepared(NamedTuple):
    """What a probe is asked with."""

    store: Store
    model: str
    corpus: str
    sae: str


@pytest.fixture(scope="module")
def prepared(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("probe")
    tiny_llama(folder / "model")
    text = folder / "text.jsonl"
    text.write_text("".join(json.dumps(document) + "\n" for document in tiny_documents(150)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTUDIO_TRACKING", "off")
        corpus = steps.run_step(
            "ingest",
            model=str(folder / "model"),
            corpus=str(text),
            context_length=24,
            held_out_fraction=0.4,
            store=store.url,
        )
    sae = published(store, dictionary()[:, :32])
    return Prepared(store, str(folder / "model"), corpus.artifact.uri, sae.uri)


def test_probing_is_done_once_found_after_and_plotted(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mistudio.evaluate.probing.check_subject", lambda *_: None)  # rows that no model made
    values = {"model": prepared.model, "min_documents": 5, "max_documents": 60, "store": prepared.store.url}
    first = steps.run_step("probe", sae=prepared.sae, corpus=prepared.corpus, **values)
    again = steps.run_step("probe", sae=prepared.sae, corpus=prepared.corpus, **values)
    assert (first.found, again.found) == (False, True)
    assert first.artifact.uri.startswith("probing/")
    assert first.metrics()["problems"] == 3  # story, code and list
    assert {"k1_auroc", "k16_auroc", "dense_auroc", "control.random_k2_auroc"} <= first.metrics().keys()
    figures = Figures()
    measuring._plot_probing(first.artifact, figures)
    assert list(figures.logged) == ["probing_accuracy.png", "probing_balanced_accuracy.png", "probing_auroc.png"]


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_the_plots_of_probing_are_with_its_run_in_mlflow(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mistudio.evaluate.probing.check_subject", lambda *_: None)  # rows that no model made
    monkeypatch.setenv("MISTUDIO_TRACKING", "on")
    values = {"model": prepared.model, "min_documents": 5, "max_documents": 50, "store": prepared.store.url}
    steps.run_step("probe", sae=prepared.sae, corpus=prepared.corpus, **values)
    names = {"probing_accuracy.png", "probing_balanced_accuracy.png", "probing_auroc.png"}
    assert png_files(prepared.store, "probe", tmp_path) == names


def test_probing_refuses_what_no_configuration_takes(prepared: Prepared) -> None:
    with pytest.raises(ConfigError, match=r"pool: .*'mean' or 'max'.*'median'"):
        steps.run_step(
            "probe",
            sae=prepared.sae,
            corpus=prepared.corpus,
            model=prepared.model,
            pool="median",
            store=prepared.store.url,
        )
    with pytest.raises(ConfigError, match="labels"):
        steps.run_step(
            "probe",
            sae=prepared.sae,
            corpus=prepared.corpus,
            model=prepared.model,
            labels="colour",
            store=prepared.store.url,
        )
