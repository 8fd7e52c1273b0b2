"""The evaluate step as a KFP component. Written by ``make components`` from its declaration: do not edit."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def evaluate(
    sae: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
    model: str = "",
    ce_tokens: int = 100000,
    evaluate_settings: str = "",
    dtype: str = "",
    quantization: str = "",
    model_settings: str = "",
    seed: int = 0,
    store: str = "",
):
    """Measure an autoencoder on held-out documents. Alone, and spliced into the model.

    Args:
        sae: Trained autoencoder (sae/...).
        evaluation: All figures of the evaluation.
        summary: A page on it, for the dashboard to show.
        metrics: The figures, for the dashboard to compare.
        model: Language model: a folder, a GGUF file, an id on the hub (NAME@REVISION), demo, smollm2, or
            subject/... in the store; empty: where the capture says.
        ce_tokens: About how many held-out tokens run through the model at most.
        evaluate_settings: Other settings as JSON; mistudio evaluate --parameters lists them.
        dtype: Number format of the model: auto (float32 on CPU, bfloat16 or float16 on a GPU), float32, bfloat16 or
            float16; empty: as captured.
        quantization: Quantise the weights: none, int8 or nf4 (by bitsandbytes); empty: as captured.
        model_settings: Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.
        seed: Seed of everything random.
        store: Store: a folder, or s3://bucket/prefix; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    steps.own_process("evaluate")
    done = steps.run_step(
        "evaluate",
        sae=steps.artifact_uri(sae.path),
        model=model or None,
        ce_tokens=ce_tokens,
        evaluate_settings=evaluate_settings or None,
        dtype=dtype or None,
        quantization=quantization or None,
        model_settings=model_settings or None,
        seed=seed,
        store=store or None,
    )
    done.write_to(evaluation)
    done.write_summary_to(summary)
    for name, value in done.metrics().items():
        metrics.log_metric(name, value)
