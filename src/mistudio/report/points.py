"""Autoencoders as points: how sparse each is, against how much of the model it keeps.

A *point* is one evaluated autoencoder. Points that differ in nothing but the seed are one *configuration*,
whose figures are means over its seeds. A configuration is on the front of L0 and a figure if no other that is
as sparse or sparser has as much of the figure.

The best is chosen by one rule, with CE recovered as the figure, or explained variance where that was not
measured: among those that keep a stated share of the greatest figure of all, the sparsest, and of those within
5% of its L0, which no target is met more closely than, the one with the greatest figure. It is on the front.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from scipy.special import stdtrit

from mistudio.artifacts import Artifact, Store, canonical_json, open_input
from mistudio.errors import InputError
from mistudio.report.metrics import OUTLIER_FIGURES, read_metrics
from mistudio.sae import architecture_configs

QUALITIES = ("ce_recovered", "explained_variance")
_CONTROLS = tuple(f"control.random_{name}" for name in QUALITIES)
_FIGURES = ("l0", *QUALITIES, *OUTLIER_FIGURES, "dead_fraction", *_CONTROLS)
_TWO_SIDED_95 = 0.975
_AS_SPARSE = 1.05


@dataclass(frozen=True)
class Point:
    """One evaluated autoencoder."""

    settings: str  # its whole training configuration, as JSON: what it shares with those of other seeds
    architecture: str
    width: int
    sparsity_setting: str  # the setting that makes it sparse
    sparsity: float | None  # and the value asked for
    seed: int
    figures: Mapping[str, float | None]
    sae: str
    evaluation: str

    def row(self) -> dict[str, Any]:
        """One flat row of a table."""
        shown = {name: value for name, value in asdict(self).items() if name not in ("settings", "figures")}
        return {**shown, **self.figures}


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95% interval (t); without one where there is one seed."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Configuration:
    """What points of different seeds share."""

    architecture: str
    width: int
    sparsity_setting: str
    sparsity: float | None
    points: tuple[Point, ...]
    figures: Mapping[str, Estimate | None]

    @property
    def name(self) -> str:
        """What tells it from the others of a sweep."""
        asked = "" if self.sparsity is None else f" {self.sparsity:g}"
        return f"{self.architecture}, width {self.width:,}, {self.sparsity_setting}{asked}"

    def mean(self, figure: str) -> float:
        """The mean over seeds of a figure that was measured."""
        estimate = self.figures[figure]
        return math.nan if estimate is None else estimate.mean


def read_points(store: Store, evaluations: Sequence[Artifact]) -> list[Point]:
    """The points of evaluations that can be compared, by configuration and seed.

    Raises:
        InputError: an evaluation is named twice, or they measure different things.
        DamagedArtifact: an evaluation, or an autoencoder it names, is not what was published.
    """
    saes = [open_input(store, each.manifest.inputs["sae"], "sae") for each in evaluations]
    _check_comparable(evaluations, saes)
    points = [_point(evaluation, sae) for evaluation, sae in zip(evaluations, saes, strict=True)]
    return sorted(points, key=lambda p: (p.architecture, p.width, p.sparsity or 0, p.settings, p.seed, p.evaluation))


def configurations(points: Sequence[Point]) -> list[Configuration]:
    """Points of one configuration together, in their order."""
    together: dict[str, list[Point]] = {}
    for point in points:
        together.setdefault(point.settings, []).append(point)
    return [_configuration(tuple(group)) for group in together.values()]


def front(candidates: Sequence[Configuration], figure: str) -> list[Configuration]:
    """Those that no other beats in L0 and ``figure`` at once, by rising L0."""
    kept: list[Configuration] = []
    measured = [each for each in candidates if each.figures[figure] is not None]
    for each in sorted(measured, key=lambda c: (c.mean("l0"), -c.mean(figure))):
        if not kept or each.mean(figure) > kept[-1].mean(figure):
            kept.append(each)
    return kept


def choose_best(candidates: Sequence[Configuration], keep: float) -> tuple[Configuration, str]:
    """The best of the sparsest that keep the share ``keep`` of the greatest figure, and that figure's name."""
    figure = next((name for name in QUALITIES if any(each.figures[name] for each in candidates)), QUALITIES[-1])
    on_front = front(candidates, figure)
    greatest = on_front[-1].mean(figure)
    # Below 0 a share of the greatest figure would be more than the figure itself.
    least = greatest - (1 - keep) * abs(greatest)
    sparsest = next(each for each in on_front if each.mean(figure) >= least)
    return [each for each in on_front if each.mean("l0") <= _AS_SPARSE * sparsest.mean("l0")][-1], figure


def _point(evaluation: Artifact, sae: Artifact) -> Point:
    metrics = read_metrics(evaluation)
    settings = sae.manifest.config["sae"]
    sparsity_setting, sparsity = _sparsity(settings)
    return Point(
        settings=canonical_json(sae.manifest.config).decode(),
        architecture=settings["architecture"],
        width=settings["width"],
        sparsity_setting=sparsity_setting,
        sparsity=None if sparsity is None else float(sparsity),
        seed=sae.manifest.seed,
        figures={name: metrics.get(name) for name in _FIGURES},
        sae=sae.uri,
        evaluation=evaluation.uri,
    )


def _sparsity(settings: Mapping[str, Any]) -> tuple[str, Any]:
    """What the setting that makes an autoencoder sparse is called, and its value."""
    config = architecture_configs().get(settings["architecture"])  # another package's may not be installed here
    names = config.sparsity if config else {}
    given = ((name, settings[key]) for key, name in names.items() if settings.get(key) is not None)
    return next(given, ("its own setting", None))


def _configuration(points: tuple[Point, ...]) -> Configuration:
    first = points[0]
    figures = {name: _estimate([point.figures[name] for point in points]) for name in _FIGURES}
    return Configuration(first.architecture, first.width, first.sparsity_setting, first.sparsity, points, figures)


def _estimate(values: Sequence[float | None]) -> Estimate | None:
    measured = [value for value in values if value is not None]
    if not measured:
        return None
    mean, num_seeds = fmean(measured), len(measured)
    if num_seeds == 1:
        return Estimate(mean)
    reach = float(stdtrit(num_seeds - 1, _TWO_SIDED_95)) * stdev(measured) / math.sqrt(num_seeds)
    return Estimate(mean, mean - reach, mean + reach)


def _check_comparable(evaluations: Sequence[Artifact], saes: Sequence[Artifact]) -> None:
    uris = [each.uri for each in evaluations]
    if not uris:
        message = "There is nothing to compare: name one evaluation (evaluation/...) or more."
        raise InputError(message)
    if len(set(uris)) < len(uris):
        message = f"An evaluation is named twice: {', '.join(uris)}. Name each once."
        raise InputError(message)
    first = _measured(evaluations[0], saes[0])
    for evaluation, sae in zip(evaluations, saes, strict=True):
        other = _measured(evaluation, sae)
        differing = [name for name in first if first[name] != other[name]]
        if differing:
            message = (
                f"{evaluation.uri} cannot be compared with {evaluations[0].uri}: they differ in {differing[0]} "
                f"({other[differing[0]]} and {first[differing[0]]})."
            )
            raise InputError(message)


def _measured(evaluation: Artifact, sae: Artifact) -> dict[str, object]:
    """What has to be alike for two evaluations to be points of one plot."""
    return {
        "activations": sae.manifest.inputs["activations"].digest,
        "hook": sae.manifest.config["hook"],
        "target_hook": sae.manifest.config.get("target_hook"),
        "evaluation settings": evaluation.manifest.config,
        "seed of the evaluation": evaluation.manifest.seed,
    }
