"""What there is to export of each feature, read one feature at a time, and where it comes from.

Shape legend: F features, D model width, n aligned dimensions.
"""

import json
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from safetensors import safe_open

from mistudio.artifacts import Artifact, Line, Store, open_artifact
from mistudio.find import CONTEXTS_NAME, FEATURES_NAME, FIND_NAME, MAP_NAME, NEIGHBOURS_NAME
from mistudio.sae import hook_of, target_hook_of
from mistudio.sae.files import WEIGHTS_NAME

Row = dict[str, Any]

_FEATURES_AT_ONCE = 256
_ROWS_AT_ONCE = 1024
_ALIGNED = 3
_FEATURE_COLUMNS = (
    "feature",
    "count",
    "density",
    "max",
    "histogram",
    "promoted_tokens",
    "promoted_logits",
    "suppressed_tokens",
    "suppressed_logits",
)
_CONTEXT_COLUMNS = ("feature", "kind", "rank", "peak", "tokens", "values")


class Origin(NamedTuple):
    """What found features come from."""

    features: Artifact
    sae: Artifact
    model: str  # name of the language model
    hook: str  # where features are written: that of the autoencoder, or a transcoder's target
    dataset: str
    num_sequences: int  # of the corpus, both splits
    context_length: int  # tokens of a sequence
    num_tokens: int  # that were searched
    histogram_edges: list[float]

    @property
    def num_features(self) -> int:
        """Features there are."""
        return int(str(self.features.manifest.summary["features"]))


class Alignment(NamedTuple):
    """The dimensions of the model that a decoder direction has the largest components in, largest first."""

    indices: list[int]
    values: list[float]
    shares: list[float]  # of the sum of all absolute components


class Found(NamedTuple):
    """All that is exported of one feature."""

    row: Row  # of the table of features
    contexts: list[Row]
    neighbours: dict[str, list[tuple[int, float]]]  # by relation, nearest first
    alignment: Alignment

    @property
    def feature(self) -> int:
        """Its number."""
        return int(self.row["feature"])


def open_origin(store: Store, features: Artifact) -> Origin:
    """Follow found features back to their autoencoder, model and text.

    Raises:
        NotFound: one of the artifacts behind them is no longer in the store.
        DamagedArtifact: one of them is another by now.
    """
    line = Line(store, features)
    sae, corpus = line.sae, line.corpus
    found = json.loads(features.file(FIND_NAME).read_bytes())
    return Origin(
        features=features,
        sae=sae,
        model=_model_name(store, features.manifest.inputs["subject"].uri),
        hook=target_hook_of(sae) or hook_of(sae),
        dataset=corpus.manifest.inputs["source"].uri,
        num_sequences=int(str(corpus.manifest.summary["sequences"])),
        context_length=int(corpus.manifest.config["context_length"]),
        num_tokens=int(found["num_tokens"]),
        histogram_edges=found["histogram_edges"],
    )


def read_found(origin: Origin) -> Iterator[Found]:
    """Every feature in order, with its contexts and neighbours; a few hundred are held at a time."""
    contexts = _follower(origin.features, CONTEXTS_NAME, _CONTEXT_COLUMNS)
    neighbours = _follower(origin.features, NEIGHBOURS_NAME, ("feature", "relation", "rank", "other", "value"))
    with pq.ParquetFile(origin.features.file(FEATURES_NAME)) as file:
        for batch in file.iter_batches(_FEATURES_AT_ONCE, columns=list(_FEATURE_COLUMNS)):
            rows = batch.to_pylist()
            alignments = _alignments(origin.sae, rows[0]["feature"], rows[-1]["feature"] + 1)
            for row, alignment in zip(rows, alignments, strict=True):
                feature = row["feature"]
                yield Found(row, contexts(feature), _by_relation(neighbours(feature)), alignment)


def read_places(features: Artifact) -> list[Row]:
    """Where each feature lies on the map, and its cluster; empty where there is no map [F]."""
    if MAP_NAME not in features.paths():
        return []
    return [dict(row) for row in pq.read_table(features.file(MAP_NAME), columns=["x", "y", "cluster"]).to_pylist()]


def _model_name(store: Store, uri: str) -> str:
    """The name in ``folder:NAME``, ``hub:ORG/NAME@COMMIT`` or the artifact under ``subject/KEY``."""
    scheme, colon, rest = uri.partition(":")
    if colon:
        return rest.partition("@")[0].rpartition("/")[2]
    return str(open_artifact(store, scheme, "subject").manifest.config.get("name", uri))


def _follower(features: Artifact, name: str, wanted: tuple[str, ...]) -> Callable[[int], list[Row]]:
    """A function that gives the rows of a feature from a table in the features' order; ask for them ascending."""
    groups = _groups(features, name, wanted)
    waiting = next(groups, None)

    def follow(feature: int) -> list[Row]:
        nonlocal waiting
        while waiting is not None and waiting[0] < feature:
            waiting = next(groups, None)
        return waiting[1] if waiting is not None and waiting[0] == feature else []

    return follow


def _groups(features: Artifact, name: str, wanted: tuple[str, ...]) -> Iterator[tuple[int, list[Row]]]:
    if name not in features.paths():
        return
    with pq.ParquetFile(features.file(name)) as file:
        there = [column for column in wanted if column in file.schema_arrow.names]
        rows = (row for batch in file.iter_batches(_ROWS_AT_ONCE, columns=there) for row in batch.to_pylist())
        for feature, group in groupby(rows, key=lambda row: int(row["feature"])):
            yield feature, list(group)


def _by_relation(rows: list[Row]) -> dict[str, list[tuple[int, float]]]:
    relations: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        relations.setdefault(row["relation"], []).append((row["other"], row["value"]))
    return relations


def _alignments(sae: Artifact, first: int, stop: int) -> list[Alignment]:
    with safe_open(sae.file(WEIGHTS_NAME), "pt") as file:
        W_dec_FD = file.get_slice("W_dec")[first:stop].float()
    top = W_dec_FD.topk(min(_ALIGNED, W_dec_FD.shape[1]), dim=1)
    shares_Fn = top.values / W_dec_FD.abs().sum(dim=1, keepdim=True).clamp(min=1e-12)
    columns = zip(top.indices.tolist(), top.values.tolist(), shares_Fn.tolist(), strict=True)
    return [Alignment(*row) for row in columns]
