"""Which of its scores stands for a feature."""

from collections.abc import Iterable

Figure = tuple[str, str, str]  # explainer, scorer, metric

_PROGRAM = ("program", "program", "f1")
_CONTROLS = {"token-set", "program-shuffled"}
# Where programs were not scored: the first of these that any scorer gave stands for a feature.
_STAND_INS = ("balanced_accuracy", "auroc", "correlation", "accuracy")


def is_control(name: str) -> bool:
    """Whether an explainer or a scorer of this name is there for comparison alone."""
    return name in _CONTROLS


def main_figure(figures: Iterable[Figure]) -> Figure | None:
    """The figure that stands for a feature: the program's F1, else the first that a scorer gave."""
    figures = [figure for figure in figures if not any(map(is_control, figure))]
    if _PROGRAM in figures:
        return _PROGRAM
    known = [figure for figure in figures if figure[2] in _STAND_INS]
    return min(known, key=lambda figure: _STAND_INS.index(figure[2]), default=None)
