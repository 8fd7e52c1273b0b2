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
    from mistudio.explain.keeping import Base
    from mistudio.score import ScoreConfig

# The first of them that a scorer gives is drawn.
_MAIN_METRICS = ("f1", "balanced_accuracy", "auroc", "accuracy", "correlation")
_SHUFFLED = "-shuffled"  # ends the name of a scorer's control
_LABELS = "File with people's own labels: JSON Lines or CSV with the columns feature and label; they win."
_TO_CHOOSE = "which a selection such as best:50 goes by"
_TO_ADD = "made with the same settings, to keep and add to"


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
        scores=inputs.maybe("scores"),
        base=inputs.maybe("base"),
    )


def _newest_explanations(context: Context, inputs: Inputs, config: "ExplainConfig") -> "Base | None":
    from mistudio.explain import newest_explanations

    features = inputs.one("features")
    subject, source = context.subject(features), context.source(features)
    judge = context.judge(subject, ",".join(config.explainers))
    scores = inputs.maybe("scores")
    return newest_explanations(context.store, features, source, subject, config, context.seed, judge, scores)


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
        best_by=inputs.maybe("best_by"),
        base=inputs.maybe("base"),
    )


def _newest_scores(context: Context, inputs: Inputs, config: "ScoreConfig") -> "Base | None":
    from mistudio.score import newest_scores

    explanations = inputs.one("explanations")
    subject, source = context.subject(explanations), context.source(explanations)
    judge = context.judge(subject, ",".join(config.scorers))
    best_by = inputs.maybe("best_by")
    return newest_scores(context.store, explanations, source, subject, config, context.seed, judge, best_by)


def _check_explain(asked: Asked, _others: Mapping[str, Asked]) -> None:
    from mistudio.explain import check_explainers

    check_explainers(asked.config, has_judge=_has_judge(asked))
    _check_only(asked.config.only)


def _check_score(asked: Asked, others: Mapping[str, Asked]) -> None:
    from mistudio.explain.config import PROGRAM
    from mistudio.score import check_scorers

    check_scorers(asked.config, has_judge=_has_judge(asked))
    _check_only(asked.config.only, has_explanations=True)
    explainers = others["explain"].config.explainers if "explain" in others else (PROGRAM,)
    if PROGRAM in asked.config.scorers and PROGRAM not in explainers:
        message = (
            f"scorer {PROGRAM} runs programs, and explainer {','.join(explainers)} writes none: add {PROGRAM} to the "
            "explainers, or use other scorers, such as detection."
        )
        raise ConfigError(message)


def _check_only(only: str | None, *, has_explanations: bool = False) -> None:
    """Refuse a selection that a pipeline cannot tell, which starts without scores and explanations.

    Raises:
        ConfigError: it needs what there is not.
    """
    from mistudio.features.selection import parse_selection

    selection = parse_selection(only) if only is not None else None
    lacks = "scores" if selection and selection.needs_scores else ""
    if selection and selection.needs_explanations and not has_explanations:
        lacks = "explanations"
    if lacks:
        message = (
            f"only {selection} needs {lacks} that there are before the run, and a pipeline makes its own: select by "
            "numbers, densest, rarest, coherent, group or cluster, and go on with mistudio explain."
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
    title="Explain features",
    summary="Describe what each feature fires on. Reads training documents.",
    config="mistudio.explain.config:ExplainConfig",
    inputs=(
        Input("features", "features", "Found features (features/...)."),
        Input("scores", "scores", f"Scores of these features (scores/...), {_TO_CHOOSE}.", optional=True),
        Input("base", "explanations", f"Explanations of them (explanations/...), {_TO_ADD}.", optional=True),
    ),
    newest_base=_newest_explanations,
    output=Output("explanations", "explanations", "What every explainer says of every feature, and a label for each."),
    arguments=(Argument("labels", str, _LABELS),),
    uses=frozenset({"model", "judge", "seed"}),
    check=_check_explain,
    run=_explain,
)
SCORE = Step(
    name="score",
    title="Score explanations",
    summary="Measure how well explanations predict their features. Reads held-out documents.",
    config="mistudio.score.config:ScoreConfig",
    inputs=(
        Input("explanations", "explanations", "Explanations of features (explanations/...)."),
        Input("best_by", "scores", f"Scores of their features (scores/...), {_TO_CHOOSE}.", optional=True),
        Input("base", "scores", f"Scores of their features (scores/...), {_TO_ADD}.", optional=True),
    ),
    newest_base=_newest_scores,
    output=Output("scores", "scores", "Every figure of every explanation, with its interval.", metrics=True),
    uses=frozenset({"model", "judge", "seed"}),
    check=_check_score,
    plot=_plot_scores,
    run=_score,
)
