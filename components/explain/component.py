"""The explain step as a KFP component."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def explain(
    features: dsl.Input[dsl.Dataset],
    explanations: dsl.Output[dsl.Dataset],
    model: str = "",
    explainer: str = "program",
    max_tokens: int = 400000,
    threshold: float = 0.2,
    labels: str = "",
    judge_url: str = "",
    judge_model: str = "",
    judge_tokens: int = -1,
    judge_settings: str = "",
    seed: int = 0,
    store: str = "",
):
    """Describe what each feature fires on, from training documents.

    Args:
        features: Found features (features/...).
        explanations: A description of every feature.
        model: Language model that was captured: demo, a folder, an id on the model hub (NAME@REVISION), or subject/...
            in the store; empty: where the capture says.
        explainer: Who explains: program, max-activating, contrastive, token-activation-pairs; several with commas.
        max_tokens: Training tokens that programs are searched on, of whole documents.
        threshold: A feature fires above this fraction of its maximum.
        labels: File with people's own labels: JSON Lines or CSV with the columns feature and label; they win.
        judge_url: Address of an OpenAI-compatible endpoint, up to and with /v1; the program explainer needs none.
        judge_model: Name of the language model there; without judge_url a folder or hub id of one to load here.
        judge_tokens: Most tokens, read and written, to pay for; -1: no limit.
        judge_settings: Other settings of it as JSON, such as {"temperature": null, "concurrency": 32}.
        seed: Seed of everything random.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    judge = {"judge_url": judge_url, "judge_model": judge_model, "judge_tokens": judge_tokens}
    others = {"judge_settings": judge_settings, "seed": seed, "store": store}
    done = steps.explain(
        features=steps.artifact_uri(features.path),
        model=model,
        explainer=explainer,
        max_tokens=max_tokens,
        threshold=threshold,
        labels=labels,
        **judge,
        **others,
    )
    done.write_to(explanations)
