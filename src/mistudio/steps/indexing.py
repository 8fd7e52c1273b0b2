"""What look-ups search: the step index."""

from typing import TYPE_CHECKING

from mistudio.artifacts import Produced
from mistudio.steps.context import Context
from mistudio.steps.spec import Input, Inputs, Output, Step

if TYPE_CHECKING:
    from mistudio.correlate.index.config import IndexConfig


def _index(context: Context, inputs: Inputs, config: "IndexConfig") -> Produced:
    from mistudio.correlate.index.step import index

    return index(context.store, inputs.one("sae"), config, context.seed, inputs.maybe("explanations"))


INDEX = Step(
    name="index",
    title="Index directions",
    summary="Make an index of decoder directions. What share of the nearest it finds is measured.",
    config="mistudio.correlate.index.config:IndexConfig",
    inputs=(
        Input("sae", "sae", "Trained autoencoder (sae/...)."),
        Input(
            "explanations", "explanations", "Explanations, to index their words too (explanations/...).", optional=True
        ),
    ),
    output=Output("index", "index", "The index, and its recall against brute force.", metrics=True),
    uses=frozenset({"seed"}),
    about=lambda values: str(values.get("sae", "")),
    run=_index,
)
