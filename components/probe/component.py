"""The probe step as a KFP component."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def probe(
    sae: dsl.Input[dsl.Model],
    corpus: dsl.Input[dsl.Dataset],
    probing: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    model: str = "",
    labels: str = "auto",
    pool: str = "mean",
    max_documents: int = 4000,
    dtype: str = "auto",
    quantization: str = "none",
    model_settings: str = "",
    seed: int = 0,
    store: str = "",
):
    """Read labels off a few features: k-sparse probes against a dense probe and controls.

    Args:
        sae: Trained autoencoder (sae/...).
        corpus: Labelled corpus, tokenised for the model (corpus/...).
        probing: Every probe on every label, with its latents and its figures.
        metrics: The figures, for the dashboard to compare.
        model: Language model that was captured: demo, a folder, an id on the model hub (NAME@REVISION), or subject/...
            in the store; empty: where the capture says.
        labels: What a document is an example of: label, task, or auto: its label, or its task where none has one.
        pool: How the tokens of a document become one vector: mean or max.
        max_documents: Documents of each split to encode at most.
        dtype: Number format of the model: auto, float32, bfloat16 or float16.
        quantization: Quantise the model: none, int8 or nf4 (by bitsandbytes).
        model_settings: Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.
        seed: Seed of everything random.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    values = {"model": model, "labels": labels, "pool": pool, "max_documents": max_documents, "dtype": dtype}
    done = steps.probe(
        sae=steps.artifact_uri(sae.path),
        corpus=steps.artifact_uri(corpus.path),
        quantization=quantization,
        model_settings=model_settings,
        seed=seed,
        store=store,
        **values,
    )
    done.write_to(probing)
    for name, value in done.metrics().items():
        metrics.log_metric(name, value)
