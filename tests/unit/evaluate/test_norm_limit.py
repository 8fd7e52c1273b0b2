"""The tokens that training left out are left out, and counted, in all that follows; without a limit none are."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mistudio.activations import OUTLIER_RATIO, ActivationReader, CaptureConfig, capture
from mistudio.artifacts import Artifact, open_store
from mistudio.corpus.reader import TokenCorpus
from mistudio.errors import InputError
from mistudio.evaluate import METRICS_NAME, EvaluateConfig, evaluate
from mistudio.evaluate.reconstruction import measure_reconstruction
from mistudio.explain import explain
from mistudio.explain.firings import captured_sequences, read_firings
from mistudio.explain.tokens import draw_sequences, read_tokens
from mistudio.find import FindConfig, find_features
from mistudio.instrument import open_session
from mistudio.report.metrics import FILTERED_METRICS, read_metrics
from mistudio.sae import NormLimit, SparseAutoencoder, TopKConfig, load_autoencoder, new_autoencoder
from mistudio.sae.files import WEIGHTS_NAME
from mistudio.score import ScoreConfig, score
from mistudio.subject import SubjectSource, load_subject, load_tokenizer, resolve_source, token_strings
from mistudio.train import TrainConfig, train
from tests.support.synthetic import HOOK as PLANTED
from tests.support.synthetic import plant, publish_activations
from tests.support.tiny import tiny_corpus, tiny_documents, tiny_llama
from tests.support.tiny_run import CPU, HOOK, TinyRun

SINK = " cat"
SINK_EVERY = 8  # the first token of each sequence


class Direct(NamedTuple):
    """Figures of rows at once."""

    kept_N: Tensor
    explained_variance: float
    explained_variance_all: float
    l0: float


def direct(sae: SparseAutoencoder, rows_ND: Tensor) -> Direct:
    assert sae.norm_limit is not None
    distance_N = (rows_ND.double() - sae.norm_limit.centre_D.double()).norm(dim=1)
    kept_N = distance_N <= sae.norm_limit.distance
    active = sae.encode_active(rows_ND, beyond_limit=True)
    rebuilt_ND = sae.decode_active(active, len(rows_ND)).double()

    def explained(which_N: Tensor) -> float:
        x_ND = rows_ND.double()[which_N]
        error = (x_ND - rebuilt_ND[which_N]).square().sum()
        return 1 - float(error / (x_ND - x_ND.mean(dim=0)).square().sum())

    l0 = float(kept_N[active.token_A].sum() / kept_N.sum())
    return Direct(kept_N, explained(kept_N), explained(torch.ones_like(kept_N)), l0)


def rows_of(run: TinyRun, split: str) -> Tensor:
    reader = ActivationReader(run.activations, HOOK, split)
    return reader.acts(0, len(reader)).float()


@pytest.fixture(scope="module")
def trained(llama: TinyRun) -> Artifact:
    """Trained once over all rows, without those that lie far out."""
    rows = len(ActivationReader(llama.activations, HOOK, "train"))
    config = TrainConfig(
        hook=HOOK, sae=TopKConfig(width=64, k=4), tokens=rows, batch_size=256, patience=0, max_norm_ratio=1.1
    )
    return train(llama.store, llama.activations, config).artifact


@pytest.mark.parametrize("normalisation", ["centred", "unit_mean_square"])
def test_an_attention_sink_spoils_neither_training_nor_its_figures(tmp_path: Path, normalisation: str) -> None:
    rows_ND = plant(4_000, width=16).acts_ND
    rows_ND[::SINK_EVERY] *= 100
    store = open_store(str(tmp_path))
    activations = publish_activations(store, rows_ND, rows_ND[:1_200])
    settings = {"tokens": 32_000, "batch_size": 250, "patience": 0, "normalisation": normalisation}
    config = TrainConfig(hook=PLANTED, sae=TopKConfig(width=64, k=4), max_norm_ratio=10, **settings)
    artifact = train(store, activations, config).artifact
    summary = artifact.manifest.summary
    assert summary["filtered_fraction"] == 1 / SINK_EVERY
    assert summary["filtered_tokens"] == 32_000 // SINK_EVERY
    sae, reader = load_autoencoder(artifact), ActivationReader(activations, PLANTED, "heldout")
    measured = measure_reconstruction(sae, reader, None, torch.device("cpu"))
    expected = direct(sae, reader.acts(0, len(reader)).float())
    assert (measured.tokens, measured.filtered_tokens) == (1_050, 150)
    assert 1 - measured.fvu == pytest.approx(expected.explained_variance)
    assert 1 - measured.fvu > 0.6
    assert measured.fvu == pytest.approx(summary["train_fvu"], abs=0.1)
    assert measured.l0 == pytest.approx(expected.l0)
    assert 1 - measured.fvu_all == pytest.approx(expected.explained_variance_all)


def test_training_evaluation_search_and_firings_leave_out_the_same_tokens(llama: TinyRun, trained: Artifact) -> None:
    sae = load_autoencoder(trained)
    train_ND, heldout_ND = (rows_of(llama, split) for split in ("train", "heldout"))
    filtered = int((~direct(sae, train_ND).kept_N).sum())
    assert 0 < filtered < len(train_ND) // 2
    counts = {"tokens": len(train_ND) - filtered, "filtered_tokens": filtered}
    counts["filtered_fraction"] = round(filtered / len(train_ND), 6)
    found = find_features(llama.store, trained, llama.source, CPU, FindConfig(map=False)).artifact
    for artifact in (trained, found):
        assert counts.items() <= artifact.manifest.summary.items()
    assert json.loads(found.file("find.json").read_bytes())["num_tokens"] == counts["tokens"]

    evaluation = evaluate(llama.store, trained, llama.source, CPU, EvaluateConfig(ce_tokens=10**9)).artifact
    metrics = json.loads(evaluation.file(METRICS_NAME).read_bytes())
    expected = direct(sae, heldout_ND)
    beyond = int((~expected.kept_N).sum())
    assert metrics["tokens"] == len(heldout_ND) - beyond
    assert metrics["filtered_tokens"] == beyond > 0
    # In the model activations are not rounded to float16, as they are where they are stored.
    assert metrics["ce_filtered_tokens"] == pytest.approx(beyond, abs=2)
    for name in ("explained_variance", "explained_variance_all", "l0"):
        assert metrics[name] == pytest.approx(getattr(expected, name), rel=1e-4)
    assert metrics["control.random_explained_variance"] < metrics["explained_variance"]
    assert {metric.key for metric in FILTERED_METRICS} & metrics.keys() <= read_metrics(evaluation).keys()

    corpus, reader = TokenCorpus(llama.corpus), ActivationReader(llama.activations, HOOK, "heldout")
    sequences = draw_sequences(corpus, "heldout", captured_sequences(reader), 10**9, 0)
    tokens = read_tokens(corpus, "heldout", sequences, token_strings(load_tokenizer(llama.source)))
    firings = read_firings(reader, sae, tokens)
    assert firings.filtered() == {"filtered_tokens": beyond}
    silent_N = np.ones(len(tokens), dtype=bool)
    silent_N[firings.token_A] = False
    assert silent_N.sum() >= beyond


@pytest.fixture(scope="module")
def with_sink(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A model one of whose tokens is a hundred times as long as all others, wherever it stands."""
    folder = tmp_path_factory.mktemp("sink")
    store = open_store(str(folder / "store"))
    source = tiny_llama(folder / "model")
    corpus = tiny_corpus(store, source, folder / "text")
    path = Path(source.path) / "model.safetensors"
    weights = load_file(path)
    weights["model.embed_tokens.weight"][_sink_id(source)] *= 100
    save_file(weights, path, metadata={"format": "pt"})
    source = resolve_source(str(source.path))
    activations = capture(store, corpus, source, CPU, CaptureConfig(hooks=(HOOK,))).artifact
    return TinyRun(store, source, corpus, activations, load_subject(source, CPU))


