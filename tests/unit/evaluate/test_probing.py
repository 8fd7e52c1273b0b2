"""The probe step: a planted class direction is found with one latent, and the controls stay where they belong."""

import json
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy import sparse

from mistudio.artifacts import Artifact, InputRef
from mistudio.corpus.config import IngestConfig
from mistudio.corpus.ingest import ingest
from mistudio.corpus.reader import TokenCorpus
from mistudio.corpus.sources import open_source
from mistudio.errors import InputError
from mistudio.evaluate import pooling, probing
from mistudio.evaluate.config import ProbeConfig
from mistudio.evaluate.pooling import Passage, Pooled
from mistudio.evaluate.probes import find_problems
from mistudio.evaluate.probing import PROBES_NAME, PROBING_NAME, probe
from mistudio.sae import SparseAutoencoder, StandardConfig, new_autoencoder
from mistudio.subject import HookPoint, resolve_hooks
from tests.support.tiny import MLP_WIDTH, WIDTH, tiny_llama
from tests.support.tiny_run import CPU, HOOK, TinyRun, publish_sae

WORDS = {"pets": "cat dog hat mat", "sky": "sun moon tree river"}
SHARED = ["the", "a", "then", "and", "she", "he", "they", "saw", "took", "gave"]
PLANTED = 7
FEW = ProbeConfig(ks=(1, 2), shuffles=3, resamples=100, min_documents=5)


def labelled_corpus(run: TinyRun, folder: Path, labels: bool = True, documents: int = 240) -> Artifact:
    """Documents about one of two things, in words that only one of them has."""
    draw = random.Random(0)
    rows = []
    for number in range(documents):
        label = draw.choice(sorted(WORDS))
        words = [draw.choice(SHARED + 2 * WORDS[label].split()) for _ in range(draw.randint(8, 40))]
        rows.append({"text": f"{number} " + " ".join(words), "task": label} | ({"label": label} if labels else {}))
        if labels:
            rows[-1]["task"] = "topic"
    path = folder / "labelled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ingest(
        run.store,
        open_source(str(path), run.store),
        run.subject.tokenizer,
        InputRef(uri=f"tokenizer:{run.source.uri}", digest=run.source.tokenizer_digest),
        IngestConfig(context_length=24, held_out_fraction=0.4),
    ).artifact


def planted_sae(run: TinyRun, corpus: TokenCorpus, by_task: bool = False, d_out: int = WIDTH) -> SparseAutoencoder:
    """One latent reads the direction between the two classes; the others are random, and mostly silent."""
    (hook,) = resolve_hooks(run.subject, [HookPoint.parse(HOOK)])
    pooler = pooling.Pooler(run.subject, hook, corpus, "mean", 500)
    means = {}
    for index in range(corpus.num_sequences("train")):
        sequence = corpus.sequence("train", index)
        passage = Passage(index, index + 1, "", "")
        acts_ND = torch.cat([acts_ND for acts_ND, _ in pooler.tokens_of("train", [passage])])
        means.setdefault(sequence.task if by_task else sequence.label, []).append(acts_ND.mean(dim=0))
    pets_D, sky_D = (torch.stack(means[label]).mean(dim=0) for label in ("pets", "sky"))
    sae = new_autoencoder(StandardConfig(width=64), WIDTH, d_out)
    sae.for_training().initialise(torch.randn(64, WIDTH), torch.Generator().manual_seed(0))
    with torch.no_grad():
        sae.b_enc.fill_(-3.0)
        sae.W_enc[PLANTED] = 40 * (sky_D - pets_D)
        sae.b_enc[PLANTED] = -sae.W_enc[PLANTED] @ (sky_D + pets_D) / 2
    return sae


