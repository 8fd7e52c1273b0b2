"""The rows of Neuronpedia's two formats: upload batches as SAEDashboard writes them, and the tree that is imported.

In the tree a row is a row of the database: all rows of a file have the same keys, and a name of a method or language
model that the database does not know would make the whole file fail.

Shape legend: H histogram bins, I intervals of activation.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from mistudio.exchange.names import HOOKS, Names
from mistudio.exchange.reading import Alignment, Found, Origin
from mistudio.explain.records import Explanation
from mistudio.features import Row
from mistudio.subject import HookPoint

P = ParamSpec("P")
R = TypeVar("R")

_NUL = "\N{SYMBOL FOR NULL}"
_BARS = 50
_INTERVALS = 5
_NONE = -1  # what the format writes where there is no interval or token
_THEIR_METHODS = re.compile(r"(oai|np|eleuther)[_-]")


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", _NUL)
    if isinstance(value, list):
        return [_shown(each) for each in value]
    if isinstance(value, dict):
        return {name: _shown(each) for name, each in value.items()}
    return value


def _without_nul(rows_of: Callable[P, R]) -> Callable[P, R]:
    """The same rows with a sign for the character NUL, which no text of Postgres can hold."""

    @wraps(rows_of)
    def shown(*args: P.args, **kwargs: P.kwargs) -> R:
        rows: R = _shown(rows_of(*args, **kwargs))
        return rows

    return shown


def batch_head(names: Names, origin: Origin) -> Row:
    """The entries of an upload batch that stand before its features."""
    layer = HookPoint.parse(origin.hook).layer
    return {"model_id": names.model_id, "layer": layer, "sae_set": names.source_set}


@_without_nul
def batch_feature(found: Found, origin: Origin) -> Row:
    """A feature in an upload batch."""
    return {
        "feature_index": found.feature,
        **_figures(found, origin),
        "n_prompts_total": origin.num_sequences,
        "n_tokens_in_prompt": origin.context_length,
        "dataset": origin.dataset,
        "decoder_weights_dist": [],
        "activations": _activations(found, origin),
    }


@_without_nul
def tree_feature(found: Found, names: Names, origin: Origin) -> Row:
    """A row of the table ``Neuron``."""
    near = found.neighbours.get("decoder", [])
    point = HookPoint.parse(origin.hook)
    return {
        "modelId": names.model_id,
        "layer": names.source(origin),
        "index": str(found.feature),
        "creatorId": names.creator_id,
        "sourceSetName": names.source_set,
        "maxActApprox": _number(found.row["max"]),
        "hasVector": False,
        "vector": [],
        "vectorLabel": None,
        "hookName": f"blocks.{point.layer}.{HOOKS[point.kind][1]}",
        "topkCosSimIndices": [other for other, _ in near],
        "topkCosSimValues": [_number(value) for _, value in near],
        **_figures(found, origin),
        "decoder_weights_dist": [],
    }


@_without_nul
def tree_activations(found: Found, names: Names, origin: Origin) -> list[Row]:
    """Rows of the table ``Activation``."""
    rows = []
    for number, each in enumerate(_activations(found, origin)):
        values = each["values"]
        rows.append(
            {
                "id": _row_id(names, origin, "activation", f"{found.feature} {number}"),
                "modelId": names.model_id,
                "layer": names.source(origin),
                "index": str(found.feature),
                "creatorId": names.creator_id,
                "tokens": each["tokens"],
                "values": values,
                "maxValue": max(values),
                "maxValueTokenIndex": values.index(max(values)),
                "minValue": min(values),
                "dfaValues": each["dfa_values"],
                "dfaMaxValue": each["dfa_maxValue"],
                "dfaTargetIndex": each["dfa_targetIndex"],
                "binMin": each["bin_min"],
                "binMax": each["bin_max"],
                "binContains": each["bin_contains"],
                "qualifyingTokenIndex": each["qualifying_token_index"],
                "dataSource": None,
                "dataIndex": None,
            }
        )
    return rows


@_without_nul
def tree_explanation(explanation: Explanation, place: Row, density: float, names: Names, origin: Origin) -> Row:
    """A row of the table ``Explanation``; ``place`` is that of its feature on the map."""
    theirs = bool(_THEIR_METHODS.match(explanation.explainer))
    on_map = not math.isnan(place["x"])
    how = _shown(explanation.model_dump(include={"explainer", "model", "label", "confidence", "prompt", "seed"}))
    return {
        "id": _row_id(names, origin, "explanation", explanation.model_dump_json()),
        "modelId": names.model_id,
        "layer": names.source(origin),
        "index": str(explanation.feature),
        "authorId": names.creator_id,
        "description": explanation.text,
        "embedding": None,
        "typeName": explanation.explainer if theirs else None,
        "explanationModelName": explanation.model if theirs else None,
        "notes": json.dumps(how, sort_keys=True),
        "umap_x": place["x"] if on_map else None,
        "umap_y": place["y"] if on_map else None,
        "umap_cluster": place["cluster"],
        "umap_log_feature_sparsity": _number(math.log10(density)) if density > 0 else None,
    }


def tree_metadata(names: Names, origin: Origin, *, has_map: bool) -> dict[str, Row]:
    """The one row of each of the files that say what the rest belongs to."""
    owner = {"creatorId": names.creator_id, "visibility": "PUBLIC"}
    source, release = names.source(origin), f"{names.model_id}-{names.source_set}"
    title = f"{origin.features.num_features:,} features of {origin.model} at {origin.hook}, by miStudio"
    made = {"creatorName": names.creator, "urls": []}
    model = {"displayNameShort": names.model_id, "displayName": origin.model, "instruct": False}
    sizes = {"num_prompts": origin.num_sequences, "num_tokens_in_prompt": origin.context_length}
    umap = {"hasUmap": has_map, "hasUmapLogSparsity": has_map, "hasUmapClusters": has_map}
    notes = f"{origin.features.artifact.uri}, sha256 {origin.features.artifact.digest}"
    described = {"description": title, "releaseName": release}
    return {
        "release": {"name": release, "description": title, "descriptionShort": title, **made, **owner},
        "model": {"id": names.model_id, **model, "layers": 0, "neuronsPerLayer": 0, "owner": "", **owner},
        "sourceset": {"modelId": names.model_id, "name": names.source_set, **described, **made, **owner},
        "source": {
            "id": source,
            "modelId": names.model_id,
            "setName": names.source_set,
            "dataset": origin.dataset,
            "notes": notes,
            **sizes,
            **umap,
            **owner,
        },
    }


def _figures(found: Found, origin: Origin) -> Row:
    """What both formats say of a feature, empty where it was not measured."""
    row, alignment = found.row, found.alignment
    correlated = found.neighbours.get("correlation", [])
    heights, bars = _bars(found, origin)
    return {
        **_aligned(alignment),
        "correlated_neurons_indices": [],
        "correlated_neurons_l1": [],
        "correlated_neurons_pearson": [],
        "correlated_features_indices": [other for other, _ in correlated],
        "correlated_features_l1": [],
        "correlated_features_pearson": [_number(value) for _, value in correlated],
        "neg_str": row["suppressed_tokens"],
        "neg_values": _numbers(row["suppressed_logits"]),
        "pos_str": row["promoted_tokens"],
        "pos_values": _numbers(row["promoted_logits"]),
        "frac_nonzero": row["density"],
        "freq_hist_data_bar_values": bars,
        "freq_hist_data_bar_heights": heights,
        "logits_hist_data_bar_heights": [],
        "logits_hist_data_bar_values": [],
    }


def _aligned(alignment: Alignment) -> Row:
    return {
        "neuron_alignment_indices": alignment.indices,
        "neuron_alignment_values": _numbers(alignment.values),
        "neuron_alignment_l1": _numbers(alignment.shares),
    }


def _below(found: Found, origin: Origin, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """On how many tokens the feature is active, but not above each point; within a bin, they are taken to lie evenly.

    The last bin that holds any ends at the feature's maximum.
    """
    histogram_H = np.array(found.row["histogram"])
    last = int(np.flatnonzero(histogram_H)[-1])
    edges = np.array([0.0, *origin.features.about.histogram_edges[1 : last + 1], found.row["max"]])
    counts = np.concatenate([[0], histogram_H[: last + 1].cumsum()])
    below: NDArray[np.float64] = np.interp(points, np.minimum(edges, found.row["max"]), counts)
    return below


def _bars(found: Found, origin: Origin) -> tuple[list[int], list[float]]:
    """Heights and middles of bars of one width, from no activation to the largest; whole numbers that add up."""
    if not found.row["count"]:
        return [], []
    points = np.linspace(0, found.row["max"], _BARS + 1)
    heights = np.diff(np.rint(_below(found, origin, points))).astype(int)
    return heights.tolist(), _numbers(((points[:-1] + points[1:]) / 2).tolist())


def _intervals(found: Found, origin: Origin) -> tuple[NDArray[np.float64], list[float]]:
    """Ends of five intervals of activation of one width, and the share of all tokens in each."""
    ends = np.linspace(0, found.row["max"], _INTERVALS + 1)
    if not found.row["count"]:
        return ends, [1.0] + [0.0] * (_INTERVALS - 1)
    shares = np.diff(_below(found, origin, ends)) / origin.features.about.num_tokens
    shares[0] += 1 - found.row["count"] / origin.features.about.num_tokens
    return ends, _numbers(shares.tolist())


def _activations(found: Found, origin: Origin) -> list[Row]:
    """Contexts: the strongest, those drawn from all activations by interval, and silent ones in the lowest."""
    ends, shares = _intervals(found, origin)
    rows = []
    for context in found.contexts:
        kind, values = context["kind"], _numbers(context["values"])
        if kind == "hard_negative":
            continue
        interval: tuple[float, float, float] = (_NONE, _number(found.row["max"]), _NONE)
        if kind != "top":
            place = int(np.clip(np.searchsorted(ends, values[context["peak"]], side="right") - 1, 0, _INTERVALS - 1))
            place = place if found.row["count"] else 0
            interval = _number(ends[place]), _number(ends[place + 1]), shares[place]
        rows.append(_activation(context, values, interval))
    return rows


def _activation(context: Row, values: list[float], interval: tuple[float, float, float]) -> Row:
    return {
        "bin_min": interval[0],
        "bin_max": interval[1],
        "bin_contains": interval[2],
        "tokens": context["tokens"],
        "values": values,
        "qualifying_token_index": context["peak"],
        "dfa_values": [],
        "dfa_maxValue": 0,
        "dfa_targetIndex": _NONE,
    }


def _numbers(values: list[float]) -> list[float]:
    return [_number(value) for value in values]


def _number(value: Any) -> float:
    """Six digits of it; 0 for what JSON has no number for, as beside special tokens, which have no activation."""
    return float(f"{value:.6g}") if math.isfinite(value) else 0.0


def _row_id(names: Names, origin: Origin, table: str, content: str) -> str:
    """A key of the database that is the same for each export of the same."""
    whole = f"{origin.features.artifact.digest} {names.model_id} {names.source(origin)} {table} {content}"
    return "c" + hashlib.sha256(whole.encode()).hexdigest()[:24]
