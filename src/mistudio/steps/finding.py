"""What activates each feature: find, find_part, which makes one part of its pass, and find_more, which goes on."""

from typing import TYPE_CHECKING

from mistudio.artifacts import Artifact, Catalog, Produced, open_artifact
from mistudio.progress import say
from mistudio.steps.choose import FINDING, TRYING
from mistudio.steps.context import Context
from mistudio.steps.spec import Argument, Input, Inputs, Output, Step

if TYPE_CHECKING:
    from mistudio.find import FindConfig
    from mistudio.find.config import MoreConfig

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


def _find_more(context: Context, inputs: Inputs, config: "MoreConfig") -> Produced:
    from mistudio.find.more import ChosenBy, find_more

    features, subject = inputs.one("features"), context.subject(inputs.one("features"))
    base = inputs.maybe("base")
    if base is None and "base" not in inputs.declined:
        base = _fullest_base(context, features, config)
    by = ChosenBy(inputs.maybe("scores"), inputs.maybe("explanations"))
    return find_more(context.store, features, context.source(features), subject, config, base, by)


def _fullest_base(context: Context, features: Artifact, config: "MoreConfig") -> Artifact | None:
    """Of the trials of these features that can be added to, those of most features, the newest among equals; named."""
    from mistudio.find.more import goes_with, trial_settings

    trial, subject = trial_settings(features, config), context.subject(features)
    with Catalog(context.store) as catalog:
        found = [
            entry
            for entry in catalog.newest("trials", where=lambda entry: goes_with(entry.config, trial, subject))
            if entry.inputs["features"].digest == features.digest and entry.summary["features_tried"]
        ]
    if not found:
        return None
    fullest = max(found, key=lambda entry: int(entry.summary["features_tried"] or 0))  # the first, so the newest
    num_tried = int(fullest.summary["features_tried"] or 0)
    say(f"Kept {num_tried:,} of {num_tried:,} from {fullest.uri}.")
    return open_artifact(context.store, fullest.uri, "trials")


FIND = Step(
    name="find",
    title="Find features",
    summary="Find what activates each feature, and what it does. Also which features are alike.",
    config="mistudio.find.config:FindConfig",
    inputs=(
        _SAE,
        Input(
            "parts",
            "features-part",
            "All parts of the pass that find-part made (features-part/...), with commas; None: make it here.",
            many=True,
            optional=True,
        ),
    ),
    output=Output("features", "features", "Statistics, contexts and neighbours of every feature, effects of many."),
    uses=frozenset({"model", "seed"}),
    choices=FINDING,
    run=_find,
)
FIND_PART = Step(
    name="find_part",
    title="Find features, a part",
    summary="Make one part of find's pass, to be put together by find.",
    config="mistudio.find.config:FindConfig",
    settings_of="find",
    choices=FINDING,
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
FIND_MORE = Step(
    name="find_more",
    title="Try further features",
    summary="Try further features in the model. Those named, or the next ones in the order of worth.",
    config="mistudio.find.config:MoreConfig",
    inputs=(
        Input("features", "features", "Found features (features/...)."),
        Input(
            "base",
            "trials",
            "Earlier trials to keep and add to (trials/...), or none; None: those of most features, same settings.",
            optional=True,
        ),
        Input(
            "scores",
            "scores",
            "Scores of these features (scores/...), which a selection such as best:50 goes by.",
            optional=True,
        ),
        Input(
            "explanations",
            "explanations",
            "Explanations of these features (explanations/...), which the selection unlabelled goes by.",
            optional=True,
        ),
    ),
    output=Output("trials", "trials", "Effects and attributions of the features tried after find."),
    uses=frozenset({"model"}),
    choices=TRYING,
    run=_find_more,
)
