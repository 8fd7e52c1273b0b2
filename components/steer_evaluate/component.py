"""The steer_evaluate step as a KFP component. Written by ``make components`` from its declaration: do not edit."""

from typing import Optional

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def steer_evaluate(
    features: dsl.Input[dsl.Dataset],
    steering: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
    explanations: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045 - kfp reads no other spelling
    scores: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045 - kfp reads no other spelling
    examples: str = "",
    positive: str = "",
    negative: str = "",
    model: str = "",
    only: str = "",
    num_features: int = 3,
    choose_by: str = "delta_confidence",
    perplexity_ratio: float = 1.5,
    num_prompts: int = 24,
    new_tokens: int = 24,
    steer_evaluate_settings: str = "",
    dtype: str = "",
    quantization: str = "",
    model_settings: str = "",
    seed: int = 0,
    store: str = "",
):
    """Measure what steering along features does to texts. At all strengths, beside controls at an equal push.

    Args:
        features: Found features (features/...).
        steering: Every strength of every feature, controls, texts, and the strengths for use.
        summary: What steering does, feature by feature.
        metrics: The figures, for the dashboard to compare.
        explanations: Explanations of them (explanations/...).
        scores: Scores of those (scores/...), by which the best are taken.
        examples: JSON Lines file with labelled examples: they choose features and judge texts; empty: neither.
        positive: The same with the positive examples alone, in place of one with labels; empty: examples has them.
        negative: The same with the negative examples alone, in place of one with labels; empty: examples has them.
        model: Language model: a folder, a GGUF file, an id on the hub (NAME@REVISION), demo, smollm2, or
            subject/... in the store; empty: where the capture says.
        only: Features to work on: numbers and ranges (12,40-90), best:50 (by score), densest:50, rarest:50,
            coherent:50, group:7, cluster:3, unlabelled; several with commas; empty: the num_candidates best, by
            scores or else by coherence.
        num_features: Of them, those that are tried at all strengths.
        choose_by: Effect by which they are chosen (delta_confidence, output_score, push_gain).
        perplexity_ratio: A strength is for use while perplexity is below so many times that of unsteered text.
        num_prompts: Held-out documents whose beginnings are continued.
        new_tokens: Tokens that are written behind it.
        steer_evaluate_settings: Other settings as JSON; mistudio steer-evaluate --parameters lists them.
        dtype: Number format of the model: auto (float32 on CPU, bfloat16 or float16 on a GPU), float32, bfloat16 or
            float16; empty: as captured.
        quantization: Quantise the weights: none, int8 or nf4 (by bitsandbytes); empty: as captured.
        model_settings: Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.
        seed: Seed of everything random.
        store: Store: a folder, or s3://bucket/prefix; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    steps.own_process("steer_evaluate")
    done = steps.run_step(
        "steer_evaluate",
        features=steps.artifact_uri(features.path),
        explanations=steps.artifact_uri(explanations.path) if explanations else None,
        scores=steps.artifact_uri(scores.path) if scores else None,
        examples=examples or None,
        positive=positive or None,
        negative=negative or None,
        model=model or None,
        only=only or None,
        num_features=num_features,
        choose_by=choose_by,
        perplexity_ratio=perplexity_ratio,
        num_prompts=num_prompts,
        new_tokens=new_tokens,
        steer_evaluate_settings=steer_evaluate_settings or None,
        dtype=dtype or None,
        quantization=quantization or None,
        model_settings=model_settings or None,
        seed=seed,
        store=store or None,
    )
    done.write_to(steering)
    done.write_file_to(summary, "steering.md")
    for name, value in done.metrics().items():
        metrics.log_metric(name, value)
