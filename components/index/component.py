"""The index step as a KFP component. Written by ``make components`` from its declaration: do not edit."""

from typing import Optional

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def index(
    sae: dsl.Input[dsl.Model],
    index: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
    explanations: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045 - kfp reads no other spelling
    kind: str = "auto",
    recall: float = 0.99,
    index_settings: str = "",
    seed: int = 0,
    store: str = "",
):
    """Make an index of decoder directions. What share of the nearest it finds is measured.

    Args:
        sae: Trained autoencoder (sae/...).
        index: The index, and its recall against brute force.
        summary: A page on it, for the dashboard to show.
        metrics: The figures, for the dashboard to compare.
        explanations: Explanations, to index their words too (explanations/...).
        kind: Brute force (flat), codes of a few bits (codes), the same in lists by direction (ivfpq), a graph
            (hnsw), or what size and measured recall ask for (auto).
        recall: Share of the 10 nearest features that have to be found, of every kind of query.
        index_settings: Other settings as JSON; mistudio index --parameters lists them.
        seed: Seed of everything random.
        store: Store: a folder, or s3://bucket/prefix; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    steps.own_process("index")
    done = steps.run_step(
        "index",
        sae=steps.artifact_uri(sae.path),
        explanations=steps.artifact_uri(explanations.path) if explanations else None,
        kind=kind,
        recall=recall,
        index_settings=index_settings or None,
        seed=seed,
        store=store or None,
    )
    done.write_to(index)
    done.write_summary_to(summary)
    for name, value in done.metrics().items():
        metrics.log_metric(name, value)
