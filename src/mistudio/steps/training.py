"""Autoencoders from activations: the steps train and train_together, and the grid of a sweep."""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import product
from typing import TYPE_CHECKING, Any, TypeVar

from mistudio.artifacts import Artifact, Produced
from mistudio.errors import ConfigError
from mistudio.events import Message, emit
from mistudio.plain_text import shortened
from mistudio.settings import by_path, check_seed, get, validated
from mistudio.steps.choose import TRAINING
from mistudio.steps.context import Context, as_object
from mistudio.steps.given import check, configure, sort_given
from mistudio.steps.logged import log_output
from mistudio.steps.output import StepOutput
from mistudio.steps.spec import Argument, Asked, Input, Inputs, Output, Step
from mistudio.tracking import Run

if TYPE_CHECKING:
    from mistudio.train import TrainConfig, TrainRuntime
    from mistudio.train.config import GridConfig, ManyConfig, TogetherConfig

T = TypeVar("T")
PointSettings = dict[str, str | int | float | None]

_ACTIVATIONS = Input("activations", "activations", "Captured activations (activations/...).")
_EXAMPLE = '{"ema_decay": 0.999}'


def _train(context: Context, inputs: Inputs, config: "TrainConfig") -> Produced:
    from mistudio.train import train

    activations = inputs.one("activations")
    source = context.source(activations) if context.given.get("model") else None
    return train(
        context.store,
        activations,
        config,
        context.seed,
        _runtime(context, activations),
        context.run.log_metrics,
        source,
    )


def _train_together(context: Context, inputs: Inputs, config: "TogetherConfig") -> list[Produced]:
    """Train all points of a grid in one pass; each has an MLflow run of its own under one parent."""
    from mistudio.train import train_together

    activations = inputs.one("activations")
    settings = as_object("train_settings", context.given.get("train_settings"), _EXAMPLE)
    by_name = {name: context.given.get(name) for name in ("hook", "target_hook")}
    settings = {name: value for name, value in by_name.items() if value} | settings
    settings.setdefault("tokens", config.tokens)
    points = grid_of(config, str(context.seed), settings)
    given = [
        sort_given(TRAIN, {"activations": activations.uri, **point, "train_settings": settings}) for point in points
    ]
    configs = [configure(TRAIN, context, inputs, each.content) for each in given]
    with ExitStack() as stack:
        runs = [stack.enter_context(context.run.child(_name(point))) for point in points]
        source = context.source(activations) if context.given.get("model") else None
        produced = train_together(
            context.store,
            activations,
            configs,
            context.seed,
            _runtime(context, activations),
            [each.log_metrics for each in runs],
            source,
        )
        for own, made in zip(runs, produced, strict=True):
            if not made.found:
                log_output(own, StepOutput("train", made.artifact, made.found, 0.0), TRAIN)
    return produced


def _grid(context: Context, _inputs: Inputs, config: "GridConfig") -> list[PointSettings]:
    """List the autoencoders of a sweep; each is checked as the train step would check it."""
    settings = as_object("train_settings", context.given.get("train_settings"), _EXAMPLE)
    points = grid_of(config, config.seeds, settings)
    if (most := context.argument("most_points")) and len(points) > most:
        message = (
            f"A sweep of {len(points)} autoencoders is more than the {most} that a run on this cluster trains: ask for "
            "them in several sweeps, such as one for each seed or width, and put them together with mistudio compare."
        )
        raise ConfigError(message)
    emit(Message(text=f"{len(points)} autoencoders to train and evaluate"))
    return [{name: _OF_A_POINT.get(name) if value is None else value for name, value in p.items()} for p in points]


def grid_of(config: "ManyConfig", seeds: str, train_settings: Mapping[str, Any]) -> list[PointSettings]:
    """Every architecture with every width, sparsity and seed, as what the train step is given.

    Raises:
        ConfigError: a value is refused, or named twice.
    """
    widths: list[int] | list[None] = _values("widths", config.widths, int) or [None]
    chosen = (
        _values("architectures", config.architectures, str),
        widths,
        _values("sparsities", config.sparsities, float),
        _values("seeds", seeds, int),
    )
    for seed in chosen[-1]:
        check_seed(seed, "seeds: seed")
    if not all(chosen):
        message = "The sweep is empty: give architectures, sparsities and seeds, one of each or more."
        raise ConfigError(message)
    for path in by_path(TRAIN.settings, train_settings, "train_settings"):
        axis = _AXES.get(path.rpartition(".")[2])
        if axis:
            message = f"train_settings names {path}, which {axis} sets for each autoencoder: give it there."
            raise ConfigError(message)
    return [_point(*values, train_settings) for values in product(*chosen)]


def _point(
    architecture: str, width: int | None, sparsity: float, seed: int, train_settings: Mapping[str, Any]
) -> PointSettings:
    """The train step's options for one autoencoder, checked as far as they can be before the activations are."""
    from mistudio.sae import architecture_config

    if sparsity <= 0:
        message = f"sparsities names {sparsity:g}: give numbers of active features above 0."
        raise ConfigError(message)
    config = architecture_config(architecture)
    if config.l0_setting not in _L0_SETTINGS:
        message = f"{architecture} has neither k nor target_l0, so that no sweep can set its sparsity."
        raise ConfigError(message)
    is_whole = config.model_fields[config.l0_setting].annotation is int
    if is_whole and not sparsity.is_integer():
        message = f"{architecture} keeps a whole number of features active, not {sparsity:g}."
        raise ConfigError(message)
    own = {**dict.fromkeys(_L0_SETTINGS), config.l0_setting: int(sparsity) if is_whole else sparsity}
    point: PointSettings = {"architecture": architecture, "width": width, **own}
    check(TRAIN, {**point, "train_settings": train_settings})
    return {**point, "seed": seed}