@pytest.fixture(scope="module")
def labelled(llama: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return labelled_corpus(llama, tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="module")
def sae(llama: TinyRun, labelled: Artifact) -> Artifact:
    return publish_sae(llama.store, planted_sae(llama, TokenCorpus(labelled)), llama.activations)


def synthetic(count: int, seed: int) -> tuple[list[Passage], Pooled]:
    """Documents of two labels, one column in 300 of the first autoencoder's latents telling them apart."""
    generator = np.random.default_rng(seed)
    label = generator.random(count) < 0.3
    noise = generator.random((2, count, 300)).astype(np.float32) * (generator.random((2, count, 300)) < 0.2)
    noise[0, :, 123] = label * (0.5 + generator.random(count))
    acts = generator.standard_normal((count, 16)).astype(np.float32)
    acts[:, 3] += 3 * label
    passages = [Passage(0, 1, "task", "yes" if is_label else "no") for is_label in label]
    return passages, Pooled([sparse.csr_array(latents) for latents in noise], acts)


def test_a_planted_latent_is_found_while_random_latents_and_shuffled_labels_stay_at_chance() -> None:
    train, pooled_train = synthetic(600, 0)
    heldout, pooled_heldout = synthetic(600, 1)
    problems = find_problems(train, heldout, 20, 20)
    pooled = {"train": pooled_train, "heldout": pooled_heldout}
    rows = probing._rows(problems, pooled, ProbeConfig(shuffles=20, resamples=200), seed=0)
    averages = {(a["representation"], a["k"], a["metric"]): a for a in probing._averages(rows)}
    first = next(row for row in rows if row.representation == "sae")
    assert first.latents.tolist() == [123]
    for metric in ("balanced_accuracy", "auroc"):
        for k in (1, 2, 5, 16):
            assert averages["sae", k, metric]["value"] > 0.97
            assert averages["random", k, metric]["value"] == pytest.approx(0.5, abs=0.08)
            # A shuffled probe leans one way or the other on the planted latent; over shuffles it knows nothing.
            assert averages["shuffled", k, metric]["value"] == pytest.approx(0.5, abs=0.15)
            assert averages["shuffled", k, metric]["low"] < 0.5 < averages["shuffled", k, metric]["high"]
        assert averages["dense", 0, metric]["value"] > 0.85
        interval = averages["random", 1, metric]
        assert interval["low"] < interval["value"] < interval["high"] < interval["low"] + 0.15


def test_the_step_publishes_every_probe_and_finds_the_planted_latent(
    llama: TinyRun, labelled: Artifact, sae: Artifact
) -> None:
    produced = probe(llama.store, sae, labelled, llama.source, CPU, FEW)
    summary = produced.artifact.manifest.summary
    assert summary["problems"] == 1
    assert summary["train_documents"] + summary["heldout_documents"] == 240
    assert summary["k1_accuracy"] > 0.9
    assert summary["dense_accuracy"] > 0.9
    assert summary["k1_auroc"] > summary["control.random_k1_auroc"]
    assert summary["k1_auroc"] > summary["control.shuffled_k1_auroc"] + 0.1
    probes = pq.read_table(produced.artifact.file(PROBES_NAME)).to_pylist()
    kinds = [(row["representation"], row["k"]) for row in probes]
    assert kinds == [("dense", 0), *((name, k) for name in ("sae", "random", "shuffled") for k in (1, 2))]
    of_sae = probes[1]
    assert (of_sae["task"], of_sae["label"], of_sae["latents"]) == ("topic", "sky", [PLANTED])
    assert of_sae["weights"][0] > 0
    assert of_sae["accuracy"] == pytest.approx(summary["k1_accuracy"], abs=1e-6)
    assert of_sae["accuracy_low"] <= of_sae["accuracy"] <= of_sae["accuracy_high"]
    assert of_sae["heldout_documents"] == summary["heldout_documents"]
    averages = json.loads(produced.artifact.file(PROBING_NAME).read_bytes())["averages"]
    assert len(averages) == 7 * 3
    assert produced.artifact.manifest.inputs["corpus"] == labelled.ref


def test_it_is_found_again_unless_something_that_matters_differs(
    llama: TinyRun, labelled: Artifact, sae: Artifact
) -> None:
    first = probe(llama.store, sae, labelled, llama.source, CPU, FEW).artifact
    assert probe(llama.store, sae, labelled, llama.source, CPU, FEW).found
    for config, seed in ((FEW.model_copy(update={"pool": "max"}), 0), (FEW, 1)):
        other = probe(llama.store, sae, labelled, llama.source, CPU, config, seed)
        assert not other.found
        assert other.artifact.digest != first.digest


def test_a_killed_run_goes_on_and_ends_with_the_same(
    llama: TinyRun, labelled: Artifact, sae: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = probe(llama.store, sae, labelled, llama.source, CPU, FEW.model_copy(update={"resamples": 99})).artifact
    monkeypatch.setattr(pooling, "_BLOCK_DOCUMENTS", 30)
    killed = FEW.model_copy(update={"resamples": 98})
    pool, done = pooling.Pooler._pool, []

    def stop_at_the_third(*args: object) -> object:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(args)
        return pool(*args)

    monkeypatch.setattr(pooling.Pooler, "_pool", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        probe(llama.store, sae, labelled, llama.source, CPU, killed)
    done.clear()
    monkeypatch.setattr(pooling.Pooler, "_pool", lambda *args: (done.append(args), pool(*args))[1])
    resumed = probe(llama.store, sae, labelled, llama.source, CPU, killed).artifact
    train, heldout = (whole.manifest.summary[f"{split}_documents"] for split in ("train", "heldout"))
    assert len(done) == -(-train // 30) + -(-heldout // 30) - 2
    for name, value in whole.manifest.summary.items():
        assert resumed.manifest.summary[name] == pytest.approx(value, abs=1e-4)


def test_a_transcoder_is_probed_where_it_reads_however_wide_it_writes(llama: TinyRun, labelled: Artifact) -> None:
    planted = planted_sae(llama, TokenCorpus(labelled), d_out=MLP_WIDTH)
    transcoder = publish_sae(llama.store, planted, llama.activations, target_hook="mlp_act.1")
    artifact = probe(llama.store, transcoder, labelled, llama.source, CPU, FEW).artifact
    summary = artifact.manifest.summary
    assert summary["k1_accuracy"] > 0.9
    assert summary["k1_auroc"] > summary["control.random_k1_auroc"]
    rows = pq.read_table(artifact.file(PROBES_NAME)).to_pylist()
    assert rows[1]["latents"] == [PLANTED]
    assert {row["representation"] for row in rows} == {"dense", "sae", "random", "shuffled"}


def test_tasks_serve_as_labels_where_there_are_none(llama: TinyRun, tmp_path: Path) -> None:
    corpus = labelled_corpus(llama, tmp_path, labels=False)
    sae = publish_sae(llama.store, planted_sae(llama, TokenCorpus(corpus), by_task=True), llama.activations)
    artifact = probe(llama.store, sae, corpus, llama.source, CPU, FEW).artifact
    row = pq.read_table(artifact.file(PROBES_NAME)).to_pylist()[1]
    assert (row["task"], row["label"], row["latents"]) == ("task", "sky", [PLANTED])
    with pytest.raises(InputError, match="two values of label with at least 5 documents in each split"):
        probe(llama.store, sae, corpus, llama.source, CPU, FEW.model_copy(update={"labels": "label"}))


def test_labels_can_be_set_aside_for_tasks(llama: TinyRun, labelled: Artifact, sae: Artifact) -> None:
    with pytest.raises(InputError, match="two values of task"):
        probe(llama.store, sae, labelled, llama.source, CPU, FEW.model_copy(update={"labels": "task"}))


def test_no_more_documents_are_read_than_asked_for(llama: TinyRun, labelled: Artifact, sae: Artifact) -> None:
    config = FEW.model_copy(update={"max_documents": 40})
    summary = probe(llama.store, sae, labelled, llama.source, CPU, config).artifact.manifest.summary
    assert (summary["train_documents"], summary["heldout_documents"]) == (40, 40)


def test_another_model_than_that_of_the_activations_is_refused(
    llama: TinyRun, labelled: Artifact, sae: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="has other content"):
        probe(llama.store, sae, labelled, tiny_llama(tmp_path / "other", seed=5), CPU, FEW)


def test_an_autoencoder_without_activations_in_the_store_can_be_probed(
    llama: TinyRun, labelled: Artifact, sae: Artifact
) -> None:
    imported = Artifact(llama.store, sae.uri, sae.manifest.model_copy(update={"inputs": {}}))
    assert probe(llama.store, imported, labelled, llama.source, CPU, FEW).artifact.manifest.summary["k1_accuracy"] > 0.9
