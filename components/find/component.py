"""The find step as a KFP component."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def find(
    sae: dsl.Input[dsl.Model],
    features: dsl.Output[dsl.Dataset],
    model: str = "demo",
    contexts: int = 20,
    context_before: int = 24,
    context_after: int = 8,
    dtype: str = "auto",
    quantization: str = "none",
    store: str = "",
):
    """Find what activates each feature: statistics, strongest contexts, logit lens.

    Args:
        sae: Trained autoencoder (sae/...).
        features: Statistics, contexts and logit lens of every feature.
        model: Language model: demo, a folder, an id on the model hub (NAME@REVISION), or subject/... in the store.
        contexts: Strongest contexts kept a feature, each from another document.
        context_before: Tokens shown before the strongest one.
        context_after: Tokens shown after it.
        dtype: Number format of the model: auto, float32, bfloat16 or float16.
        quantization: Quantise the model: none, int8 or nf4 (needs a GPU).
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    done = steps.find(
        sae=steps.artifact_uri(sae.path),
        model=model,
        contexts=contexts,
        context_before=context_before,
        context_after=context_after,
        dtype=dtype,
        quantization=quantization,
        store=store,
    )
    done.write_to(features)
