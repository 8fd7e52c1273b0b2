"""The capture step as a KFP component. Written by ``make components`` from its declaration: do not edit."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def capture(
    corpus: dsl.Input[dsl.Dataset],
    activations: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Markdown],
    layer: int = -1,
    model: str = "",
    hook: str = "resid_post",
    batch_size: int = 32,
    storage_dtype: str = "float16",
    max_tokens: int = -1,
    stored: str = "all",
    capture_settings: str = "",
    dtype: str = "auto",
    quantization: str = "none",
    model_settings: str = "",
    store: str = "",
):
    """Run a corpus through a model and keep its activations.

    Args:
        corpus: Tokenised corpus (corpus/...).
        activations: Activations of the hook point, in shards in the store.
        summary: A page on it, for the dashboard to show.
        layer: Layer of hook points that name none, from 0; -1: the middle one.
        model: Language model: a folder, a GGUF file, an id on the hub (NAME@REVISION), demo, smollm2, or
            subject/... in the store; empty: the one that the corpus was tokenised for.
        hook: Hook points, for example resid_post.3: resid_pre, resid_mid, resid_post, attn_out, mlp_in, mlp_out or
            mlp_act, at layer, or with a layer of its own.
        batch_size: Sequences of full length in one forward pass.
        storage_dtype: Number format of the stored activations; bfloat16 takes the place of float16 where a value is
            beyond 65,504.
        max_tokens: Stop after the training sequence that reaches this many kept tokens; -1: never.
        stored: Heldout: training activations are not stored, but computed when they are asked for (all, heldout).
        capture_settings: Other settings as JSON; mistudio capture --parameters lists them.
        dtype: Number format of the model: auto (float32 on CPU, bfloat16 or float16 on a GPU), float32, bfloat16 or
            float16.
        quantization: Quantise the weights: none, int8 or nf4 (by bitsandbytes).
        model_settings: Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.
        store: Store: a folder, or s3://bucket/prefix; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    steps.own_process("capture")
    done = steps.run_step(
        "capture",
        corpus=steps.artifact_uri(corpus.path),
        layer=None if layer == -1 else layer,
        model=model or None,
        hook=hook,
        batch_size=batch_size,
        storage_dtype=storage_dtype,
        max_tokens=None if max_tokens == -1 else max_tokens,
        stored=stored,
        capture_settings=capture_settings or None,
        dtype=dtype,
        quantization=quantization,
        model_settings=model_settings or None,
        store=store or None,
    )
    done.write_to(activations)
    done.write_summary_to(summary)
