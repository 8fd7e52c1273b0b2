"""The evaluate step: what it publishes, with the controls that give the figures their meaning."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mistudio.activations import ActivationReader
from mistudio.activations.index import index_path, shard_path
from mistudio.artifacts import Artifact
from mistudio.errors import InputError, NotFound
from mistudio.evaluate import DENSITY_NAME, HISTOGRAMS_NAME, METRICS_NAME, EvaluateConfig, evaluate
from mistudio.evaluate import control as control_module
from mistudio.evaluate.cosines import largest_cosines
from mistudio.report.metrics import METRICS as REPORTED
from mistudio.sae import TopKConfig, load_autoencoder, new_autoencoder
from mistudio.subject import SubjectConfig, SubjectSource
from mistudio.train import TrainConfig, train
from tests.support.fake_run import METRICS
from tests.support.indexed import opened_files
from tests.support.tiny import WIDTH, tiny_llama
from tests.support.tiny_run import CPU, HOOK, TinyRun, identity_sae, publish_sae, zero_sae

SAE = TopKConfig(width=128, k=8)


@pytest.fixture(scope="module")
def trained(llama: TinyRun) -> Artifact:
    config = TrainConfig(hook=HOOK, sae=SAE, tokens=100_000, batch_size=256, dead_after_tokens=20_000)
    return train(llama.store, llama.activations, config).artifact


def metrics_of(evaluation: Artifact) -> dict[str, float]:
    content: dict[str, float] = json.loads(evaluation.file(METRICS_NAME).read_bytes())
    return content


def test_a_trained_autoencoder_is_far_above_a_random_one(llama: TinyRun, trained: Artifact) -> None:
    control = new_autoencoder(SAE, WIDTH)
    control.for_training().initialise(torch.zeros(1, WIDTH), torch.Generator().manual_seed(0))
    ours = metrics_of(evaluate(llama.store, trained, llama.source, CPU).artifact)
    random = metrics_of(
        evaluate(llama.store, publish_sae(llama.store, control, llama.activations), llama.source, CPU).artifact
    )
    assert ours["explained_variance"] > 0.93
    assert random["fvu"] > 10 * ours["fvu"]
    assert ours["ce_recovered"] > 0.98
    assert random["ce_recovered"] < 0.9
    assert random["kl"] > 10 * ours["kl"]
    assert ours["cosine"] > 0.97
    # A token with fewer than k positive pre-activations has fewer than k active latents.
    assert ours["l0"] == pytest.approx(8, rel=1e-2)
    assert random["l0"] == pytest.approx(8, rel=1e-2)
    assert max(ours["l0"], random["l0"]) <= 8


def test_a_perfect_and_an_empty_autoencoder_mark_the_ends_of_the_scale(llama: TinyRun) -> None:
    perfect, empty = (
        metrics_of(evaluate(llama.store, publish_sae(llama.store, sae, llama.activations), llama.source, CPU).artifact)
        for sae in (identity_sae(), zero_sae())
    )
    assert perfect["fvu"] == pytest.approx(0, abs=1e-12)
    assert perfect["ce_recovered"] == pytest.approx(1, abs=1e-5)
    assert empty["ce_recovered"] == 0
    assert empty["ce_spliced"] == empty["ce_zero"]
    assert empty["dead_fraction"] == 1
    assert empty["l0"] == empty["l1"] == 0


def test_files_and_summary_are_what_the_report_reads(llama: TinyRun, trained: Artifact) -> None:
    evaluation = evaluate(llama.store, trained, llama.source, CPU).artifact
    metrics = metrics_of(evaluation)
    assert metrics.keys() >= METRICS.keys()
    assert metrics.keys() >= {metric.key for metric in REPORTED}
    assert metrics["explained_variance"] == pytest.approx(1 - metrics["fvu"])
    assert metrics["tokens"] == llama.activations.manifest.summary["heldout_tokens"]
    assert evaluation.manifest.summary == {name: round(value, 6) for name, value in metrics.items()}
    assert evaluation.manifest.inputs["sae"] == trained.ref
    assert evaluation.manifest.inputs["subject"].digest == llama.source.digest

    table = pq.read_table(evaluation.file(DENSITY_NAME))
    density = table.to_pydict()
    assert density["feature"] == list(range(SAE.width))
    assert sum(density["density"]) == pytest.approx(metrics["l0"])
    dead = sum(value == 0 for value in density["density"]) / SAE.width
    assert metrics["dead_fraction"] == pytest.approx(dead)
    dense = sum(value > 0.1 for value in density["density"]) / SAE.width
    assert metrics["dense_fraction"] == pytest.approx(dense)

    cosine_F = largest_cosines(load_autoencoder(trained).W_dec).numpy()
    np.testing.assert_allclose(table["max_cosine"].to_numpy(), cosine_F)
    assert metrics["redundancy_mean"] == pytest.approx(cosine_F.mean(), rel=1e-6)
    assert metrics["redundancy_p50"] == pytest.approx(np.median(cosine_F), rel=1e-6)
    assert metrics["redundancy_p99"] == pytest.approx(np.quantile(cosine_F, 0.99), rel=1e-6)


def test_histograms_count_every_latent_once(llama: TinyRun, trained: Artifact) -> None:
    evaluation = evaluate(llama.store, trained, llama.source, CPU).artifact
    density_F = pq.read_table(evaluation.file(DENSITY_NAME))["density"].to_numpy()
    histograms = json.loads(evaluation.file(HISTOGRAMS_NAME).read_bytes())
    density, cosine = histograms["log10_density"], histograms["max_cosine"]
    assert histograms["never_fired"] == (density_F == 0).sum()
    assert sum(density["latents"]) + histograms["never_fired"] == SAE.width == sum(cosine["latents"])
    assert len(density["edges"]) == len(density["latents"]) + 1
    expected, _ = np.histogram(np.log10(density_F[density_F > 0]), bins=density["edges"])
    assert density["latents"] == expected.tolist()


def test_the_control_is_measured_on_the_same_tokens_and_left_out_where_it_is_not_wanted(
    llama: TinyRun, trained: Artifact
) -> None:
    metrics = metrics_of(evaluate(llama.store, trained, llama.source, CPU).artifact)
    assert metrics["control.random_l0"] == pytest.approx(metrics["l0"], rel=0.02)
    assert 5 * metrics["fvu"] < metrics["control.random_fvu"] < 1
    assert metrics["control.random_ce_recovered"] < metrics["ce_recovered"]
    assert metrics["control.random_kl"] > 5 * metrics["kl"]
    assert metrics["kl_recovered"] == pytest.approx(1 - metrics["kl"] / metrics["kl_zero"])
    plain = metrics_of(evaluate(llama.store, trained, llama.source, CPU, EvaluateConfig(control=False)).artifact)
    assert plain == {name: value for name, value in metrics.items() if not name.startswith("control.")}


def test_what_counts_as_dense_can_be_chosen(llama: TinyRun, trained: Artifact) -> None:
    strict = metrics_of(evaluate(llama.store, trained, llama.source, CPU, EvaluateConfig(dense_above=0.001)).artifact)
    usual = metrics_of(evaluate(llama.store, trained, llama.source, CPU).artifact)
    assert strict["dense_fraction"] > usual["dense_fraction"]


def test_a_transcoder_is_evaluated_where_it_writes(llama: TinyRun) -> None:
    reader, target = (ActivationReader(llama.activations, hook, "train") for hook in ("resid_mid.1", "mlp_out.1"))
    mean_D = target.acts(0, len(target)).double().mean(dim=0)
    empty = zero_sae()
    with torch.no_grad():
        empty.b_dec.copy_(mean_D)
    sae = publish_sae(llama.store, empty, llama.activations, "resid_mid.1", "mlp_out.1")
    metrics = metrics_of(evaluate(llama.store, sae, llama.source, CPU).artifact)
    assert reader.width == target.width == WIDTH
    assert metrics["fvu"] == pytest.approx(1, rel=0.05)  # the mean of other documents
    assert metrics["ce_clean"] < metrics["ce_spliced"]
    assert metrics["control.random_fvu"] < 1.05


def test_an_evaluation_is_found_again_unless_something_that_matters_differs(llama: TinyRun, trained: Artifact) -> None:
    first = evaluate(llama.store, trained, llama.source, CPU)
    assert evaluate(llama.store, trained, llama.source, CPU).found
    for other in (
        evaluate(llama.store, trained, llama.source, SubjectConfig(device="cpu", dtype="bfloat16")),
        evaluate(llama.store, trained, llama.source, CPU, seed=1),
        evaluate(llama.store, trained, llama.source, CPU, EvaluateConfig(ce_tokens=100)),
    ):
        assert not other.found
        assert other.artifact.digest != first.artifact.digest


def test_max_tokens_limits_the_reconstruction_and_ce_tokens_the_model(llama: TinyRun, trained: Artifact) -> None:
    few = evaluate(llama.store, trained, llama.source, CPU, EvaluateConfig(max_tokens=500, ce_tokens=100)).artifact
    all_of_them = metrics_of(evaluate(llama.store, trained, llama.source, CPU).artifact)
    assert metrics_of(few)["tokens"] == 500
    assert metrics_of(few)["ce_clean"] != all_of_them["ce_clean"]


def test_a_model_of_half_precision_is_evaluated(llama: TinyRun, trained: Artifact) -> None:
    config = SubjectConfig(device="cpu", dtype="bfloat16")
    metrics = metrics_of(evaluate(llama.store, trained, llama.source, config).artifact)
    assert metrics["ce_recovered"] > 0.95


def test_another_model_than_the_captured_one_is_refused(llama: TinyRun, trained: Artifact, tmp_path: Path) -> None:
    other: SubjectSource = tiny_llama(tmp_path / "other", seed=5)
    with pytest.raises(InputError, match=r"activations/\w+ was captured from .*, but .* has other content"):
        evaluate(llama.store, trained, other, CPU)


def test_an_autoencoder_whose_activations_are_gone_is_refused(llama: TinyRun, trained: Artifact) -> None:
    lost = trained.manifest.model_copy(
        update={"inputs": {"activations": llama.activations.ref.model_copy(update={"uri": "activations/0123456789ab"})}}
    )
    with pytest.raises(NotFound, match="activations/0123456789ab"):
        evaluate(llama.store, Artifact(llama.store, trained.uri, lost), llama.source, CPU)


def test_an_encoder_is_evaluated(bert: TinyRun) -> None:
    sae = publish_sae(bert.store, identity_sae(), bert.activations)
    metrics = metrics_of(evaluate(bert.store, sae, bert.source, CPU).artifact)
    assert metrics["fvu"] == pytest.approx(0, abs=1e-12)
    assert metrics["ce_spliced"] == pytest.approx(metrics["ce_clean"], rel=1e-6)


def test_a_sample_opens_the_shards_that_hold_it_and_no_other(llama: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand rows from all over, in runs, of activations in more shards than runs."""
    monkeypatch.setattr(control_module, "_SAMPLE_ROWS", 12)
    monkeypatch.setattr(control_module, "_SAMPLE_RUNS", 3)
    opened = opened_files(monkeypatch)
    reader = ActivationReader(llama.activations, HOOK, "train")
    sae = publish_sae(llama.store, identity_sae(), llama.activations)
    assert not evaluate(llama.store, sae, llama.source, CPU, EvaluateConfig(ce_tokens=500), seed=31).found
    starts = torch.linspace(0, len(reader) - 4, 3).long().tolist()
    holding = reader.shards_of([(start, start + 4) for start in starts])
    assert len(holding) < len(reader.shards)
    train = {path for path in opened if "/train/" in path and "activations" in path}
    assert train == {
        f"{llama.activations.uri}/{path}"
        for path in (index_path(HOOK, "train"), *(shard_path(HOOK, "train", shard) for shard in holding))
    }
