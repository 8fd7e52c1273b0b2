"""The calibrate step as a KFP component. Written by ``make components`` from its declaration: do not edit."""

from typing import Optional

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def calibrate(
    calibration: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
    watch_list: str,
    saes: Optional[dsl.Input[list[dsl.Model]]] = None,  # noqa: UP045 - kfp reads no other spelling
    corpus: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045 - kfp reads no other spelling
    texts: str = "",
    positive: str = "",
    model: str = "",
    false_positive_rate: float = 0.01,
    per: str = "text",
    split: str = "heldout",
    max_texts: int = 20000,
    calibrate_settings: str = "",
    dtype: str = "auto",
    quantization: str = "none",
    model_settings: str = "",
    seed: int = 0,
    store: str = "",
):
    """Find thresholds of a watch list. For a rate of false positives, checked on other texts, beside controls.

    Args:
        calibration: Thresholds, the rate of false positives that each has, and what it finds.
        summary: Thresholds, rates and recalls, column by column.
        metrics: The figures, for the dashboard to compare.
        saes: Autoencoders that the list names (sae/...), with commas; an entry without one means the first.
        corpus: Reference texts: a corpus, tokenised for the model (corpus/...).
        watch_list: File with the watch list (YAML or JSON), or its content.
        texts: Reference texts in place of a corpus: JSON Lines file, or name of an added corpus; text or messages.
        positive: JSON Lines file with texts that the columns are to find; empty: no recall is told.
        model: Language model: a folder, a GGUF file, an id on the hub (NAME@REVISION), demo, smollm2, or
            subject/... in the store; empty: the one that the corpus was tokenised for.
        false_positive_rate: Share of reference texts, or tokens, above a threshold; for columns that ask for no
            other.
        per: What the rate is a share of: texts, or their tokens.
        split: Of a corpus: which documents (train, heldout).
        max_texts: Reference texts at most, drawn at random.
        calibrate_settings: Other settings as JSON; mistudio calibrate --parameters lists them.
        dtype: Number format of the model: auto (float32 on CPU, bfloat16 or float16 on a GPU), float32, bfloat16 or
            float16.
        quantization: Quantise the weights: none, int8 or nf4 (by bitsandbytes).
        model_settings: Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.
        seed: Seed of everything random.
        store: Store: a folder, or s3://bucket/prefix; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    steps.own_process("calibrate")
    done = steps.run_step(
        "calibrate",
        saes=[steps.artifact_uri(each.path) for each in saes or []],
        corpus=steps.artifact_uri(corpus.path) if corpus else None,
        watch_list=watch_list or None,
        texts=texts or None,
        positive=positive or None,
        model=model or None,
        false_positive_rate=false_positive_rate,
        per=per,
        split=split,
        max_texts=max_texts,
        calibrate_settings=calibrate_settings or None,
        dtype=dtype,
        quantization=quantization,
        model_settings=model_settings or None,
        seed=seed,
        store=store or None,
    )
    done.write_to(calibration)
    done.write_file_to(summary, "calibration.md")
    for name, value in done.metrics().items():
        metrics.log_metric(name, value)
