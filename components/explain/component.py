"""The explain step as a KFP component. Written by ``make components`` from its declaration: do not edit."""

from typing import Optional

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def explain(
    features: dsl.Input[dsl.Dataset],
    explanations: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Markdown],
    scores: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045 - kfp reads no other spelling
    base: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045 - kfp reads no other spelling
    labels: str = "",
    model: str = "",
    explainer: str = "program",
    only: str = "",
    max_tokens: int = 400000,
    contexts: int = 40,
    threshold: float = 0.2,
    explain_settings: str = "",
    judge_url: str = "",
    judge_model: str = "",
    judge_tokens: int = -1,
    judge_settings: str = "",
    dtype: str = "",
    quantization: str = "",
    model_settings: str = "",
    seed: int = 0,
    store: str = "",
):
    """Describe what each feature fires on. Reads training documents.

    Args:
        features: Found features (features/...).
        explanations: What every explainer says of every feature, and a label for each.
        summary: A page on it, for the dashboard to show.
        scores: Scores of these features (scores/...), which a selection such as best:50 goes by.
        base: Explanations of them (explanations/...), made with the same settings, to keep and add to.
        labels: File with people's own labels: JSON Lines or CSV with the columns feature and label; they win.
        model: Language model: a folder, a GGUF file, an id on the hub (NAME@REVISION), demo, smollm2, or
            subject/... in the store; empty: where the capture says.
        explainer: Who explains: program, max-activating, contrastive, token-activation-pairs; several with commas,
            of which the first that has a label gives it.
        only: Features to work on: numbers and ranges (12,40-90), best:50 (by score), densest:50, rarest:50,
            coherent:50, group:7, cluster:3, unlabelled; several with commas; empty: all.
        max_tokens: Training tokens that programs are searched on, of whole documents.
        contexts: Contexts of each kind that a language model may be shown of a feature.
        threshold: A feature fires above this fraction of its maximum on training documents.
        explain_settings: Other settings as JSON; mistudio explain --parameters lists them.
        judge_url: Address of an OpenAI-compatible endpoint, up to and with /v1; programs need none.
        judge_model: Name of the language model there; without judge_url a folder or hub id of one to load here.
        judge_tokens: Most tokens, read and written, to pay for; -1: no limit.
        judge_settings: Other settings of it as JSON, such as {"temperature": null, "concurrency": 32}.
        dtype: Number format of the model: auto (float32 on CPU, bfloat16 or float16 on a GPU), float32, bfloat16 or
            float16; empty: as captured.
        quantization: Quantise the weights: none, int8 or nf4 (by bitsandbytes); empty: as captured.
        model_settings: Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.
        seed: Seed of everything random.
        store: Store: a folder, or s3://bucket/prefix; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    steps.own_process("explain")
    done = steps.run_step(
        "explain",
        features=steps.artifact_uri(features.path),
        scores=steps.artifact_uri(scores.path) if scores else None,
        base=steps.artifact_uri(base.path) if base else None,
        labels=labels or None,
        model=model or None,
        explainer=explainer,
        only=only or None,
        max_tokens=max_tokens,
        contexts=contexts,
        threshold=threshold,
        explain_settings=explain_settings or None,
        judge_url=judge_url or None,
        judge_model=judge_model or None,
        judge_tokens=None if judge_tokens == -1 else judge_tokens,
        judge_settings=judge_settings or None,
        dtype=dtype or None,
        quantization=quantization or None,
        model_settings=model_settings or None,
        seed=seed,
        store=store or None,
    )
    done.write_to(explanations)
    done.write_summary_to(summary)