def _sink_id(source: SubjectSource) -> int:
    return token_strings(load_tokenizer(source)).index(SINK)


def test_by_default_every_step_leaves_out_the_same_outliers_and_counts_them(with_sink: TinyRun) -> None:
    run, sink_id, corpus = with_sink, _sink_id(with_sink.source), TokenCorpus(with_sink.corpus)
    num_sinks = {
        split: sum(
            int((corpus.sequence(split, number).token_ids == sink_id).sum())
            for number in range(len(corpus.lengths(split)))
        )
        for split in ("train", "heldout")
    }
    assert min(num_sinks.values()) > 0
    rows = len(ActivationReader(run.activations, HOOK, "train"))
    sae = train(
        run.store, run.activations, TrainConfig(hook=HOOK, sae=TopKConfig(width=64, k=4), tokens=rows, batch_size=256)
    ).artifact
    features = find_features(run.store, sae, run.source, CPU, FindConfig(map=False)).artifact
    explanations = explain(run.store, features, run.source, CPU).artifact
    scores = score(run.store, explanations, run.source, CPU, ScoreConfig(scorers=("program",))).artifact
    evaluation = evaluate(run.store, sae, run.source, CPU, EvaluateConfig(ce_tokens=10**9)).artifact
    for artifact, split in ((sae, "train"), (features, "train"), (explanations, "train"), (scores, "heldout")):
        assert artifact.manifest.summary["filtered_tokens"] == num_sinks[split], artifact.uri
    metrics = evaluation.manifest.summary
    assert metrics["filtered_tokens"] == metrics["ce_filtered_tokens"] == num_sinks["heldout"]
    assert metrics["explained_variance_all"] != pytest.approx(metrics["explained_variance"], abs=0.01)
    with open_session(sae, run.source, CPU) as session:
        for reading in session.read([document["text"] for document in tiny_documents(4)], [0]):
            assert reading.beyond_T.tolist() == [token == sink_id for token in reading.tokens.token_ids]


