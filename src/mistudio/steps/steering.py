"""What a model is steered along: the step direction."""

from typing import TYPE_CHECKING, Any

from mistudio.artifacts import Produced
from mistudio.errors import SubjectError
from mistudio.steps.choose import choose_layer, name_hooks
from mistudio.steps.context import Context
from mistudio.steps.spec import Argument, Choice, Inputs, Output, Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mistudio.steer.direction_config import DirectionConfig

_HOOK = "resid_post"
_EXAMPLES = (
    "JSON Lines file with the examples of both classes: text, or messages of a chat, and label; None: positive and "
    "negative have them."
)
_OF_ONE_CLASS = "JSON Lines file with the {} examples alone, in place of one with labels; None: examples has them."


def _direction(context: Context, _inputs: Inputs, config: "DirectionConfig") -> Produced:
    from mistudio.steer.direction_step import direction
    from mistudio.steer.example_files import Files

    files = Files.read(*(str(context.argument(name) or "") for name in ("examples", "positive", "negative")))
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
    summary="Make a direction of positive and negative examples. Tried on held-out ones, beside controls.",
    config="mistudio.steer.direction_config:DirectionConfig",
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
