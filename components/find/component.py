"""The find step as a KFP component."""

from typing import Optional

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def find(
    sae: dsl.Input[dsl.Model],
    features: dsl.Output[dsl.Dataset],
    parts: Optional[dsl.Input[list[dsl.Dataset]]] = None,  # noqa: UP045 - kfp reads no other spelling
    model: str = "",
    contexts: int = 20,
    context_before: int = 24,
    context_after: int = 8,
    ablation_contexts: int = 2,
    attribution_contexts: int = 1,
    dtype: str = "auto",
    quantization: str = "none",
    model_settings: str = "",
    seed: int = 0,
    store: str = "",
):
    """Find what activates each feature, which features are alike, and what each does in the model.

    Args:
        sae: Trained autoencoder (sae/...).
        features: Statistics, contexts, neighbours and effects of every feature.
        parts: All parts of the pass, where find_part made them.
        model: Language model that was captured: demo, a folder, an id on the model hub (NAME@REVISION), or subject/...
            in the store; empty: where the capture says.
        contexts: Strongest contexts kept a feature, each from another document.
        context_before: Tokens shown before the strongest one.
        context_after: Tokens shown after it.
        ablation_contexts: Contexts a feature in which zeroing it is tried: three forward passes each; 0: none.
        attribution_contexts: Contexts a feature traced to input tokens: five passes with gradients each; 0: none.
        dtype: Number format of the model: auto, float32, bfloat16 or float16.
        quantization: Quantise the model: none, int8 or nf4 (by bitsandbytes).
        model_settings: Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.
        seed: Seed of everything random.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    done = steps.find(
        sae=steps.artifact_uri(sae.path),
        parts=",".join(steps.artifact_uri(part.path) for part in parts or []),
        model=model,
        contexts=contexts,
        **{"context_before": context_before, "context_after": context_after},
        ablation_contexts=ablation_contexts,
        attribution_contexts=attribution_contexts,
        **{"dtype": dtype, "quantization": quantization, "model_settings": model_settings},
        **{"seed": seed, "store": store},
    )
    done.write_to(features)