def test_of_an_autoencoder_without_a_limit_the_figures_are_told_with_and_without_outliers(with_sink: TinyRun) -> None:
    settings = {"tokens": 2048, "batch_size": 256, "max_norm_ratio": None}
    config = TrainConfig(hook=HOOK, sae=TopKConfig(width=64, k=4), **settings)
    artifact = train(with_sink.store, with_sink.activations, config).artifact
    assert load_autoencoder(artifact).norm_limit is None
    assert "filtered_fraction" not in artifact.manifest.summary
    evaluation = evaluate(
        with_sink.store, artifact, with_sink.source, CPU, EvaluateConfig(ce_tokens=100, control=False)
    ).artifact
    metrics, rows_ND = read_metrics(evaluation), rows_of(with_sink, "heldout")
    sae = load_autoencoder(artifact)
    sae.norm_limit = NormLimit.measured(rows_ND, OUTLIER_RATIO)
    expected = direct(sae, rows_ND)
    assert metrics["outlier_tokens"] == int((~expected.kept_N).sum()) > 0
    assert metrics["outlier_fraction"] == pytest.approx(float((~expected.kept_N).double().mean()))
    assert metrics["explained_variance"] == metrics["explained_variance_all"]
    assert metrics["explained_variance"] == pytest.approx(expected.explained_variance_all, rel=1e-4)
    assert metrics["explained_variance_without_outliers"] == pytest.approx(expected.explained_variance, rel=1e-4)
    assert metrics["explained_variance_without_outliers"] < metrics["explained_variance"] - 0.01
    assert "filtered_tokens" not in metrics


def test_where_nothing_lies_far_out_the_default_changes_no_weight_and_no_figure(llama: TinyRun) -> None:
    made = {}
    for ratio in (OUTLIER_RATIO, None):
        config = TrainConfig(
            hook=HOOK, sae=TopKConfig(width=64, k=4), tokens=2048, batch_size=256, max_norm_ratio=ratio
        )
        artifact = train(llama.store, llama.activations, config).artifact
        evaluation = evaluate(llama.store, artifact, llama.source, CPU, EvaluateConfig(ce_tokens=1000)).artifact
        made[ratio] = artifact.file(WEIGHTS_NAME).read_bytes(), read_metrics(evaluation)
    (weights, metrics), (weights_without, metrics_without) = made.values()
    assert weights == weights_without
    shared = metrics.keys() & metrics_without.keys()
    assert {name: metrics[name] for name in shared} == {name: metrics_without[name] for name in shared}
    assert metrics["filtered_tokens"] == metrics_without["outlier_tokens"] == 0
    assert metrics["explained_variance"] == metrics["explained_variance_all"]
    assert metrics_without["explained_variance"] == metrics_without["explained_variance_without_outliers"]


def test_where_half_of_all_rows_are_one_vector_nothing_is_far_from_the_others(tmp_path: Path) -> None:
    rows_ND = plant(1_000, width=16).acts_ND
    rows_ND[::3] = rows_ND[1::3] = 0.0
    assert NormLimit.measured(rows_ND, OUTLIER_RATIO) is None
    config = TrainConfig(hook=PLANTED, sae=TopKConfig(width=64, k=4), tokens=1_000, batch_size=250)
    store = open_store(str(tmp_path))
    artifact = train(store, publish_activations(store, rows_ND, rows_ND), config).artifact
    assert load_autoencoder(artifact).norm_limit is None
    assert artifact.manifest.summary["filtered_tokens"] == 0


def test_where_all_tokens_are_beyond_the_limit_the_message_says_so(llama: TinyRun) -> None:
    reader = ActivationReader(llama.activations, HOOK, "heldout")
    sae = new_autoencoder(TopKConfig(width=64, k=4), reader.width)
    sae.norm_limit = NormLimit(torch.zeros(reader.width), 0.0)
    with pytest.raises(InputError, match=r"All of the 50 tokens at resid_post\.1 are beyond the norm.*max_tokens"):
        measure_reconstruction(sae, reader, 50, torch.device("cpu"))
