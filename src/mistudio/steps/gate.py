"""The quality gate of a pipeline: figures held against what was asked for. It publishes nothing.

As in ``batch``: functions of plain values, for KFP components.
"""

import json
import math

from mistudio.artifacts import default_store_url, open_artifact, open_store
from mistudio.errors import ConfigError, GateFailed
from mistudio.progress import emit_event

# The least and the most that each limit may be.
LIMITS = {
    "min_explained_variance": (0, 1),
    "min_ce_recovered": (0, 1),
    "max_dead": (0, 1),
    "min_interpretable": (0, math.inf),
}


def gate(
    evaluation: str,
    scores: str,
    min_explained_variance: float = 0.0,
    min_ce_recovered: float = 0.0,
    max_dead: float = 1.0,
    min_interpretable: int = 0,
    store: str = "",
) -> str:
    """Hold the figures of an autoencoder against what was asked for.

    Args:
        evaluation: Evaluation of an autoencoder (evaluation/...).
        scores: Scores of its explanations (scores/...).
        min_explained_variance: Least explained variance on held-out documents; 0: any.
        min_ce_recovered: Least share of the cross-entropy recovered; 0: any.
        max_dead: Largest share of features that never fire; 1: any.
        min_interpretable: Fewest features whose explanation scores 0.8 or more; 0: any.
        store: Folder of the store; empty: MISTUDIO_STORE, else the user's data folder.

    Returns:
        What falls short, with the figures; empty where nothing does.

    Raises:
        ConfigError: a limit is outside its range.
    """
    check_limits(
        min_explained_variance=min_explained_variance,
        min_ce_recovered=min_ce_recovered,
        max_dead=max_dead,
        min_interpretable=min_interpretable,
    )
    opened = open_store(store or default_store_url())
    measured = open_artifact(opened, evaluation, "evaluation").manifest.summary
    scored = open_artifact(opened, scores, "scores").manifest.summary
    limits = (
        ("explained variance", measured["explained_variance"], min_explained_variance, "at least", 0.0),
        ("CE recovered", measured.get("ce_recovered"), min_ce_recovered, "at least", 0.0),
        ("dead features", measured["dead_fraction"], max_dead, "at most", 1.0),
        ("interpretable features", scored["interpretable"], min_interpretable, "at least", 0),
    )
    missed = "; ".join(
        f"{name} {_shown(value)}, asked for {bound} {limit:g}"
        for name, value, limit, bound, any_value in limits
        if limit != any_value and not _holds(value, limit, bound)
    )
    emit_event(event="message", text=f"Gate failed: {missed}." if missed else "Gate passed")
    return missed


def fail_gate(missed: str) -> None:
    """End a run whose figures fall short.

    Args:
        missed: What falls short, with the figures.

    Raises:
        GateFailed: always.
    """
    message = f"gate failed: {missed}. Everything that was made is in the store; the report shows it."
    emit_event(event="step_failed", step="gate", about="", message=message, exit_code=GateFailed.exit_code)
    raise GateFailed(message)


def check_limits(**limits: float) -> None:
    """Refuse limits that no figure can meet, or that mean nothing; by the names of the gate's parameters.

    Raises:
        ConfigError: a limit is outside its range.
    """
    for name, value in limits.items():
        least, most = LIMITS[name]
        if not least <= value <= most:
            message = f"{name} is {value:g}: give a number from {least:g} to {most:g}."
            raise ConfigError(message)


def _holds(value: object, limit: float, bound: str) -> bool:
    """A figure that was not measured holds nothing."""
    if not isinstance(value, int | float) or math.isnan(value):
        return False
    return value >= limit if bound == "at least" else value <= limit


def _shown(value: object) -> str:
    return json.dumps(round(value, 4)) if isinstance(value, int | float) else "not measured"
