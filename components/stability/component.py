"""The stability step as a KFP component. Written by ``make components`` from its declaration: do not edit."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def stability(
    saes: dsl.Input[list[dsl.Model]],
    stability: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
    found_above: float = 0.7,
    exact_width: int = 8192,
    seed: int = 0,
    store: str = "",
):
    """Compare features of autoencoders of different seeds.

    Args:
        saes: Two or more trained autoencoders of one width (sae/...), with commas.
        stability: The match of every feature in every pair, and figures.
        summary: A page on it, for the dashboard to show.
        metrics: The figures, for the dashboard to compare.
        found_above: A latent is found again where the cosine with its match is above this.
        exact_width: Most latents for which the best matching is found, with 8 bytes of memory a pair of latents;
            above, only each latent's 32 nearest are considered.
        seed: Seed of everything random.
        store: Store: a folder, or s3://bucket/prefix; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    steps.own_process("stability")
    done = steps.run_step(
        "stability",
        saes=[steps.artifact_uri(each.path) for each in saes],
        found_above=found_above,
        exact_width=exact_width,
        seed=seed,
        store=store or None,
    )
    done.write_to(stability)
    done.write_summary_to(summary)
    for name, value in done.metrics().items():
        metrics.log_metric(name, value)