def _values(name: str, text: str, kind: Callable[[str], T]) -> list[T]:
    """The values between the commas."""
    try:
        values = [kind(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError as error:
        numbers = "whole numbers" if kind is int else "numbers"
        message = f"{name} takes {numbers} with commas between them, not {shortened(text)}."
        raise ConfigError(message) from error
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        message = f"{name} names {twice[0]} twice: name each once."
        raise ConfigError(message)
    return values


def _name(point: PointSettings) -> str:
    """The name of its run: what it is given, as in ``topk width 1024 k 32``."""
    given = (f"{name} {point[name]:g}" for name in ("width", "k", "target_l0") if point[name] is not None)
    return " ".join([str(point["architecture"]), *given])


def _runtime(context: Context, activations: Artifact) -> "TrainRuntime":
    from mistudio.train import TrainRuntime

    subject = context.subject(activations)
    return validated(TrainRuntime, {**context.runtime, "device": context.device, "subject": subject})


def _about(values: Mapping[str, Any]) -> str:
    named = {name: values.get(name) for name in ("width", "k", "target_l0", "seed")}
    about = [f"{name} {value:g}" for name, value in named.items() if value is not None]
    return ", ".join([str(values.get("architecture") or "topk"), *about])


def _check_grid(asked: Asked, _others: Mapping[str, Asked]) -> None:
    settings = as_object("train_settings", asked.given.get("train_settings"), _EXAMPLE)
    grid_of(asked.config, asked.config.seeds, settings)


def _check_train(_asked: Asked, others: Mapping[str, Asked]) -> None:
    """A pipeline that captures trains on what it captured without naming it, so that there has to be one hook point."""
    hooks = get(others["capture"].content, "hooks") if "capture" in others else None
    if hooks and len(hooks) > 1:
        message = (
            f"hook {','.join(hooks)} is more than one hook point, and a pipeline trains on one: name one, or run the "
            "steps capture and train by themselves."
        )
        raise ConfigError(message)


def plot_training(sae: Artifact, run: Run) -> None:
    """Keep the curves of a training with its run."""
    from mistudio.report.plots import training_figure
    from mistudio.train import TRAINING_NAME

    history = json.loads(sae.file(TRAINING_NAME).read_bytes())
    names = [name for name in ("fvu", "l0", "dead_fraction") if name in history[0]]
    steps = [int(point["step"]) for point in history]
    figure = training_figure(steps, {name: [point[name] for point in history] for name in names})
    run.log_figure(figure, "training.png")


_L0_SETTINGS = ("k", "target_l0")  # the settings that a sweep can set
# What a sweep sets for each of its autoencoders, and by which of its own settings.
_AXES = {"architecture": "architectures", "width": "widths", **dict.fromkeys(_L0_SETTINGS, "sparsities")}
# A pipeline's parameters cannot be None: these stand for "not given" in what a loop hands to the train step.
_OF_A_POINT: Mapping[str, int | float] = {"width": -1, "k": -1, "target_l0": -1.0}
_SETTINGS = Argument("train_settings", dict, f"Other settings of every training as JSON, such as {_EXAMPLE}.")

TRAIN = Step(
    name="train",
    title="Train autoencoder",
    summary="Train a sparse autoencoder on captured activations.",
    config="mistudio.train.config:TrainConfig",
    runtime="mistudio.train.config:TrainRuntime",
    inputs=(_ACTIVATIONS,),
    output=Output("sae", "sae", "Trained autoencoder."),
    uses=frozenset({"live", "seed"}),
    shared=True,
    choices=TRAINING,
    check=_check_train,
    plot=plot_training,
    about=_about,
    run=_train,
)
TRAIN_TOGETHER = Step(
    name="train_together",
    summary="Train several autoencoders in one pass.",
    config="mistudio.train.config:TogetherConfig",
    runtime="mistudio.train.config:TrainRuntime",
    inputs=(_ACTIVATIONS,),
    output=Output("saes", "sae", "Trained autoencoders.", many=True),
    arguments=(
        Argument("hook", str, "Hook point with its layer, such as resid_post.3; None: the only one captured."),
        Argument("target_hook", str, "Hook point that transcoders predict, captured too; None: autoencoders."),
        _SETTINGS,
    ),
    uses=frozenset({"live", "seed"}),
    shared=True,
    run=_train_together,
)
GRID = Step(
    name="grid",
    title="List the autoencoders",
    summary="List the autoencoders of a sweep: every architecture with every width, sparsity and seed.",
    config="mistudio.train.config:GridConfig",
    arguments=(
        Argument("most_points", int, "Refuse a sweep of more autoencoders than this; 0: any number.", 0),
        _SETTINGS,
    ),
    returns="list",
    check=_check_grid,
    returned="The options in which the train step differs: architecture, width, k, target_l0 and seed.",
    run=_grid,
)
