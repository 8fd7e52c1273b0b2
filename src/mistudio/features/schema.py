"""The tables that hold what is known of features, one row or several a feature: every column with its type and meaning.

``find`` writes the tables of features, contexts, neighbours and the map; ``explain`` those of explanations and labels;
``score`` that of scores. Who reads them takes names and types from here, and the documents are held to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

ABOUT_NAME = "find.json"
TOKEN_SETS_NAME = "token_sets.parquet"  # noqa: S105 -- a file's name
SCORES_SUMMARY_NAME = "scores.json"
CONTEXT_KINDS = ("top", "sampled", "random", "hard_negative")
FIRING_KINDS = ("top", "sampled")  # contexts in which the feature is active
RELATIONS = ("decoder", "correlation", "pmi", "jaccard")

_COUNT, _ID, _REAL, _TEXT = pa.int64(), pa.int32(), pa.float32(), pa.string()
_COUNTS, _IDS, _REALS, _TEXTS = (pa.list_(each) for each in (_COUNT, _ID, _REAL, _TEXT))


class Column(NamedTuple):
    """One column: what it is called, holds and means."""

    name: str
    type: pa.DataType
    meaning: str


@dataclass(frozen=True)
class Table:
    """The columns of one table.

    Attributes:
        name: of its file; or of a folder, whose files are named by the first feature in them.
        rows: what a row is, and how they are ordered.
        columns: all of them, in their order.
        by_feature: whether its rows ascend by feature in every artifact; else each file says whether they do.
    """

    name: str
    rows: str
    columns: tuple[Column, ...]
    by_feature: bool = True

    @property
    def schema(self) -> pa.Schema:
        """Names and types, as Arrow has them."""
        return pa.schema([(column.name, column.type) for column in self.columns])

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all columns."""
        return tuple(column.name for column in self.columns)

    @property
    def single(self) -> tuple[str, ...]:
        """Names of the columns that hold one value, not a list."""
        return tuple(column.name for column in self.columns if not pa.types.is_list(column.type))

    def build(self, columns: Mapping[str, Any]) -> pa.Table:
        """Rows of this table from some of its columns; the others are null.

        Raises:
            KeyError: there is no such column.
        """
        unknown = set(columns) - set(self.names)
        if unknown:
            raise KeyError(*unknown)
        num_rows = len(next(iter(columns.values())))
        arrays = [
            _array(columns[column.name], column.type) if column.name in columns else pa.nulls(num_rows, column.type)
            for column in self.columns
        ]
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def markdown(self) -> str:
        """The columns as a table for a document."""
        rows = (f"| `{column.name}` | {_type_name(column.type)} | {column.meaning} |" for column in self.columns)
        return "\n".join(["| column | type | what |", "|---|---|---|", *rows])


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    return values.cast(kind) if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, kind)


def _type_name(kind: pa.DataType) -> str:
    return f"list of {kind.value_type}" if pa.types.is_list(kind) else str(kind)


