"""What there is to export of each feature, read one feature at a time, and where it comes from.

Shape legend: F features, D model width, n aligned dimensions.
"""

from collections.abc import Iterator
from typing import NamedTuple

from safetensors import safe_open

from mistudio.artifacts import Artifact, Line, Store, open_artifact
from mistudio.features import FeatureSet, Neighbours, Row
from mistudio.sae import hook_of, target_hook_of
from mistudio.sae.files import WEIGHTS_NAME

_FEATURES_AT_ONCE = 256
_ALIGNED = 3
_COLUMNS = (
    "count",
    "density",
    "max",
    "histogram",
    "promoted_tokens",
    "promoted_logits",
    "suppressed_tokens",
    "suppressed_logits",
)
_CONTEXT_COLUMNS = ("peak", "tokens", "values")


class Origin(NamedTuple):
    """What found features come from."""

    features: FeatureSet
    sae: Artifact
    model: str  # name of the language model
    hook: str  # where features are written: that of the autoencoder, or a transcoder's target
    dataset: str
    num_sequences: int  # of the corpus, both splits
    context_length: int  # tokens of a sequence


class Alignment(NamedTuple):
    """The dimensions of the model that a decoder direction has the largest components in, largest first."""

    indices: list[int]
    values: list[float]
    shares: list[float]  # of the sum of all absolute components


class Found(NamedTuple):
    """All that is exported of one feature."""

    row: Row  # of the table of features
    contexts: list[Row]
    neighbours: Neighbours
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
    return Origin(
        features=FeatureSet(features),
        sae=sae,
        model=_model_name(store, features.manifest.inputs["subject"].uri),
        hook=target_hook_of(sae) or hook_of(sae),
        dataset=corpus.manifest.inputs["source"].uri,
        num_sequences=int(str(corpus.manifest.summary["sequences"])),
        context_length=int(corpus.manifest.config["context_length"]),
    )


def read_found(origin: Origin) -> Iterator[Found]:
    """Every feature in order, with its contexts and neighbours; a few hundred are held at a time."""
    features = origin.features
    found = features.stream(columns=_COLUMNS, context_columns=_CONTEXT_COLUMNS)
    for first in range(0, features.num_features, _FEATURES_AT_ONCE):
        alignments = _alignments(origin.sae, first, min(first + _FEATURES_AT_ONCE, features.num_features))
        for alignment, each in zip(alignments, found, strict=False):
            yield Found(*each, alignment)


def read_places(features: FeatureSet) -> list[Row]:
    """Where each feature lies on the map, and its cluster [F]."""
    columns = {name: features.column(name).to_pylist() for name in ("x", "y", "cluster")}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _model_name(store: Store, uri: str) -> str:
    """The name in ``folder:NAME``, ``hub:ORG/NAME@COMMIT`` or the artifact under ``subject/KEY``."""
    scheme, colon, rest = uri.partition(":")
    if colon:
        return rest.partition("@")[0].rpartition("/")[2]
    return str(open_artifact(store, scheme, "subject").manifest.config.get("name", uri))


def _alignments(sae: Artifact, first: int, stop: int) -> list[Alignment]:
    with safe_open(sae.file(WEIGHTS_NAME), "pt") as file:
        W_dec_FD = file.get_slice("W_dec")[first:stop].float()
    top = W_dec_FD.topk(min(_ALIGNED, W_dec_FD.shape[1]), dim=1)
    shares_Fn = top.values / W_dec_FD.abs().sum(dim=1, keepdim=True).clamp(min=1e-12)
    columns = zip(top.indices.tolist(), top.values.tolist(), shares_Fn.tolist(), strict=True)
    return [Alignment(*row) for row in columns]
