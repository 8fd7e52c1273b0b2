"""What was said of each feature, and how well that held on documents that no explainer saw.

Memory holds the words of the explanations and the columns of the scores, not a record for each figure.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mistudio.artifacts import Artifact
from mistudio.explain.config import PROGRAM, TOKEN_SET
from mistudio.features import EXPLANATIONS, LABELS, SCORES, TOKEN_SETS, Figure, Table, is_control, main_figure
from mistudio.features.layout import parts_of
from mistudio.features.tables import TableReader
from mistudio.report.metrics import rounded
from mistudio.report.worth import Standing
from mistudio.score import SUMMARY_NAME as SCORES_SUMMARY_NAME
from mistudio.score.program import FIRES
from mistudio.score.summary import INTERPRETABLE

_WORDS = ["feature", "explainer", "status", "text", "label", "confidence", "model"]
_METRIC_LABELS = {"f1": "F1", "balanced_accuracy": "balanced accuracy", "auroc": "AUROC"}
_CHANCE = {"balanced_accuracy": 0.5, "auroc": 0.5, "accuracy": 0.5}  # 0 for the others
_SHUFFLED = "-shuffled"  # ends the name of a scorer's control
_BINS = 20
_ROWS_AT_ONCE = 1024
# Of the summary of the scores: counts of features, and means over them.
_COUNTS = (
    ("… by a bare set of tokens", "interpretable_token_sets"),
    ("… with any activation as firing", "interpretable_any"),
    ("context gains ≥ 0.1 F1 over the set of tokens", "context_gains"),
)
_MEANS = (
    ("mean F1", "program_f1"),
    ("mean F1, explanations shuffled over features", "shuffled_f1"),
    ("mean AUROC", "program_auroc"),
    ("mean AUROC, shuffled", "shuffled_auroc"),
)

Row = dict[str, Any]


class ScoreTable(NamedTuple):
    """Scores, sorted by feature; names are places in lists."""

    feature: NDArray[np.int64]
    codes: NDArray[np.int64]  # [scores, 3]: explainer, scorer, metric
    names: tuple[list[str], list[str], list[str]]
    figures: NDArray[np.float32]  # [scores, 3]: value, low, high
    counts: NDArray[np.int64]  # [scores, 2]: examples, failures

    def name(self, place: int) -> Figure:
        """Explainer, scorer and metric of one score."""
        explainer, scorer, metric = (names[code] for names, code in zip(self.names, self.codes[place], strict=True))
        return explainer, scorer, metric

    def kinds(self) -> list[Figure]:
        """The figures that there are, in the order of their names."""
        _, firsts = np.unique(self.codes, axis=0, return_index=True)
        return sorted(self.name(int(place)) for place in firsts)

    def of(self, feature: int) -> list[Row]:
        """The figures of one feature, by who explained and who scored."""
        low, high = np.searchsorted(self.feature, (feature, feature + 1))
        groups: dict[tuple[str, str], Row] = {}
        for place in range(int(low), int(high)):
            explainer, scorer, metric = self.name(place)
            group = groups.setdefault(
                (explainer, scorer),
                {"explainer": explainer, "scorer": scorer, "examples": 0, "failures": 0, "figures": {}},
            )
            group["figures"][metric] = [_thousandths(value) for value in self.figures[place].tolist()]
            examples, failures = self.counts[place].tolist()
            group["examples"], group["failures"] = (
                max(group["examples"], examples),
                max(group["failures"], failures),
            )
        return list(groups.values())


class Interpretation:
    """Explanations and scores of all features."""

    def __init__(self, scores: Artifact, explanations: Artifact, num_features: int) -> None:
        self.num_features = num_features
        self.summary: Row = json.loads(scores.file(SCORES_SUMMARY_NAME).read_text(encoding="utf-8"))
        self.table = _read_scores(scores)
        self.explanations: dict[int, list[Row]] = defaultdict(list)
        for table in (EXPLANATIONS, TOKEN_SETS):
            for row in _rows(explanations, table, _WORDS):
                self.explanations[row.pop("feature")].append({**row, "confidence": rounded(row["confidence"])})
        labels = list(_rows(explanations, LABELS, ["feature", "label", "explainer"]))
        self.labels = {row["feature"]: row["label"] for row in labels}
        self.labelled_by: dict[str, list[int]] = defaultdict(list)
        for row in labels:
            self.labelled_by[row["explainer"]].append(row["feature"])
        self.kinds = self.table.kinds()
        self.figure = main_figure(self.kinds)
        self.main_F = self._values(self.figure)[0]

    @property
    def figure_label(self) -> str:
        """What the one figure that stands for a feature is called."""
        if self.figure is None:
            return "score"
        _, scorer, metric = self.figure
        label = _METRIC_LABELS.get(metric, metric)
        return label if scorer == "program" else f"{label}, {scorer}"

    @property
    def explained(self) -> int:
        """Features that some explainer, or a person, has words for."""
        return sum(
            any(each["status"] == "explained" and not is_control(each["explainer"]) for each in rows)
            for rows in self.explanations.values()
        )

    @property
    def not_explained(self) -> int:
        """Features that nobody was asked about."""
        return self.num_features - len(self.explanations)

    @property
    def not_scored(self) -> int:
        """Features that no scorer was asked about; dead ones and failures are not among them."""
        return self.num_features - len(np.unique(self.table.feature))

    @property
    def interpretable(self) -> int:
        """Features whose figure is at least 0.8; one without a figure is not."""
        return int((self.main_F >= INTERPRETABLE).sum())

    def label(self, feature: int) -> str:
        """A few words; a person's own before those of an explainer."""
        return str(self.labels.get(feature, ""))

    def text(self, feature: int) -> str:
        """The first explanation that there is, in full."""
        return next(
            (str(each["text"]) for each in self.explanations.get(feature, ()) if each["status"] == "explained"), ""
        )

    def detail(self, feature: int) -> Row:
        """All explanations and all scores of one feature."""
        return {"explanations": self.explanations.get(feature, []), "scores": self.table.of(feature)}

    def distribution(self) -> Row:
        """Features by their figure."""
        defined = self.main_F[~np.isnan(self.main_F)]
        counts, edges = np.histogram(np.clip(defined, 0, 1), bins=_BINS, range=(0, 1))
        return {
            "label": self.figure_label,
            "edges": [round(edge, 6) for edge in edges.tolist()],
            "counts": counts.tolist(),
            "undefined": self.num_features - self.not_scored - len(defined),
            "not_scored": self.not_scored,
            "threshold": INTERPRETABLE,
            "firing": self.summary.get("threshold"),
        }

    def facts(self) -> list[tuple[str, str]]:
        """The summary's figures as rows for people, with the controls beside them."""
        found = self.summary.get("headlines", {})
        label, scored = self.figure_label, int((~np.isnan(self.main_F)).sum())
        asked = self.num_features - self.not_scored
        of_asked = f" of {asked:,} asked for" if self.not_scored else ""
        rows = [
            ("features scored", f"{scored:,} of {self.num_features:,}"),
            *([("not explained: nobody was asked", f"{self.not_explained:,}")] if self.not_explained else []),
            (f"interpretable: {label} ≥ {INTERPRETABLE}", f"{self.interpretable:,}{of_asked}"),
            *((name, f"{found[key]:,}") for name, key in _COUNTS if key in found),
            *((name, f"{found[key]:.3f}") for name, key in _MEANS if key in found),
        ]
        criterion = self.summary.get("criterion")
        if criterion:
            unknown = "not known: not all were asked for" if self.not_scored else "no"
            rows.append(("more than 50 interpretable, under 20% dead", "yes" if criterion["holds"] else unknown))
        return rows

    def standing(self) -> Standing:
        """How well what gave each label holds, else the explanation that stands for features, beside its control."""
        standing = self._standing(self.figure)
        for explainer, labelled in self.labelled_by.items():
            figure = main_figure(kind for kind in self.kinds if kind[0] == explainer)
            if figure is not None and figure != self.figure:
                own = self._standing(figure)
                scored = [feature for feature in labelled if not np.isnan(own.score_F[feature])]
                for values_F, own_F in zip(standing, own, strict=True):
                    values_F[scored] = own_F[scored]
        return standing

    def _standing(self, figure: Figure | None) -> Standing:
        """Of the explanations that a figure is of."""
        value_F, low_F = self._values(figure)
        explainer, scorer, metric = figure or ("", "", "")
        control_F, _ = self._values((explainer, f"{scorer}{_SHUFFLED}", metric))
        missing_F = np.isnan(control_F)
        control_F[missing_F] = _CHANCE.get(metric, 0.0)
        score_F = np.where(np.isnan(low_F), value_F, low_F)
        program_F, tokens_F = (self._values((name, PROGRAM, "f1"))[0] for name in (PROGRAM, TOKEN_SET))
        columns = (score_F, control_F, self._firing(figure), program_F - tokens_F)
        return Standing(*(column_F.astype(np.float64) for column_F in columns))

    def _firing(self, figure: Figure | None) -> NDArray[np.float32]:
        """On how many held-out tokens each feature fires; of a judge's examples half are such."""
        explainer, scorer, _ = figure or ("", "", "")
        firing_F = self._values((explainer, scorer, FIRES))[0]
        if figure in self.kinds:
            there = self._places(figure)
            half = (self.table.counts[there, 0] - self.table.counts[there, 1]) / 2
            feature = self.table.feature[there]
            firing_F[feature] = np.where(np.isnan(firing_F[feature]), half, firing_F[feature])
        return firing_F

    def _values(self, figure: Figure | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """A figure of every feature and the lower end of its interval; NaN where there is none."""
        values_F2 = np.full((self.num_features, 2), np.nan, dtype=np.float32)
        if figure in self.kinds:
            there = self._places(figure)
            values_F2[self.table.feature[there]] = self.table.figures[there, :2]
        return values_F2[:, 0], values_F2[:, 1]

    def _places(self, figure: Figure) -> NDArray[np.bool_]:
        """Which rows of the table are of a figure that there is."""
        codes = [names.index(name) for names, name in zip(self.table.names, figure, strict=True)]
        is_there: NDArray[np.bool_] = (self.table.codes == codes).all(axis=1)
        return is_there


def _thousandths(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 3)


def _read_scores(scores: Artifact) -> ScoreTable:
    names = ["explainer", "scorer", "metric"]
    read = pa.Table.from_batches(TableReader(scores, SCORES).batches(SCORES.names), SCORES.schema)
    table = pa.table({name: read[name].dictionary_encode() if name in names else read[name] for name in SCORES.names})
    table = table.unify_dictionaries().combine_chunks()
    feature = table["feature"].to_numpy().astype(np.int64)
    order = np.argsort(feature, kind="stable")
    columns = [table[name].combine_chunks() for name in names]
    codes = [column.indices.to_numpy() for column in columns]
    explainers, scorers, metrics = (column.dictionary.to_pylist() for column in columns)
    figures = [table[name].to_numpy() for name in ("value", "low", "high")]
    counts = [table[name].to_numpy() for name in ("num_examples", "num_failures")]
    return ScoreTable(
        feature[order],
        np.stack(codes, axis=1)[order].astype(np.int64),
        (explainers, scorers, metrics),
        np.stack(figures, axis=1)[order],
        np.stack(counts, axis=1)[order],
    )


def _rows(artifact: Artifact, table: Table, columns: list[str]) -> Iterable[Row]:
    for batch in TableReader(artifact, table).batches(columns) if parts_of(artifact, table) else ():
        for some in pa.Table.from_batches([batch]).to_batches(_ROWS_AT_ONCE):
            yield from some.to_pylist()
