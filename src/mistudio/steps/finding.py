"""What activates each feature: the step find, and find_part, which makes one part of its pass."""

from typing import TYPE_CHECKING

from mistudio.artifacts import Produced
from mistudio.steps.context import Context
from mistudio.steps.spec import Argument, Input, Inputs, Output, Step

if TYPE_CHECKING:
    from mistudio.find import FindConfig

_SAE = Input("sae", "sae", "Trained autoencoder (sae/...).")


def _find(context: Context, inputs: Inputs, config: "FindConfig") -> Produced:
    from mistudio.find import find_features

    sae, parts = inputs.one("sae"), inputs.many("parts")
    return find_features(context.store, sae, context.source(sae), context.subject(sae), config, context.seed, parts)


def _find_part(context: Context, inputs: Inputs, config: "FindConfig") -> Produced:
    from mistudio.find import find_part

    sae = inputs.one("sae")
    return find_part(
        context.store,
        sae,
        context.source(sae),
        context.subject(sae),
        config,
        context.seed,
        part=context.argument("part"),
        num_parts=context.argument("num_parts"),
    )


FIND = Step(
    name="find",
    summary="Find what activates each feature, which features are alike, and what each does in the model.",
    config="mistudio.find.config:FindConfig",
    inputs=(
        _SAE,
        Input(
            "parts",
            "features-part",
            "All parts of the pass that find_part made (features-part/...), with commas; None: make it here.",
            many=True,
            optional=True,
        ),
    ),
    output=Output("features", "features", "Statistics, contexts, neighbours and effects of every feature."),
    uses=frozenset({"model", "seed"}),
    run=_find,
)
FIND_PART = Step(
    name="find_part",
    summary="Make one part of find's pass over the activations, to be put together by find.",
    config="mistudio.find.config:FindConfig",
    settings_of="find",
    inputs=(_SAE,),
    output=Output("features_part", "features-part", "What the pass kept of its part of the activations."),
    arguments=(
        Argument("part", int, "Which part, from 0.", 0),
        Argument("num_parts", int, "How many parts the activations are cut into.", 1),
    ),
    uses=frozenset({"model", "seed"}),
    about=lambda values: f"part {int(values.get('part') or 0) + 1} of {values.get('num_parts') or 1}",
    run=_find_part,
)
