"""The probe step as a KFP component. Written by ``make components`` from its declaration: do not edit."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def probe(
    sae: dsl.Input[dsl.Model],
    corpus: dsl.Input[dsl.Dataset],
    probing: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
    model: str = "",
    labels: str = "auto",
    pool: str = "mean",
    max_documents: int = 4000,
    probe_settings: str = "",
    dtype: str = "",
    quantization: str = "",
    model_settings: str = "",
    seed: int = 0,
    store: str = "",
):
    """Read labels off a few features. By k-sparse probes, against a dense one and controls.

    Args:
        sae: Trained autoencoder (sae/...).
        corpus: Labelled corpus, tokenised for the model (corpus/...).
        probing: Every probe on every label, with its latents and its figures.
        summary: A page on it, for the dashboard to show.
        metrics: The figures, for the dashboard to compare.
        model: Language model: a folder, a GGUF file, an id on the hub (NAME@REVISION), demo, smollm2, or
            subject/... in the store; empty: where the capture says.
        labels: What a document is an example of: its label, its task, or its label if it has one (auto, label,
            task).
        pool: How the tokens of a document become one vector (mean, max).
        max_documents: Documents of each split to encode at most.
        probe_settings: Other settings as JSON; mistudio probe --parameters lists them.
        dtype: Number format of the model: auto (float32 on CPU, bfloat16 or float16 on a GPU), float32, bfloat16 or
            float16; empty: as captured.
        quantization: Quantise the weights: none, int8 or nf4 (by bitsandbytes); empty: as captured.
        model_settings: Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.
        seed: Seed of everything random.
        store: Store: a folder, or s3://bucket/prefix; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    steps.own_process("probe")
    done = steps.run_step(
        "probe",
        sae=steps.artifact_uri(sae.path),
        corpus=steps.artifact_uri(corpus.path),
        model=model or None,
        labels=labels,
        pool=pool,
        max_documents=max_documents,
        probe_settings=probe_settings or None,
        dtype=dtype or None,
        quantization=quantization or None,
        model_settings=model_settings or None,
        seed=seed,
        store=store or None,
    )
    done.write_to(probing)
    done.write_summary_to(summary)
    for name, value in done.metrics().items():
        metrics.log_metric(name, value)
