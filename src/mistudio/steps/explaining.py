"""Steps that say what features mean, and check it: explain and score.

As in ``batch``: functions of plain values, for the command line and for KFP components.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from mistudio.artifacts import Artifact, Produced, Store, open_artifact
from mistudio.steps.batch import subject_settings, subject_source
from mistudio.steps.defaults import CHOOSE, optional
from mistudio.steps.running import StepOutput, run_step
from mistudio.steps.validation import json_object, refused, validated
from mistudio.tracking import Run

if TYPE_CHECKING:
    from mistudio.explain import JudgeSource
    from mistudio.explain.llm_open import JudgeChoice
    from mistudio.subject import SubjectConfig

# The first of them that a scorer gives is drawn.
_MAIN_METRICS = ("f1", "balanced_accuracy", "auroc", "accuracy", "correlation")
_SHUFFLED = "-shuffled"  # ends the name of a scorer's control


def explain(
    features: str,
    model: str = "",
    explainer: str = "program",
    max_tokens: int = 400_000,
    threshold: float = 0.2,
    contexts: int = 40,
    labels: str = "",
    judge_url: str = "",
    judge_model: str = "",
    judge_tokens: int = CHOOSE,
    judge_settings: str = "",
    device: str = "auto",
    revision: str = "",
    trust_remote_code: bool = False,
    seed: int = 0,
    store: str = "",
) -> StepOutput:
    """Describe what each feature fires on, from training documents.

    Args:
        features: Found features (features/...).
        model: Language model that was captured: demo, a folder, an id on the model hub (NAME@REVISION), or subject/...
            in the store; empty: where the capture says.
        explainer: Who explains: program, max-activating, contrastive, token-activation-pairs; several with commas.
        max_tokens: Training tokens that programs are searched on, of whole documents.
        threshold: A feature fires above this fraction of its maximum.
        contexts: Contexts of each kind that a language model may be shown of a feature.
        labels: File with people's own labels: JSON Lines or CSV with the columns feature and label; they win.
        judge_url: Address of an OpenAI-compatible endpoint, up to and with /v1; the program explainer needs none.
        judge_model: Name of the language model there; without judge_url a folder or hub id of one to load here.
        judge_tokens: Most tokens, read and written, to pay for; -1: no limit.
        judge_settings: Other settings of it as JSON, such as {"temperature": null, "concurrency": 32}.
        device: Where to compute: auto, cpu, cuda or cuda:N.
        revision: Branch, tag or commit on the model hub.
        trust_remote_code: Run Python code that comes with the model.
        seed: Seed of everything random.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio.explain import ExplainConfig
    from mistudio.explain import explain as explain_features

    def work(opened: Store, _run: Run) -> Produced:
        subject = subject_settings("auto", "none", device, trust_remote_code)
        settings = {"explainers": names_of(explainer), "max_tokens": max_tokens, "contexts": contexts}
        found = open_artifact(opened, features, "features")
        return explain_features(
            opened,
            found,
            subject_source(model, revision, opened, found),
            subject,
            validated(ExplainConfig, settings | {"program": {"threshold": threshold}}),
            seed,
            Path(labels).expanduser() if labels else None,
            judge_source(opened, judge_url, judge_model, judge_tokens, judge_settings, subject, explainer),
        )

    return run_step("explain", store, work)


def names_of(text: str) -> list[str]:
    """The names between the commas."""
    return [name for name in text.replace(" ", "").split(",") if name]


def judge_source(
    store: Store, url: str, model: str, max_tokens: int, settings: str, subject: "SubjectConfig", wanted_by: str
) -> "JudgeSource | None":
    """The language model that a step's parameters name, if they name one; its answers are remembered in the store.

    Raises:
        ConfigError: an address or settings come without a model, or are refused.
        SubjectError: a model is named without an address, and there is no such model here.
    """
    from mistudio.explain import JudgeSource
    from mistudio.explain.llm_open import open_judge

    config = judge_choice(url, model, max_tokens, settings, subject)
    if config is None:
        return None
    answers = Path(store.url) / ".mistudio" / "answers"
    return JudgeSource(config.settings(), lambda: open_judge(config, wanted_by, answers))


def judge_choice(
    url: str, model: str, max_tokens: int, settings: str, subject: "SubjectConfig"
) -> "JudgeChoice | None":
    """How the language model is configured that a step's parameters name; None if they name none.

    Raises:
        ConfigError: an address or settings come without a model, or are refused.
    """
    from mistudio.explain.llm_open import judge_config

    others = json_object("judge_settings", settings, '{"concurrency": 32}')
    try:
        return judge_config(url, model, optional(max_tokens), subject, others)
    except ValidationError as error:
        raise refused(error) from error


def score(
    explanations: str,
    model: str = "",
    scorer: str = "program",
    max_tokens: int = 200_000,
    resamples: int = 500,
    judge_url: str = "",
    judge_model: str = "",
    judge_tokens: int = CHOOSE,
    judge_settings: str = "",
    device: str = "auto",
    revision: str = "",
    trust_remote_code: bool = False,
    seed: int = 0,
    store: str = "",
) -> StepOutput:
    """Measure on held-out documents how well explanations predict their features.

    Args:
        explanations: Explanations of features (explanations/...).
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
        device: Where to compute: auto, cpu, cuda or cuda:N.
        revision: Branch, tag or commit on the model hub.
        trust_remote_code: Run Python code that comes with the model.
        seed: Seed of everything random.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.
    """
    from mistudio.score import ScoreConfig
    from mistudio.score import score as score_explanations

    def work(opened: Store, _run: Run) -> Produced:
        subject = subject_settings("auto", "none", device, trust_remote_code)
        settings = {"scorers": names_of(scorer), "max_tokens": max_tokens, "resamples": resamples}
        explained = open_artifact(opened, explanations, "explanations")
        return score_explanations(
            opened,
            explained,
            subject_source(model, revision, opened, explained),
            subject,
            validated(ScoreConfig, settings),
            seed,
            judge_source(opened, judge_url, judge_model, judge_tokens, judge_settings, subject, scorer),
        )

    return run_step("score", store, work, _plot_scores)


def _plot_scores(scores: Artifact, run: Run) -> None:
    """One figure a scorer: its main metric for every explainer, the shuffled control beside them."""
    from mistudio.report.plots import scores_figure
    from mistudio.score import read_scores

    values: dict[str, dict[str, dict[str, list[float]]]] = {}  # by scorer, metric and what was scored
    for score in read_scores(scores):
        scorer = score.scorer.removesuffix(_SHUFFLED)
        name = score.explainer + (", shuffled" if scorer != score.scorer else "")
        values.setdefault(scorer, {}).setdefault(score.metric, {}).setdefault(name, []).append(score.value)
    for scorer, metrics in values.items():
        metric = next((name for name in _MAIN_METRICS if name in metrics), next(iter(metrics)))
        run.log_figure(scores_figure(metrics[metric], metric), f"scores_{scorer}.png")
