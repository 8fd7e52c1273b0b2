"""The find_part step as a KFP component. Written by ``make components`` from its declaration: do not edit."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def find_part(
    sae: dsl.Input[dsl.Model],
    features_part: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Markdown],
    part: int = 0,
    num_parts: int = 1,
    model: str = "",
    ablation_contexts: int = 2,
    attribution_contexts: int = 1,
    causal_tflop: float = -1.0,
    contexts: int = 20,
    context_before: int = 24,
    context_after: int = 8,
    find_settings: str = "",
    dtype: str = "",
    quantization: str = "",
    model_settings: str = "",
    seed: int = 0,
    store: str = "",
):
    """Make one part of find's pass, to be put together by find.

    Args:
        sae: Trained autoencoder (sae/...).
        features_part: What the pass kept of its part of the activations.
        summary: A page on it, for the dashboard to show.
        part: Which part, from 0.
        num_parts: How many parts the activations are cut into.
        model: Language model: a folder, a GGUF file, an id on the hub (NAME@REVISION), demo, smollm2, or
            subject/... in the store; empty: where the capture says.
        ablation_contexts: Contexts a feature in which taking it out is tried.
        attribution_contexts: Contexts a feature in which it is traced to input tokens.
        causal_tflop: Most computation for trying features in the model, in 10^12 operations; -1: 20 on a CPU, 2,000
            on a GPU.
        contexts: Strongest contexts a feature, each from another document.
        context_before: Tokens shown before the peak.
        context_after: Tokens shown after the peak.
        find_settings: Other settings as JSON; mistudio find-part --parameters lists them.
        dtype: Number format of the model: auto (float32 on CPU, bfloat16 or float16 on a GPU), float32, bfloat16 or
            float16; empty: as captured.
        quantization: Quantise the weights: none, int8 or nf4 (by bitsandbytes); empty: as captured.
        model_settings: Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.
        seed: Seed of everything random.
        store: Store: a folder, or s3://bucket/prefix; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    steps.own_process("find_part")
    done = steps.run_step(
        "find_part",
        sae=steps.artifact_uri(sae.path),
        part=part,
        num_parts=num_parts,
        model=model or None,
        ablation_contexts=ablation_contexts,
        attribution_contexts=attribution_contexts,
        causal_tflop=None if causal_tflop == -1 else causal_tflop,
        contexts=contexts,
        context_before=context_before,
        context_after=context_after,
        find_settings=find_settings or None,
        dtype=dtype or None,
        quantization=quantization or None,
        model_settings=model_settings or None,
        seed=seed,
        store=store or None,
    )
    done.write_to(features_part)
    done.write_summary_to(summary)
