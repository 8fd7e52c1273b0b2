"""An evaluation from its inputs to its tables.

Each finished feature is kept with the draft, so that a killed run goes on.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from mistudio.artifacts import Artifact, Draft, JsonScalar, Summary
from mistudio.corpus.reader import TokenCorpus
from mistudio.directions.examples import Example
from mistudio.features import FeatureSet
from mistudio.features.schema import Table
from mistudio.instrument import Session, open_session
from mistudio.instrument.engine import Engine
from mistudio.progress import progress
from mistudio.steer.evaluate.as_preset import as_preset
from mistudio.steer.evaluate.bench import Bench, slots_for
from mistudio.steer.evaluate.choosing import Candidate, candidates, chosen
from mistudio.steer.evaluate.concepts import Concept, ProgramJudge
from mistudio.steer.evaluate.config import SteerEvaluateConfig
from mistudio.steer.evaluate.effects import Effect
from mistudio.steer.evaluate.figures import ShipRange, perplexity, repetition
from mistudio.steer.evaluate.labels import Labelled
from mistudio.steer.evaluate.material import concepts, selected
from mistudio.steer.evaluate.page import page
from mistudio.steer.evaluate.records import ABOUT_NAME, EFFECTS, PAGE_NAME, PRESETS, TEXTS, TRIED, Text, Tried
from mistudio.steer.evaluate.trying import Judges, Outcome, Trial
from mistudio.steer.evaluate.windows import read_windows
from mistudio.subject import SubjectConfig, SubjectSource, token_strings

_CANDIDATES_NAME = "candidates.json"


class Given(NamedTuple):
    """What an evaluation is made of."""

    found: FeatureSet
    sae: Artifact
    corpus: Artifact
    source: SubjectSource
    subject_config: SubjectConfig
    examples: Sequence[Example] | None  # labelled; None: there are none


def evaluate(draft: Draft, given: Given, config: SteerEvaluateConfig, seed: int) -> Summary:
    """Choose features, try them, and write the tables.

    Raises:
        CorpusError: no held-out documents are long enough.
        InputError: the selection selects nothing, or examples are chats.
        SubjectError: the model cannot be loaded, or does not go on with texts.
    """
    corpus = TokenCorpus(given.corpus)
    windows = read_windows(corpus, config.texts, seed)
    with (
        open_session(given.sae, given.source, given.subject_config) as session,
        Engine(session, config.texts.num_rows, slots_for(windows, config.texts)) as engine,
    ):
        bench = Bench(session, engine, windows, config.texts, seed)
        return _Evaluation(draft, given, config, seed, session, bench, corpus).run()


class _Evaluation:
    def __init__(
        self,
        draft: Draft,
        given: Given,
        config: SteerEvaluateConfig,
        seed: int,
        session: Session,
        bench: Bench,
        corpus: TokenCorpus,
    ) -> None:
        self._draft, self._given, self._config, self._seed = draft, given, config, seed
        self._session, self._bench, self._corpus = session, bench, corpus
        self._labelled: Labelled | None = None
        if given.examples is not None:
            self._labelled = Labelled.of(bench.reader, given.examples, seed)

    def run(self) -> Summary:
        """Everything, in order."""
        path = self._draft.work_once(_CANDIDATES_NAME, self._write_candidates)
        looked_at = [Candidate(Effect(**each["effect"]), each["push_gain"]) for each in json.loads(path.read_bytes())]
        features = chosen(looked_at, self._config)
        known = concepts(self._given.found, features, self._bench.engine.special_ids)
        outcomes: dict[int, Outcome] = {}
        with progress("Steer", len(features), "features") as bar:
            for place, feature in enumerate(features):
                other = self._other(features, place)
                name = f"feature-{feature:07d}.json"
                path = self._draft.work_once(name, partial(self._write_outcome, known[feature], other))
                outcomes[feature] = _outcome(json.loads(path.read_bytes()))
                bar.advance(1, str(feature))
        return self._publish(looked_at, known, outcomes)

    def _write_candidates(self, path: Path) -> None:
        if self._labelled is not None and self._config.only is None:
            features = self._labelled.separating(self._bench.reader, self._firing(), self._config.num_candidates)
        else:
            features = selected(self._given.found, self._config)
        found = candidates(self._bench, self._corpus, features, self._config, self._seed)
        path.write_text(json.dumps([{"effect": each.effect._asdict(), "push_gain": each.push_gain} for each in found]))

    def _write_outcome(self, concept: Concept, other: int | None, path: Path) -> None:
        program = labels = None
        if concept.program is not None:
            strings = token_strings(self._session.subject.tokenizer)
            program = ProgramJudge(concept.program, strings)
        if self._labelled is not None:
            labels = self._labelled.judge
            concept = concept._replace(positives=self._labelled.positives, negatives=self._labelled.negatives)
        outcome = Trial(self._bench, concept, Judges(program, labels), self._config).run(other)
        tried, texts = ([row._asdict() for row in rows] for rows in (outcome.tried, outcome.texts))
        path.write_text(json.dumps({**outcome._asdict(), "tried": tried, "texts": texts}))

    def _firing(self) -> list[int]:
        maxima = self._given.found.column("max").to_pylist()
        return [number for number, most in enumerate(maxima) if (most or 0) > 0]

    def _other(self, features: Sequence[int], place: int) -> int | None:
        """A feature that fires, and is not the one: drawn anew for each."""
        others = [number for number in self._firing() if number != features[place]]
        draw = np.random.default_rng((self._seed, features[place]))
        return int(draw.choice(others)) if others else None

    def _publish(
        self, looked_at: Sequence[Candidate], known: Mapping[int, Concept], outcomes: Mapping[int, Outcome]
    ) -> Summary:
        effects = [
            {**one.effect._asdict(), "push_gain": one.push_gain, "chosen": one.effect.feature in outcomes}
            for one in looked_at
        ]
        every = [each for _, each in sorted(outcomes.items())]
        self._write(EFFECTS, sorted(effects, key=lambda row: int(row["feature"])))
        self._write(TRIED, (row._asdict() for each in every for row in each.tried))
        self._write(TEXTS, (row._asdict() for each in every for row in each.texts))
        for feature, outcome in outcomes.items():
            preset = as_preset(self._bench, known[feature], outcome)
            if preset is not None:
                self._draft.write(f"{PRESETS}/feature-{feature}.json", json.dumps(preset.content(), indent=1).encode())
        about = self._about(known, outcomes)
        self._draft.write(ABOUT_NAME, json.dumps(about, indent=1, allow_nan=False).encode())
        self._draft.write(PAGE_NAME, page(about, every).encode())
        return self._summary(looked_at, outcomes)

    def _write(self, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
        listed = list(rows)
        columns = {name: [row[name] for row in listed] for name in table.names}
        with self._draft.stage(table.name) as path:
            pq.write_table(table.build(columns), path, compression="zstd")

    def _about(self, known: Mapping[int, Concept], outcomes: Mapping[int, Outcome]) -> dict[str, Any]:
        """What the tables do not say: of each feature its range for use, as a preset takes it; and the prompts."""
        bench = self._bench
        features = [_about_one(known[feature], outcome) for feature, outcome in outcomes.items()]
        return {
            "hook": str(bench.placed.ends.write.point),
            "autoencoder": {"uri": bench.placed.uri, "digest": bench.placed.digest},
            "chosen_by": self._config.choose_by,
            "prompts": len(bench.prompts),
            "documents": [window.document for window in bench.windows.prompts],
            "unsteered": {
                "perplexity": _finite(perplexity(bench.unsteered_losses)),
                "repetition": _finite(repetition(bench.unsteered)),
            },
            "natural": {"windows": len(bench.natural), "perplexity": _finite(perplexity(bench.natural_losses))},
            "labels_auroc": None if self._labelled is None else self._labelled.auroc,
            "features": features,
        }

    def _summary(self, looked_at: Sequence[Candidate], outcomes: Mapping[int, Outcome]) -> Summary:
        """Means over the features that were tried, at the best strength of each."""
        best = [row for each in outcomes.values() for row in each.tried if row.strength == each.best and row.in_range]
        figures: dict[str, JsonScalar] = {"candidates": len(looked_at), "features": len(outcomes), "usable": len(best)}
        columns: dict[str, list[float | None]] = {
            "rate": [row.rate for row in best],
            "perplexity_ratio": [row.perplexity_ratio for row in best],
            "kl": [row.kl for row in best],
            "dose": [row.dose for row in best],
            "dose_response": [each.dose_response for each in outcomes.values()],
            "natural_rate": [each.natural_rate for each in outcomes.values()],
        }
        for method in dict.fromkeys(row.method for each in outcomes.values() for row in each.tried):
            if method not in ("feature", "ablated"):
                columns[f"control.{method}_rate"] = [
                    row.rate for each in outcomes.values() for row in each.tried if row.method == method
                ]
        figures |= {name: mean for name, values in columns.items() if (mean := _mean(values)) is not None}
        if self._labelled is not None:
            figures["labels_auroc"] = round(self._labelled.auroc, 6)
        return figures


def _about_one(concept: Concept, outcome: Outcome) -> dict[str, Any]:
    low, high = outcome.ship_range
    return {
        "feature": concept.feature,
        "label": concept.label,
        "maximum": concept.maximum,
        "ship_range": {"unit": "feature_max", "low": low, "high": high},
        "best_strength": outcome.best,
        "dose_response": _finite(outcome.dose_response),
        "dose_response_in_range": _finite(outcome.response_in_range),
        "target_kl": outcome.target_kl,
        "natural_rate": _finite(outcome.natural_rate),
        "natural_perplexity": _finite(outcome.natural_perplexity),
    }


def _outcome(content: dict[str, Any]) -> Outcome:
    """An outcome as it was kept."""
    tried = [Tried(**row) for row in content.pop("tried")]
    texts = [Text(**row) for row in content.pop("texts")]
    return Outcome(tried=tried, texts=texts, ship_range=ShipRange(*content.pop("ship_range")), **content)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return round(float(np.mean(known)), 6) if known else None
