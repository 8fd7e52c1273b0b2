"""The page of a comparison: L0 against what the autoencoders keep, as drawings that answer to the mouse.

The drawings are SVG and complete without the script, which only highlights and hides. The vertical axis is
logarithmic in what is lost (1 - figure), so that 0.99 and 0.995 lie as far apart as 0.5 and 0.75, and the
random control still fits below.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

from mistudio.report.metrics import FILTERED_METRICS, METRICS, MISSING, OUTLIER_FIGURES
from mistudio.report.page import Page
from mistudio.report.points import QUALITIES, Configuration, Estimate, front

COMPARISON = Page("comparison.html.j2", "comparison.css", ("comparison.js",))

_WIDTH, _HEIGHT = 620, 430
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 14, 46
_LABELS = {metric.key: metric.label for metric in (*METRICS, *FILTERED_METRICS)}
_SHARES = [name for name in OUTLIER_FIGURES if name.endswith("fraction")]
_LEAST_LOST = 1e-4
_ROOM = 0.06  # of an axis, beside the outermost marks
_TICK_GAP = 20  # least distance of two labels, in pixels
_LOST_STEPS = (1.0, 0.5, 0.2)
# Okabe and Ito's colours, which most people can tell apart, each with a shape of its own.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b8578f", "#b57a00", "#3b9bd6", "#6b6b6b")
_SHAPES = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
    "M-4.5 -4.5h9v9h-9z",
    "M0 -6L5.5 4.5H-5.5z",
    "M0 -6.3L6.3 0L0 6.3L-6.3 0z",
    "M0 6L5.5 -4.5H-5.5z",
    "M-1.8 -5.5h3.6v3.7h3.7v3.6h-3.7v3.7h-3.6v-3.7h-3.7v-3.6h3.7z",
    "M-5.5 -3.2L0 -6.3L5.5 -3.2V3.2L0 6.3L-5.5 3.2z",
)
_DASHES = ("", "6 3", "2 3", "8 3 2 3")


@dataclass(frozen=True)
class Axis:
    """From values to pixels."""

    low: float
    high: float
    start: float  # pixel of low
    end: float
    scale: Callable[[float], float]

    def place(self, value: float) -> float:
        """The pixel of a value."""
        share = (self.scale(value) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, candidates: Sequence[float]) -> list[tuple[float, str]]:
        """Pixel and label of those candidates that lie on the axis and leave each other room."""
        places: list[tuple[float, str]] = []
        for value in candidates:
            inside = self.low <= self.scale(value) <= self.high
            if inside and (not places or abs(self.place(value) - places[-1][0]) >= _TICK_GAP):
                places.append((self.place(value), f"{value:.6g}"))
        return places


@dataclass(frozen=True)
class Mark:
    """One configuration in one drawing."""

    number: int  # of the configuration in the table
    x: float
    y: float
    label: str
    bar_y: tuple[float, float] | None  # ends of the interval of the figure
    bar_x: tuple[float, float] | None  # ends of the interval of L0
    random_y: float | None


@dataclass(frozen=True)
class Series:
    """The marks of one architecture and width."""

    architecture: str
    colour: str
    shape: str
    dashes: str
    marks: tuple[Mark, ...]

    @property
    def line(self) -> str:
        """The marks in order, as the points of a line."""
        return _points((mark.x, mark.y) for mark in self.marks)


@dataclass(frozen=True)
class Drawing:
    """One figure against L0."""

    figure: str
    title: str
    series: tuple[Series, ...]
    front: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


@dataclass(frozen=True)
class Row:
    """One configuration in the table."""

    number: int
    architecture: str
    colour: str
    shape: str
    name: str
    seeds: str
    cells: tuple[tuple[str, bool], ...]  # and whether it puts the configuration on the front
    best: bool


def render_comparison(
    title: str, rule: str, best: Configuration, candidates: Sequence[Configuration], facts: Mapping[str, str]
) -> str:
    """The whole page."""
    measured = [name for name in QUALITIES if any(each.figures[name] for each in candidates)]
    columns = _columns(candidates, measured)
    looks = _looks(candidates)
    return COMPARISON.open().render(
        title=title,
        rule=rule,
        facts=facts,
        best=best,
        best_cells=_cells(best, columns),
        headings=[_LABELS[name] for name in columns],
        legend=[(name, shape, colour) for name, (colour, shape) in looks.items()],
        widths=[(f"{width:,}", dashes) for width, dashes in _dashes(candidates).items()],
        drawings=[draw(candidates, name) for name in measured],
        rows=[_row(number, each, candidates, columns, each is best) for number, each in enumerate(candidates)],
        size=(_WIDTH, _HEIGHT),
        frame=(_LEFT, _TOP, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM),
        has_intervals=any(len(each.points) > 1 for each in candidates),
    )


def draw(candidates: Sequence[Configuration], figure: str) -> Drawing:
    """Place all configurations in which ``figure`` was measured."""
    shown = [(number, each) for number, each in enumerate(candidates) if each.figures[figure]]
    x_axis, y_axis = _axes([each for _, each in shown], figure)
    groups: dict[tuple[str, int], list[Mark]] = {}
    for number, each in sorted(shown, key=lambda pair: pair[1].mean("l0")):
        groups.setdefault((each.architecture, each.width), []).append(_mark(number, each, figure, x_axis, y_axis))
    looks, dashes = _looks(candidates), _dashes(candidates)
    series = [Series(name, *looks[name], dashes[width], tuple(marks)) for (name, width), marks in groups.items()]
    on_front = [(x_axis.place(each.mean("l0")), y_axis.place(each.mean(figure))) for each in front(candidates, figure)]
    return Drawing(
        figure=figure,
        title=_LABELS[figure],
        series=tuple(series),
        front=_points(on_front),
        x_ticks=x_axis.ticks(_l0_candidates(x_axis)),
        y_ticks=y_axis.ticks(_quality_candidates()),
    )


def _axes(shown: Sequence[Configuration], figure: str) -> tuple[Axis, Axis]:
    l0s = [math.log2(max(each.mean("l0"), 0.1)) for each in shown]
    controls = [value.mean for each in shown if (value := each.figures[f"control.random_{figure}"])]
    qualities = [_kept(value) for value in [*(each.mean(figure) for each in shown), *controls]]
    x_low, x_high = _with_room(l0s, least=0.5)
    y_low, y_high = _with_room(qualities, least=0.1)
    x_axis = Axis(x_low, x_high, _LEFT, _WIDTH - _RIGHT, lambda value: math.log2(max(value, 0.1)))
    return x_axis, Axis(y_low, y_high, _HEIGHT - _BOTTOM, _TOP, _kept)


def _kept(value: float) -> float:
    return -math.log10(max(1 - value, _LEAST_LOST))


def _with_room(values: Sequence[float], least: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = max(_ROOM * (high - low), least / 2)
    return low - room, high + room


def _l0_candidates(axis: Axis) -> list[float]:
    return [2.0**power for power in range(math.ceil(axis.low), math.floor(axis.high) + 1)]


def _quality_candidates() -> list[float]:
    """Figures that lose 10, 5, 2, 1, 0.5, ... : rising."""
    lost = [10.0**power * step for power in range(1, -5, -1) for step in _LOST_STEPS]
    return [round(1 - value, 6) for value in lost]


def _mark(number: int, each: Configuration, figure: str, x_axis: Axis, y_axis: Axis) -> Mark:
    estimate, l0 = each.figures[figure], each.figures["l0"]
    control = each.figures[f"control.random_{figure}"]
    return Mark(
        number=number,
        x=x_axis.place(each.mean("l0")),
        y=y_axis.place(each.mean(figure)),
        label=f"{each.name}: L0 {_written('l0', l0)}, {_LABELS[figure]} {_written(figure, estimate)}",
        bar_y=_ends(estimate, y_axis),
        bar_x=_ends(l0, x_axis),
        random_y=None if control is None else y_axis.place(control.mean),
    )


def _ends(estimate: Estimate | None, axis: Axis) -> tuple[float, float] | None:
    if estimate is None or estimate.low is None or estimate.high is None:
        return None
    low, high = sorted((axis.start, axis.end))
    first, second = (min(max(axis.place(value), low), high) for value in (estimate.low, estimate.high))
    return first, second


def _looks(candidates: Sequence[Configuration]) -> dict[str, tuple[str, str]]:
    """Colour and shape of each architecture."""
    names = dict.fromkeys(each.architecture for each in candidates)
    return dict(zip(names, cycle(zip(_COLOURS, _SHAPES, strict=True)), strict=False))


def _dashes(candidates: Sequence[Configuration]) -> dict[int, str]:
    """How the line of each width is drawn."""
    return dict(zip(sorted({each.width for each in candidates}), cycle(_DASHES), strict=False))


def _row(
    number: int, each: Configuration, candidates: Sequence[Configuration], columns: Sequence[str], best: bool
) -> Row:
    on_front = [name in QUALITIES and each in front(candidates, name) for name in columns]
    colour, shape = _looks(candidates)[each.architecture]
    return Row(
        number=number,
        architecture=each.architecture,
        colour=colour,
        shape=shape,
        name=each.name,
        seeds=", ".join(str(point.seed) for point in each.points),
        cells=tuple(zip(_cells(each, columns), on_front, strict=True)),
        best=best,
    )


def _columns(candidates: Sequence[Configuration], measured: Sequence[str]) -> list[str]:
    """The figures of the table; what outliers do where one of the autoencoders met any."""
    met = any((share := each.figures[name]) and share.mean for each in candidates for name in _SHARES)
    outliers = [name for name in OUTLIER_FIGURES if met and any(each.figures[name] for each in candidates)]
    return ["l0", *measured, *outliers, "dead_fraction", *(f"control.random_{name}" for name in measured)]


def _cells(each: Configuration, columns: Sequence[str]) -> list[str]:
    return [_written(name, each.figures[name]) for name in columns]


def _written(name: str, estimate: Estimate | None) -> str:
    """A mean, with half its interval."""
    if estimate is None:
        return MISSING
    if estimate.high is None:
        return _number(name, estimate.mean)
    return f"{_number(name, estimate.mean)} ± {_number(name, estimate.high - estimate.mean)}"


def _number(name: str, value: float) -> str:
    return format(value, ".2%" if name in {"dead_fraction", *_SHARES} else ".2f" if name == "l0" else ".4f")


def _points(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in places)