FEATURES = Table(
    "features.parquet",
    "one a feature",
    (
        Column("feature", _ID, "number of the feature"),
        Column("count", _COUNT, "tokens that it fires on"),
        Column("density", pa.float64(), "share of all tokens that it fires on"),
        Column("mean", _REAL, "mean activation over those; 0 where it never fires"),
        Column("max", _REAL, "largest activation"),
        Column("histogram", _COUNTS, "its activations by bin; the edges are in `find.json`"),
        Column("promoted_token_ids", _IDS, "output tokens that it makes likelier, best first; none without a lens"),
        Column("promoted_tokens", _TEXTS, "how those read"),
        Column("promoted_logits", _REALS, "what it adds to their logits"),
        Column("suppressed_token_ids", _IDS, "output tokens that it makes less likely, strongest first"),
        Column("suppressed_tokens", _TEXTS, "how those read"),
        Column("suppressed_logits", _REALS, "what it adds to their logits"),
        Column("quantiles", _REALS, "of its activations, as `find.json` names them"),
        Column("coherence", _REAL, "how alike its top contexts are; null below two"),
        Column("tried", pa.bool_(), "whether it was tried in the model; others have no effects and no attributions"),
        Column("ablation", _REAL, "loss in nats where it fires, when it is taken out; null where not tried"),
        Column("ablation_elsewhere", _REAL, "the same, on later tokens where it does not fire"),
        Column("ablation_control", _REAL, "the same as `ablation`, by another feature's direction"),
        Column("coherent", pa.bool_(), "whether `coherence` reaches the threshold"),
        Column("task_density", _REALS, "share of the tokens of each task that it fires on; null without statistics"),
        Column("position_density", _REALS, "share of the tokens of each place in the sequence"),
        Column("lift_token_ids", _IDS, "tokens that it fires on more often than by chance, best first"),
        Column("lift_tokens", _TEXTS, "how those read"),
        Column("lift_values", _REALS, "how many times as often"),
        Column("mean_token_ids", _IDS, "tokens with the largest mean activation, best first"),
        Column("mean_tokens", _TEXTS, "how those read"),
        Column("mean_values", _REALS, "those means"),
    ),
)
CONTEXTS = Table(
    "contexts",
    "one a context, by feature, kind and rank",
    (
        Column("feature", _ID, "number of the feature"),
        Column("kind", _TEXT, "`top`, `sampled`, `random` or `hard_negative`"),
        Column("rank", _ID, "place within its kind, from 0"),
        Column("stratum", _ID, "quantile of a sampled context, 0 the weakest; null for others"),
        Column("document", _ID, "number of its document in the training split"),
        Column("task", _TEXT, "task of the document"),
        Column("sequence", _ID, "number of its sequence in the training split"),
        Column("position", _ID, "of the peak, in its document"),
        Column("value", _REAL, "activation at the peak"),
        Column("peak", _ID, "place of the peak among the tokens shown"),
        Column("neighbour", _ID, "of a hard negative, the feature that fires there; null for others"),
        Column("token_ids", _IDS, "tokens shown"),
        Column("tokens", _TEXTS, "how those read"),
        Column("values", _REALS, "activation on each; NaN beside special tokens, which are not captured"),
        Column("gradient", _REALS, "gradient × input of each token; null where not traced, NaN where not read"),
        Column("integrated", _REALS, "integrated gradients of each token; likewise"),
    ),
)
NEIGHBOURS = Table(
    "neighbours.parquet",
    "one a neighbour, by feature, relation and rank",
    (
        Column("feature", _ID, "number of the feature"),
        Column("relation", _TEXT, "`decoder`, `correlation`, `pmi` or `jaccard`"),
        Column("rank", _ID, "place within its relation, from 0"),
        Column("other", _ID, "number of the neighbour"),
        Column("value", _REAL, "cosine, correlation, PMI in nats, or Jaccard index"),
    ),
)
MAP = Table(
    "map.parquet",
    "one a feature",
    (
        Column("feature", _ID, "number of the feature"),
        Column("x", _REAL, "place on the map; NaN without one"),
        Column("y", _REAL, "likewise"),
        Column("cluster", _ID, "cluster on the map; null where it is in none"),
        Column("group", _ID, "smallest feature of its group of near-duplicates; null where it is in none"),
    ),
)
TRIALS = Table(
    "trials.parquet",
    "one a feature tried in the model",
    (
        Column("feature", _ID, "number of the feature"),
        Column("ablation", _REAL, "as in the table of features"),
        Column("ablation_elsewhere", _REAL, "likewise"),
        Column("ablation_control", _REAL, "likewise"),
    ),
)
TRACES = Table(
    "traces.parquet",
    "one a top context that was traced, by feature and rank",
    (
        Column("feature", _ID, "number of the feature"),
        Column("rank", _ID, "place of the context among the top ones of the feature"),
        Column("gradient", _REALS, "beside the tokens of the context, as in the table of contexts"),
        Column("integrated", _REALS, "likewise"),
    ),
)
EXPLANATIONS = Table(
    "explanations.parquet",
    "one a feature and explainer, by feature",
    (
        Column("feature", _ID, "number of the feature"),
        Column("explainer", _TEXT, "what made it: `program`, `max-activating`, …, or `person`"),
        Column("status", _TEXT, "`explained`, `dead` or `failed`"),
        Column("text", _TEXT, "plain English; of a dead feature or a failure, why there is none"),
        Column("label", _TEXT, "a few words"),
        Column("confidence", _REAL, "fit on the documents that were seen; null where not measured"),
        Column("program", _TEXT, "what predicts the activation of any token, as JSON; null where there is none"),
        Column("model", _TEXT, "language model that wrote it; null where none did"),
        Column("prompt", _TEXT, "sha256 of the prompt, in hexadecimal; null where there was none"),
        Column("seed", _COUNT, "of everything random"),
        Column("documents", _IDS, "training documents that were shown, ascending"),
    ),
    by_feature=False,
)
TOKEN_SETS = Table(TOKEN_SETS_NAME, "one a feature: the best set of tokens alone", EXPLANATIONS.columns)
LABELS = Table(
    "labels.parquet",
    "one a feature that has a label",
    (
        Column("feature", _ID, "number of the feature"),
        Column("label", _TEXT, "a few words, unlike any other feature's"),
        Column("explainer", _TEXT, "who gave it"),
        Column("confidence", _REAL, "how well that explanation fits; null where not measured"),
    ),
)
SCORES = Table(
    "scores.parquet",
    "one a figure, by feature and scorer",
    (
        Column("feature", _ID, "number of the feature"),
        Column("explainer", _TEXT, "whose explanation it is"),
        Column("scorer", _TEXT, "who scored it"),
        Column(
            "metric",
            _TEXT,
            "`f1`, `balanced_accuracy`, `auroc`, `correlation`, …; of programs also `fires`: on how many held-out "
            "tokens the feature does",
        ),
        Column("value", _REAL, "NaN where it is not defined"),
        Column("low", _REAL, "lower end of the 95% interval; NaN where there is none"),
        Column("high", _REAL, "upper end"),
        Column("num_examples", _COUNT, "tokens or examples that were judged"),
        Column("num_failures", _COUNT, "of them, those without a usable answer, which count as wrong"),
    ),
    by_feature=False,
)
