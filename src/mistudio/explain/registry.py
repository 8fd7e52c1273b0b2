"""The explainers by name: those built in, and those of other packages.

Another package adds one by an entry point in the group ``mistudio.explainers``. It names what makes the explainer: a
class or function that takes ``judge`` (the language model to ask, or None where none is set up) and ``seed``. One that
works without a language model says so by an attribute ``needs_judge = False``.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import cast

from mistudio.errors import ConfigError
from mistudio.explain.judge import Judge
from mistudio.explain.program import PROGRAM
from mistudio.explain.records import Explainer

ENTRY_POINTS = "mistudio.explainers"
PERSON = "person"
_BUILT_IN = {
    "max-activating": "mistudio.explain.llm:MaxActivatingExplainer",
    "contrastive": "mistudio.explain.llm:ContrastiveExplainer",
    "token-activation-pairs": "mistudio.explain.llm:TokenActivationPairsExplainer",
}

ExplainerFactory = Callable[..., Explainer]


def explainer_names() -> list[str]:
    """The names that an explainer can be asked for by."""
    return [PROGRAM, *_BUILT_IN, *sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)} - {*_BUILT_IN})]


def explainer_factory(name: str) -> ExplainerFactory:
    """What makes the explainer of this name; imported now. Not for programs, which are searched by the step itself.

    Raises:
        ConfigError: there is none of that name.
    """
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        return cast(ExplainerFactory, getattr(import_module(module), attribute))
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name == name:
            return cast(ExplainerFactory, entry.load())
    message = f"There is no explainer {name!r}: use {', '.join(explainer_names())}."
    raise ConfigError(message)


def new_explainer(name: str, judge: Judge | None, seed: int) -> Explainer:
    """The explainer of this name.

    Raises:
        ConfigError: there is none of that name, or it asks a language model and none is set up.
    """
    factory = explainer_factory(name)
    if judge is None and getattr(factory, "needs_judge", True):
        from mistudio.explain.llm_open import open_judge

        open_judge(None, f"The explainer {name}")
    return factory(judge=judge, seed=seed)
