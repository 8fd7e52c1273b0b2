"""What a model is steered along, and whether that does what it says: the steps direction and steer_evaluate."""

from typing import TYPE_CHECKING, Any

from mistudio.artifacts import Artifact, Produced
from mistudio.errors import SubjectError
from mistudio.steps.choose import choose_layer, name_hooks
from mistudio.steps.context import Context
from mistudio.steps.spec import Argument, Choice, Input, Inputs, Output, Page, Step
from mistudio.tracking import Run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mistudio.directions.config import DirectionConfig
    from mistudio.steer.evaluate.config import SteerEvaluateConfig

_HOOK = "resid_post"
_EXAMPLES = (
    "JSON Lines file, or name of an added corpus, with the examples of both classes: text, or messages of a chat, and "
    "label; None: positive and negative have them."
)
_OF_ONE_CLASS = "The same with the {} examples alone, in place of one with labels; None: examples has them."


def _direction(context: Context, _inputs: Inputs, config: "DirectionConfig") -> Produced:
    from mistudio.directions.example_files import Files
    from mistudio.directions.step import direction

    labelled, positive, negative = (str(context.argument(name) or "") for name in ("examples", "positive", "negative"))
    files = Files.read(labelled, positive, negative, context.store)
    return direction(context.store, files, context.source(), context.subject(), config, context.seed)


def choose_hook_point(context: Context, _inputs: Inputs, _content: "Mapping[str, Any]", given: str | None) -> str:
    """The hook point given, at the layer in the middle where it names none.

    Raises:
        ConfigError: it is no hook point.
        SubjectError: the model's configuration does not say how many layers it has.
        InputError: the model has no such layer.
    """
    facts = context.model_facts()
    if facts.num_layers is None:
        message = f"The configuration of {context.source().name} does not say how many transformer blocks there are."
        raise SubjectError(message)
    ((kind, layer),) = name_hooks([given or _HOOK], None)
    return f"{kind}.{choose_layer(layer, facts.num_layers)}"


DIRECTION = Step(
    name="direction",
    title="Make direction",
    summary="Make a direction of positive and negative examples. Tried on held-out ones, beside controls.",
    config="mistudio.directions.config:DirectionConfig",
    output=Output("direction", "direction", "The direction, its hook point and its figures.", metrics=True),
    arguments=(
        Argument("examples", str, _EXAMPLES),
        Argument("positive", str, _OF_ONE_CLASS.format("positive")),
        Argument("negative", str, _OF_ONE_CLASS.format("negative")),
    ),
    uses=frozenset({"model", "seed"}),
    choices={
        "hook": Choice(
            "resid_post at the layer in the middle, which a kind without a layer stands for too",
            choose_hook_point,
            f"{_HOOK}.0",
            complete_given=lambda hook: f"{hook}.0" if "." not in hook else hook,
        )
    },
    run=_direction,
)


def _steer_evaluate(context: Context, inputs: Inputs, config: "SteerEvaluateConfig") -> Produced:
    from mistudio.directions.example_files import Files
    from mistudio.steer.evaluate.step import steer_evaluate

    features = inputs.one("features")
    examples, positive, negative = (str(context.argument(name) or "") for name in ("examples", "positive", "negative"))
    return steer_evaluate(
        context.store,
        features,
        context.source(features),
        context.subject(features),
        config,
        context.seed,
        explanations=inputs.maybe("explanations"),
        scores=inputs.maybe("scores"),
        files=Files.read(examples, positive, negative, context.store) if examples or positive or negative else None,
    )


def _plot_steering(artifact: Artifact, run: Run) -> None:
    """Two figures a feature: strength and what comes of it, and the push beside the concept."""
    import pyarrow.parquet as pq

    from mistudio.report.plots import dose_response_figure, push_figure
    from mistudio.steer.evaluate.records import TRIED

    rows = pq.read_table(artifact.file(TRIED.name)).to_pylist()
    for feature in dict.fromkeys(row["feature"] for row in rows):
        own = [row for row in rows if row["feature"] == feature]
        run.log_figure(dose_response_figure(own), f"dose_response_{feature}.png")
        run.log_figure(push_figure(own), f"push_{feature}.png")


_JUDGING = "JSON Lines file with labelled examples: they choose features and judge texts; None: neither."
STEER_EVALUATE = Step(
    name="steer_evaluate",
    title="Evaluate steering",
    summary="Measure what steering along features does to texts. At all strengths, beside controls at an equal push.",
    config="mistudio.steer.evaluate.config:SteerEvaluateConfig",
    inputs=(
        Input("features", "features", "Found features (features/...)."),
        Input("explanations", "explanations", "Explanations of them (explanations/...).", optional=True),
        Input("scores", "scores", "Scores of those (scores/...), by which the best are taken.", optional=True),
    ),
    output=Output(
        "steering",
        "steering",
        "Every strength of every feature, controls, texts, and the strengths for use.",
        metrics=True,
        pages=(Page("summary", "Markdown", "steering.md", "What steering does, feature by feature."),),
    ),
    arguments=(
        Argument("examples", str, _JUDGING),
        Argument("positive", str, _OF_ONE_CLASS.format("positive")),
        Argument("negative", str, _OF_ONE_CLASS.format("negative")),
    ),
    uses=frozenset({"model", "seed"}),
    plot=_plot_steering,
    about=lambda values: str(values.get("features", "")),
    run=_steer_evaluate,
)
