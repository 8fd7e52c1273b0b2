"""The scorers by name: those built in, and those of other packages.

Another package adds one by an entry point in the group ``mistudio.scorers``. It names what makes the scorer: a class or
function that takes ``judge`` (the language model to ask, or None where none is set up) and ``seed``. One that works
without a language model says so by an attribute ``needs_judge = False``.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import cast

from mistudio.errors import ConfigError
from mistudio.explain.judge import Judge
from mistudio.score.records import Scorer

ENTRY_POINTS = "mistudio.scorers"
PROGRAM = "program"
INTERVENTION = "intervention"
_BUILT_IN = {
    "detection": "mistudio.score.detection:DetectionScorer",
    "fuzzing": "mistudio.score.fuzzing:FuzzingScorer",
    "simulation": "mistudio.score.simulation:SimulationScorer",
    "surprisal": "mistudio.score.surprisal:SurprisalScorer",
    "embedding": "mistudio.score.embedding:EmbeddingScorer",
    "intruder": "mistudio.score.intruder:IntruderScorer",
    INTERVENTION: "mistudio.score.intervention:InterventionScorer",
}

ScorerFactory = Callable[..., Scorer]


def scorer_names() -> list[str]:
    """The names that a scorer can be asked for by."""
    return [PROGRAM, *_BUILT_IN, *sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)} - {*_BUILT_IN})]


def scorer_factory(name: str) -> ScorerFactory:
    """What makes the scorer of this name; imported now. Not for programs, which the step itself runs.

    Raises:
        ConfigError: there is none of that name.
    """
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        return cast(ScorerFactory, getattr(import_module(module), attribute))
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name == name:
            return cast(ScorerFactory, entry.load())
    message = f"There is no scorer {name!r}: use {', '.join(scorer_names())}."
    raise ConfigError(message)


def new_scorer(name: str, judge: Judge | None, seed: int, **others: object) -> Scorer:
    """The scorer of this name; ``others`` is what only it needs.

    Raises:
        ConfigError: there is none of that name, or it asks a language model and none is set up.
    """
    factory = scorer_factory(name)
    if judge is None and getattr(factory, "needs_judge", True):
        from mistudio.explain.llm_open import open_judge

        open_judge(None, f"The scorer {name}")
    return factory(judge=judge, seed=seed, **others)
