"""The find_part step as a KFP component."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def find_part(
    sae: dsl.Input[dsl.Model],
    features_part: dsl.Output[dsl.Dataset],
    model: str = "",
    part: int = 0,
    num_parts: int = 1,
    contexts: int = 20,
    context_before: int = 24,
    context_after: int = 8,
    dtype: str = "auto",
    quantization: str = "none",
    model_settings: str = "",
    seed: int = 0,
    store: str = "",
):
    """Make one part of find's pass over the activations, to be put together by find.

    Args:
        sae: Trained autoencoder (sae/...).
        features_part: What the pass found in this part.
        model: Language model that was captured: demo, a folder, an id on the model hub (NAME@REVISION), or subject/...
            in the store; empty: where the capture says.
        part: Which part, from 0.
        num_parts: How many parts the activations are cut into.
        contexts: Strongest contexts kept a feature, each from another document.
        context_before: Tokens shown before the strongest one.
        context_after: Tokens shown after it.
        dtype: Number format of the model: auto, float32, bfloat16 or float16.
        quantization: Quantise the model: none, int8 or nf4 (by bitsandbytes).
        model_settings: Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.
        seed: Seed of everything random.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    done = steps.find_part(
        sae=steps.artifact_uri(sae.path),
        model=model,
        **{"part": part, "num_parts": num_parts, "contexts": contexts},
        **{"context_before": context_before, "context_after": context_after},
        **{"dtype": dtype, "quantization": quantization, "model_settings": model_settings},
        **{"seed": seed, "store": store},
    )
    done.write_to(features_part)
