"""The score step as a KFP component."""

from kfp import dsl

from components.images import BATCH_IMAGE


@dsl.component(base_image=BATCH_IMAGE, install_kfp_package=False)
def score(
    explanations: dsl.Input[dsl.Dataset],
    scores: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    model: str = "",
    scorer: str = "program",
    max_tokens: int = 200000,
    resamples: int = 500,
    judge_url: str = "",
    judge_model: str = "",
    judge_tokens: int = -1,
    judge_settings: str = "",
    seed: int = 0,
    store: str = "",
):
    """Measure on held-out documents how well explanations predict their features.

    Args:
        explanations: Explanations of features (explanations/...).
        scores: All figures of all explanations, and a summary.
        metrics: The summary, for the dashboard to compare.
        model: Language model that was captured: demo, a folder, an id on the model hub (NAME@REVISION), or subject/...
            in the store; empty: where the capture says.
        scorer: Who scores: program, detection, fuzzing, simulation, surprisal, embedding, intruder, intervention; or
            several, with commas.
        max_tokens: Held-out tokens that explanations are tried on, of whole documents.
        resamples: Bootstrap draws of the documents, for the intervals.
        judge_url: Address of an OpenAI-compatible endpoint, up to and with /v1; the program scorer needs none.
        judge_model: Name of the language model there; without judge_url a folder or hub id of one to load here.
        judge_tokens: Most tokens, read and written, to pay for; -1: no limit.
        judge_settings: Other settings of it as JSON, such as {"temperature": null, "concurrency": 32}.
        seed: Seed of everything random.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio import steps

    judge = {"judge_url": judge_url, "judge_model": judge_model, "judge_tokens": judge_tokens}
    others = {"resamples": resamples, "judge_settings": judge_settings, "seed": seed, "store": store}
    done = steps.score(
        explanations=steps.artifact_uri(explanations.path),
        model=model,
        scorer=scorer,
        max_tokens=max_tokens,
        **judge,
        **others,
    )
    done.write_to(scores)
    for name, value in done.metrics().items():
        metrics.log_metric(name, value)
