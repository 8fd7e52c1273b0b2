"""The evaluate step as a KFP component."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def evaluate(
    sae: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    model: str = "",
    ce_tokens: int = 100000,
    dtype: str = "auto",
    quantization: str = "none",
    model_settings: str = "",
    seed: int = 0,
    store: str = "",
):
    """Measure an autoencoder on held-out documents, alone and spliced into the model.

    Args:
        sae: Trained autoencoder (sae/...).
        evaluation: Figures on held-out documents.
        metrics: The same figures, for the dashboard to compare.
        model: Language model that was captured: demo, a folder, an id on the model hub (NAME@REVISION), or subject/...
            in the store; empty: where the capture says.
        ce_tokens: About how many held-out tokens to run through the model.
        dtype: Number format of the model: auto, float32, bfloat16 or float16.
        quantization: Quantise the model: none, int8 or nf4 (by bitsandbytes).
        model_settings: Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.
        seed: Seed of everything random.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    done = steps.evaluate(
        sae=steps.artifact_uri(sae.path),
        model=model,
        ce_tokens=ce_tokens,
        dtype=dtype,
        quantization=quantization,
        model_settings=model_settings,
        seed=seed,
        store=store,
    )
    done.write_to(evaluation)
    for name, value in done.metrics().items():
        metrics.log_metric(name, value)
