"""The score step as a KFP component. Written by ``make components`` from its declaration: do not edit."""

from typing import Optional

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def score(
    explanations: dsl.Input[dsl.Dataset],
    scores: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
    best_by: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045 - kfp reads no other spelling
    base: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045 - kfp reads no other spelling
    model: str = "",
    scorer: str = "program",
    only: str = "",
    max_tokens: int = 200000,
    resamples: int = 500,
    score_settings: str = "",
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
    """Measure how well explanations predict their features. Reads held-out documents.

    Args:
        explanations: Explanations of features (explanations/...).
        scores: Every figure of every explanation, with its interval.
        summary: A page on it, for the dashboard to show.
        metrics: The figures, for the dashboard to compare.
        best_by: Scores of their features (scores/...), which a selection such as best:50 goes by.
        base: Scores of their features (scores/...), made with the same settings, to keep and add to.
        model: Language model: a folder, a GGUF file, an id on the hub (NAME@REVISION), demo, smollm2, or
            subject/... in the store; empty: where the capture says.
        scorer: Who scores: program, detection, fuzzing, simulation, surprisal, embedding, intruder, intervention;
            several with commas.
        only: Features to work on: numbers and ranges (12,40-90), best:50 (by score), densest:50, rarest:50,
            coherent:50, group:7, cluster:3, unlabelled; several with commas; empty: all.
        max_tokens: Held-out tokens that explanations are tried on, of whole documents.
        resamples: Bootstrap draws of the documents.
        score_settings: Other settings as JSON; mistudio score --parameters lists them.
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

    steps.own_process("score")
    done = steps.run_step(
        "score",
        explanations=steps.artifact_uri(explanations.path),
        best_by=steps.artifact_uri(best_by.path) if best_by else None,
        base=steps.artifact_uri(base.path) if base else None,
        model=model or None,
        scorer=scorer,
        only=only or None,
        max_tokens=max_tokens,
        resamples=resamples,
        score_settings=score_settings or None,
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
    done.write_to(scores)
    done.write_summary_to(summary)
    for name, value in done.metrics().items():
        metrics.log_metric(name, value)
