"""The quality gate of a pipeline: figures held against what was asked for. Its steps publish nothing."""

import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from mistudio.errors import GateFailed
from mistudio.events import Message, emit
from mistudio.settings import DASHBOARD, Settings
from mistudio.steps.context import Context
from mistudio.steps.spec import Argument, Input, Inputs, Step

_WITH_INTERVAL = "CE recovered"


class GateConfig(Settings):
    """What the figures of an autoencoder have to reach."""

    min_explained_variance: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="least explained variance on held-out documents, outliers that training left out not counted; "
        "0: any",
        json_schema_extra=DASHBOARD,
    )
    min_ce_recovered: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="least share of the cross-entropy recovered; 0: any",
        json_schema_extra=DASHBOARD,
    )
    max_dead: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="largest share of features that never fire; 1: any",
        json_schema_extra=DASHBOARD,
    )
    min_interpretable: int = Field(
        default=0,
        ge=0,
        description="fewest features whose explanation scores 0.8 or more; 0: any",
        json_schema_extra=DASHBOARD,
    )


def _gate(_context: Context, inputs: Inputs, config: GateConfig) -> str:
    """What falls short, with the figures; empty where nothing does."""
    measured, scored = inputs.one("evaluation").manifest.summary, inputs.one("scores").manifest.summary
    half_width = measured.get("ce_recovered_half_width")
    known = f" (± {half_width:.2g})" if isinstance(half_width, float) else ""
    least = config.min_interpretable
    limits = (
        ("explained variance", measured["explained_variance"], config.min_explained_variance, "at least", 0.0),
        (_WITH_INTERVAL, measured.get("ce_recovered"), config.min_ce_recovered, "at least", 0.0),
        ("dead features", measured["dead_fraction"], config.max_dead, "at most", 1.0),
        (f"interpretable features{_of_how_many(scored)}", scored.get("interpretable"), least, "at least", 0),
    )
    missed = "; ".join(
        f"{name} {_shown(value)}{known if name == _WITH_INTERVAL else ''}, asked for {bound} {limit:g}"
        for name, value, limit, bound, any_value in limits
        if limit != any_value and not _holds(value, limit, bound)
    )
    if not missed:
        emit(Message(text="Gate passed"))
    return missed


def _fail_gate(context: Context, _inputs: Inputs, _config: None) -> None:
    """End a run whose figures fall short.

    Raises:
        GateFailed: always.
    """
    missed = context.argument("missed")
    message = f"gate failed: {missed}. Everything that was made is in the store."
    raise GateFailed(message)


def _of_how_many(scored: Mapping[str, Any]) -> str:
    """Of how many features they are, where not all were scored."""
    num_scored, num_features = scored.get("scored"), scored.get("features")
    return "" if num_scored in (None, num_features) else f" (of {num_scored:,} scored, of {num_features:,} features)"


def _holds(value: object, limit: float, bound: str) -> bool:
    """A figure that was not measured holds nothing."""
    if not isinstance(value, int | float) or math.isnan(value):
        return False
    return value >= limit if bound == "at least" else value <= limit


def _shown(value: object) -> str:
    return json.dumps(round(value, 4)) if isinstance(value, int | float) else "not measured"


GATE = Step(
    name="gate",
    title="Quality gate",
    summary="Hold the figures of an autoencoder against what was asked for.",
    config="mistudio.steps.gate:GateConfig",
    inputs=(
        Input("evaluation", "evaluation", "Evaluation of an autoencoder (evaluation/...)."),
        Input("scores", "scores", "Scores of its explanations (scores/...)."),
    ),
    returns="str",
    returned="What falls short, with the figures; empty where nothing does.",
    run=_gate,
)
FAIL_GATE = Step(
    name="fail_gate",
    title="Fail below the gate",
    summary="End a run whose figures fall short.",
    arguments=(Argument("missed", str, "What falls short, with the figures.", required=True),),
    run=_fail_gate,
)
