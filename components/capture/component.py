"""The capture step as a KFP component."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def capture(
    corpus: dsl.Input[dsl.Dataset],
    activations: dsl.Output[dsl.Dataset],
    model: str = "demo",
    hook: str = "resid_post",
    layer: int = -1,
    max_tokens: int = -1,
    batch_size: int = 32,
    storage_dtype: str = "float16",
    stored: str = "all",
    dtype: str = "auto",
    quantization: str = "none",
    model_settings: str = "",
    store: str = "",
):
    """Run the corpus through the model and keep the activations at a hook point.

    Args:
        corpus: Tokenised corpus (corpus/...).
        activations: Captured activations.
        model: Language model: demo, a folder, an id on the model hub (NAME@REVISION), or subject/... in the store.
        hook: Hook point: resid_pre, resid_mid, resid_post, attn_out, mlp_in, mlp_out or mlp_act, at layer, or with
            a layer of its own, such as resid_post.3; several with commas.
        layer: Layer of hook points that name none, from 0; -1: the middle one.
        max_tokens: Keep at most about this many training tokens; -1: all.
        batch_size: Sequences of full length in one forward pass, 1 to 128.
        storage_dtype: Number format of the stored activations: float16 or bfloat16.
        stored: What to store: all, or heldout, where training computes its activations anew as it goes (live).
        dtype: Number format of the model: auto, float32, bfloat16 or float16.
        quantization: Quantise the model: none, int8 or nf4 (by bitsandbytes).
        model_settings: Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    steps.capture(
        corpus=steps.artifact_uri(corpus.path),
        model=model,
        hook=hook,
        layer=layer,
        max_tokens=max_tokens,
        batch_size=batch_size,
        storage_dtype=storage_dtype,
        stored=stored,
        **{"dtype": dtype, "quantization": quantization, "model_settings": model_settings},
        store=store,
    ).write_to(activations)
