"""Steps that look closer at autoencoders than evaluation does: stability across seeds, and probing.

As in ``batch``: functions of plain values, for the command line and for KFP components.
"""

import json

from mistudio.artifacts import Artifact, Produced, Store, open_artifact
from mistudio.steps.batch import subject_settings, subject_source
from mistudio.steps.running import StepOutput, run_step
from mistudio.steps.validation import validated
from mistudio.tracking import Run


def stability(
    saes: str,
    found_above: float = 0.7,
    exact_width: int = 8192,
    device: str = "auto",
    seed: int = 0,
    store: str = "",
) -> StepOutput:
    """Compare the features of autoencoders trained from different seeds.

    Args:
        saes: Two or more trained autoencoders of one width (sae/...), with commas between them.
        found_above: A feature is found again where the cosine with its match is above this.
        exact_width: Most features for which the best matching is found, with 8 bytes of memory a pair of features.
        device: Where to compute: auto, cpu, cuda or cuda:N.
        seed: Seed of everything random.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio.evaluate.stability import StabilityConfig
    from mistudio.evaluate.stability import stability as compare
    from mistudio.subject import pick_device

    def work(opened: Store, _run: Run) -> Produced:
        uris = [uri for uri in saes.replace(" ", "").split(",") if uri]
        config = validated(StabilityConfig, {"found_above": found_above, "exact_width": exact_width})
        return compare(opened, [open_artifact(opened, uri, "sae") for uri in uris], config, seed, pick_device(device))

    return run_step("stability", store, work, _plot_stability)


def probe(
    sae: str,
    corpus: str,
    model: str = "",
    labels: str = "auto",
    pool: str = "mean",
    max_documents: int = 4000,
    max_sequences: int = 4,
    min_documents: int = 20,
    batch_size: int = 32,
    dtype: str = "auto",
    quantization: str = "none",
    model_settings: str = "",
    device: str = "auto",
    revision: str = "",
    trust_remote_code: bool = False,
    seed: int = 0,
    store: str = "",
) -> StepOutput:
    """Read labels off a few features: k-sparse probes against a dense probe and controls.

    Args:
        sae: Trained autoencoder (sae/...).
        corpus: Labelled corpus, tokenised for the model (corpus/...).
        model: Language model that was captured: demo, a folder, an id on the model hub (NAME@REVISION), or subject/...
            in the store; empty: where the capture says.
        labels: What a document is an example of: label, task, or auto: its label, or its task where none has one.
        pool: How the tokens of a document become one vector: mean or max.
        max_documents: Documents of each split to encode at most.
        max_sequences: Sequences of a document to read, from its start.
        min_documents: Documents that a label needs in each split, or else it is left out.
        batch_size: Sequences of full length in one forward pass, 1 to 128.
        dtype: Number format of the model: auto, float32, bfloat16 or float16.
        quantization: Quantise the model: none, int8 or nf4 (by bitsandbytes).
        model_settings: Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.
        device: Where to compute: auto, cpu, cuda or cuda:N.
        revision: Branch, tag or commit on the model hub.
        trust_remote_code: Run Python code that comes with the model.
        seed: Seed of everything random.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio.evaluate.probing import ProbeConfig
    from mistudio.evaluate.probing import probe as probe_autoencoder

    def work(opened: Store, _run: Run) -> Produced:
        subject = subject_settings(dtype, quantization, device, trust_remote_code, model_settings)
        settings = {
            "labels": labels,
            "pool": pool,
            "max_documents": max_documents,
            "max_sequences": max_sequences,
            "min_documents": min_documents,
            "batch_size": batch_size,
        }
        config = validated(ProbeConfig, settings)
        autoencoder, labelled = open_artifact(opened, sae, "sae"), open_artifact(opened, corpus, "corpus")
        source = subject_source(model, revision, opened, autoencoder)
        return probe_autoencoder(opened, autoencoder, labelled, source, subject, config, seed)

    return run_step("probe", store, work, _plot_probing)


def _plot_stability(artifact: Artifact, run: Run) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mistudio.report.plots import stability_figure

    pairs = [pq.read_table(artifact.file(name)) for name in artifact.paths("matches/")]
    matches = pa.concat_tables(pairs)
    figure = stability_figure(matches["cosine"].to_numpy(), matches["random_cosine"].to_numpy())
    run.log_figure(figure, "stability.png")


def _plot_probing(artifact: Artifact, run: Run) -> None:
    from mistudio.evaluate.probes import METRICS
    from mistudio.evaluate.probing import PROBING_NAME
    from mistudio.report.plots import probing_figure

    averages = json.loads(artifact.file(PROBING_NAME).read_bytes())["averages"]
    for metric in METRICS:
        run.log_figure(probing_figure(averages, metric), f"probing_{metric}.png")
