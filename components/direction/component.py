"""The direction step as a KFP component. Written by ``make components`` from its declaration: do not edit."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def direction(
    direction: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
    examples: str = "",
    positive: str = "",
    negative: str = "",
    model: str = "demo",
    hook: str = "",
    method: str = "mean_difference",
    pool: str = "mean",
    positive_label: str = "",
    negative_label: str = "",
    direction_settings: str = "",
    dtype: str = "auto",
    quantization: str = "none",
    model_settings: str = "",
    seed: int = 0,
    store: str = "",
):
    """Make a direction of positive and negative examples. Tried on held-out ones, beside controls.

    Args:
        direction: The direction, its hook point and its figures.
        summary: A page on it, for the dashboard to show.
        metrics: The figures, for the dashboard to compare.
        examples: JSON Lines file, or name of an added corpus, with the examples of both classes: text, or messages
            of a chat, and label; empty: positive and negative have them.
        positive: The same with the positive examples alone, in place of one with labels; empty: examples has them.
        negative: The same with the negative examples alone, in place of one with labels; empty: examples has them.
        model: Language model: a folder, a GGUF file, an id on the hub (NAME@REVISION), demo, smollm2, or
            subject/... in the store.
        hook: Hook point, for example resid_post.3; empty: resid_post at the layer in the middle, which a kind
            without a layer stands for too.
        method: How: the difference of the classes' means, or the normal of a logistic regression (mean_difference,
            logistic).
        pool: How the tokens of an example become one vector (mean, last).
        positive_label: Label of the positive examples; empty: 1, true, yes, positive or pos, beside its opposite.
        negative_label: Label of the negative examples; empty: all other labels.
        direction_settings: Other settings as JSON; mistudio direction --parameters lists them.
        dtype: Number format of the model: auto (float32 on CPU, bfloat16 or float16 on a GPU), float32, bfloat16 or
            float16.
        quantization: Quantise the weights: none, int8 or nf4 (by bitsandbytes).
        model_settings: Other settings of loading it as JSON, such as {"device_map": "auto", "max_memory_gb": 20}.
        seed: Seed of everything random.
        store: Store: a folder, or s3://bucket/prefix; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    steps.own_process("direction")
    done = steps.run_step(
        "direction",
        examples=examples or None,
        positive=positive or None,
        negative=negative or None,
        model=model,
        hook=hook or None,
        method=method,
        pool=pool,
        positive_label=positive_label or None,
        negative_label=negative_label or None,
        direction_settings=direction_settings or None,
        dtype=dtype,
        quantization=quantization,
        model_settings=model_settings or None,
        seed=seed,
        store=store or None,
    )
    done.write_to(direction)
    done.write_summary_to(summary)
    for name, value in done.metrics().items():
        metrics.log_metric(name, value)
