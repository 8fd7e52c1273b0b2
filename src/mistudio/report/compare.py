"""The compare step: from evaluations of one subject to a table, the best by a rule, and a page with the front."""

import json
from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq

from mistudio.artifacts import Artifact, Draft, JsonScalar, Produced, Recipe, Store, Summary, open_input, produce
from mistudio.report.config import CompareConfig
from mistudio.report.metrics import METRICS
from mistudio.report.pareto import COMPARISON, render_comparison
from mistudio.report.points import QUALITIES, Configuration, choose_best, configurations, front, read_points

PAGE_NAME = "comparison.html"
POINTS_NAME = "points.parquet"
COMPARISON_NAME = "comparison.json"


def compare(store: Store, evaluations: Sequence[Artifact], config: CompareConfig | None = None) -> Produced:
    """Publish how sparse autoencoders are against what they keep; the order of ``evaluations`` does not matter.

    ``points.parquet`` has a row for each evaluation, ``comparison.json`` the means over seeds, the fronts and
    the best, ``comparison.html`` shows them.

    Raises:
        InputError: an evaluation is named twice, or they measure different things.
        DamagedArtifact: an evaluation, or an autoencoder it names, is not what was published.
    """
    config = config or CompareConfig()
    evaluations = sorted(evaluations, key=lambda each: each.uri)
    points = read_points(store, evaluations)

    def build(draft: Draft) -> Summary:
        candidates = configurations(points)
        best, figure = choose_best(candidates, config.keep)
        rule = _rule(figure, config.keep)
        with draft.stage(POINTS_NAME) as path:
            pq.write_table(pa.Table.from_pylist([point.row() for point in points]), path)
        draft.write(COMPARISON_NAME, json.dumps(_content(candidates, best, rule), indent=1).encode())
        page = render_comparison(config.title, rule, best, candidates, _facts(store, evaluations[0]))
        draft.write(PAGE_NAME, page.encode())
        return {"autoencoders": len(points), "configurations": len(candidates), "rule": rule, **_summary(best)}

    recipe = Recipe(
        kind="comparison",
        # A page is made from its templates too: with new ones it is a new page.
        config={**config.model_dump(mode="json"), "templates": COMPARISON.digest()},
        inputs={f"evaluation_{number:04d}": each.ref for number, each in enumerate(evaluations)},
    )
    return produce(store, recipe, "compare", build)


def _rule(figure: str, keep: float) -> str:
    label = next(metric.label for metric in METRICS if metric.key == figure)
    return f"the best of the sparsest (L0 within 5%) that keep at least {100 * keep:g}% of the greatest {label} of all"


def _summary(best: Configuration) -> dict[str, JsonScalar]:
    """The best and its figures; of its autoencoders the one of the first seed, as none is better than the others."""
    figures = {name: None if one is None else round(one.mean, 6) for name, one in best.figures.items()}
    return {"best": best.name, **figures, "sae": best.points[0].sae}


def _content(candidates: Sequence[Configuration], best: Configuration, rule: str) -> dict[str, object]:
    return {
        "rule": rule,
        "best": best.name,
        "fronts": {name: [each.name for each in front(candidates, name)] for name in QUALITIES},
        "configurations": [
            {
                "name": each.name,
                "architecture": each.architecture,
                "width": each.width,
                "sparsity_setting": each.sparsity_setting,
                "sparsity": each.sparsity,
                "seeds": [point.seed for point in each.points],
                "saes": [point.sae for point in each.points],
                "figures": {name: one and asdict(one) for name, one in each.figures.items()},
            }
            for each in candidates
        ],
    }


def _facts(store: Store, evaluation: Artifact) -> dict[str, str]:
    """What all points have in common."""
    sae = open_input(store, evaluation.manifest.inputs["sae"], "sae")
    hook, target = sae.manifest.config["hook"], sae.manifest.config.get("target_hook")
    return {
        "subject": evaluation.manifest.inputs["subject"].uri,
        "hook point": f"{hook} to {target}" if target else hook,
        "activations": sae.manifest.inputs["activations"].uri,
        "held-out tokens": f"{evaluation.manifest.summary['tokens']:,}",
    }
