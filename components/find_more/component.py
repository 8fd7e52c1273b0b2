"""The find_more step as a KFP component. Written by ``make components`` from its declaration: do not edit."""

from typing import Optional

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def find_more(
    features: dsl.Input[dsl.Dataset],
    trials: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Markdown],
    base: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045 - kfp reads no other spelling
    scores: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045 - kfp reads no other spelling
    explanations: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045 - kfp reads no other spelling
    model: str = "",
    only: str = "",
    causal_tflop: float = -1.0,
    dtype: str = "",
    quantization: str = "",
    model_settings: str = "",
    store: str = "",
):
    """Try further features in the model. Those named, or the next ones in the order of worth.

    Args:
        features: Found features (features/...).
        trials: Effects and attributions of the features tried after find.
        summary: A page on it, for the dashboard to show.
        base: Earlier trials to keep and add to (trials/...), or none; empty: those of most features, same settings.
        scores: Scores of these features (scores/...), which a selection such as best:50 goes by.
        explanations: Explanations of these features (explanations/...), which the selection unlabelled goes by.
        model: Language model: a folder, a GGUF file, an id on the hub (NAME@REVISION), demo, smollm2, or
            subject/... in the store; empty: where the capture says.
        only: Features to try, such as 12,40-90 or coherent:50; empty: the next ones in the order of worth.
        causal_tflop: Most computation for trying features in the model, in 10^12 operations; -1: without limit
            where only is given, else 20 on a CPU, 2,000 on a GPU.
        dtype: Number format of the model: auto (float32 on CPU, bfloat16 or float16 on a GPU), float32, bfloat16 or
            float16; empty: as captured.
        quantization: Quantise the weights: none, int8 or nf4 (by bitsandbytes); empty: as captured.
        model_settings: Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.
        store: Store: a folder, or s3://bucket/prefix; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    steps.own_process("find_more")
    done = steps.run_step(
        "find_more",
        features=steps.artifact_uri(features.path),
        base=steps.artifact_uri(base.path) if base else None,
        scores=steps.artifact_uri(scores.path) if scores else None,
        explanations=steps.artifact_uri(explanations.path) if explanations else None,
        model=model or None,
        only=only,
        causal_tflop=None if causal_tflop == -1 else causal_tflop,
        dtype=dtype or None,
        quantization=quantization or None,
        model_settings=model_settings or None,
        store=store or None,
    )
    done.write_to(trials)
    done.write_summary_to(summary)
