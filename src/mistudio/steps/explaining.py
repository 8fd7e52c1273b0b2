"""What features mean, and whether that is so: the steps explain and score."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mistudio.artifacts import Artifact, Produced
from mistudio.errors import ConfigError
from mistudio.paths import given_path
from mistudio.steps.context import Context, judge_choice
from mistudio.steps.spec import Argument, Asked, Input, Inputs, Output, Step
from mistudio.tracking import Run

if TYPE_CHECKING:
    from mistudio.explain import ExplainConfig
    from mistudio.score import ScoreConfig

# The first of them that a scorer gives is drawn.
_MAIN_METRICS = ("f1", "balanced_accuracy", "auroc", "accuracy", "correlation")
_SHUFFLED = "-shuffled"  # ends the name of a scorer's control
_LABELS = "File with people's own labels: JSON Lines or CSV with the columns feature and label; they win."


def _explain(context: Context, inputs: Inputs, config: "ExplainConfig") -> Produced:
    from mistudio.explain import explain

    features = inputs.one("features")
    subject, labels = context.subject(features), context.argument("labels")
    return explain(
        context.store,
        features,
        context.source(features),
        subject,
        config,
        context.seed,
        given_path(labels, "The file of labels") if labels else None,
        context.judge(subject, ",".join(config.explainers)),
    )


def _score(context: Context, inputs: Inputs, config: "ScoreConfig") -> Produced:
    from mistudio.score import score

    explanations = inputs.one("explanations")
    subject = context.subject(explanations)
    return score(
        context.store,
        explanations,
        context.source(explanations),
        subject,
        config,
        context.seed,
        context.judge(subject, ",".join(config.scorers)),
    )


def _check_explain(asked: Asked, _others: Mapping[str, Asked]) -> None:
    from mistudio.explain import check_explainers

    check_explainers(asked.config, has_judge=_has_judge(asked))


def _check_score(asked: Asked, others: Mapping[str, Asked]) -> None:
    from mistudio.explain.config import PROGRAM
    from mistudio.score import check_scorers

    check_scorers(asked.config, has_judge=_has_judge(asked))
    explainers = others["explain"].config.explainers if "explain" in others else (PROGRAM,)
    if PROGRAM in asked.config.scorers and PROGRAM not in explainers:
        message = (
            f"scorer {PROGRAM} runs programs, and explainer {','.join(explainers)} writes none: add {PROGRAM} to the "
            "explainers, or use other scorers, such as detection."
        )
        raise ConfigError(message)


def _has_judge(asked: Asked) -> bool:
    from mistudio.subject import SubjectConfig

    return judge_choice(asked.given, SubjectConfig()) is not None


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


EXPLAIN = Step(
    name="explain",
    summary="Describe what each feature fires on, from training documents.",
    config="mistudio.explain.config:ExplainConfig",
    inputs=(Input("features", "features", "Found features (features/...)."),),
    output=Output("explanations", "explanations", "What every explainer says of every feature, and a label for each."),
    arguments=(Argument("labels", str, _LABELS),),
    uses=frozenset({"model", "judge", "seed"}),
    check=_check_explain,
    run=_explain,
)
SCORE = Step(
    name="score",
    summary="Measure on held-out documents how well explanations predict their features.",
    config="mistudio.score.config:ScoreConfig",
    inputs=(Input("explanations", "explanations", "Explanations of features (explanations/...)."),),
    output=Output("scores", "scores", "Every figure of every explanation, with its interval.", metrics=True),
    uses=frozenset({"model", "judge", "seed"}),
    check=_check_score,
    plot=_plot_scores,
    run=_score,
)
