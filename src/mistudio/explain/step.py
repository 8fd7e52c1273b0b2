"""The explain step: descriptions of features, made from training documents alone.

Features are explained a block at a time; each finished block is kept with the draft, so that a killed run goes on at
the next.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mistudio.artifacts import Artifact, Draft, InputRef, Produced, Recipe, Store, Summary, hash_file, produce
from mistudio.errors import InputError
from mistudio.explain.config import EXPLAINERS, PERSON, PROGRAM, TOKEN_SET, ExplainConfig
from mistudio.explain.evidence import read_evidence
from mistudio.explain.judge import Judge
from mistudio.explain.labels import choose_labels, read_labels
from mistudio.explain.material import Material, open_material
from mistudio.explain.program import ProgramExplainer
from mistudio.explain.records import Evidence, Explanation
from mistudio.explain.status import StatusCounts
from mistudio.explain.tables import (
    EXPLANATIONS_NAME,
    LABELS_NAME,
    SUMMARY_NAME,
    TOKEN_SETS_NAME,
    join_tables,
    read_table,
    write_explanations,
    write_labels,
)
from mistudio.features import FIRING_KINDS
from mistudio.plain_text import without_surrogates
from mistudio.progress import progress
from mistudio.subject import SubjectConfig, SubjectSource

logger = logging.getLogger(__name__)

_READ_NAME = "read.json"


class JudgeSource(NamedTuple):
    """A language model that can be asked: what of it belongs in a recipe, and how to open it.

    Answers are remembered in a folder of their own, so asking again costs nothing.
    """

    settings: dict[str, Any]
    open: Callable[[], AbstractContextManager[Judge]]


def explain(
    store: Store,
    features: Artifact,
    source: SubjectSource,
    subject_config: SubjectConfig | None = None,
    config: ExplainConfig | None = None,
    seed: int = 0,
    labels: Path | None = None,
    judge: JudgeSource | None = None,
) -> Produced:
    """Publish explanations of every feature found.

    Args:
        store: holds the artifacts.
        features: artifact of kind ``features``.
        source: the model that the activations come from; its tokenizer is needed.
        subject_config: how to load it.
        config: who explains, and from how much.
        seed: of everything random.
        labels: people's own labels, as JSON Lines or CSV with the columns feature and label.
        judge: the language model that explainers ask.

    Raises:
        InputError: the tokenizer is another one, or the labels cannot be used.
        ConfigError: an explainer is unknown, or asks a language model and none is given.
    """
    config = config or ExplainConfig()
    material = open_material(store, features, source, subject_config)
    check_explainers(config, has_judge=judge is not None)
    inputs = {
        "features": features.ref,
        "tokenizer": InputRef(uri=f"tokenizer:{source.uri}", digest=source.tokenizer_digest),
    }
    if labels is not None:
        inputs["labels"] = _file_ref(labels)
    settings = _settings(config)
    asked = judge if EXPLAINERS.need_judge(config.explainers) else None
    settings["judge"] = asked.settings if asked else None
    if EXPLAINERS.need_subject(config.explainers):
        inputs["subject"], numerics = material.subject_recipe()
        settings |= numerics
    recipe = Recipe(kind="explanations", config=settings, inputs=inputs, seed=seed)

    def build(draft: Draft) -> Summary:
        people = read_labels(labels, material.num_features) if labels is not None else []
        with asked.open() if asked else nullcontext() as opened:
            return _Explaining(draft, material, config, seed, opened).run(people)

    return produce(store, recipe, "explain", build)


def check_explainers(config: ExplainConfig, *, has_judge: bool) -> None:
    """Refuse explainers that cannot explain, before anything is read.

    Raises:
        ConfigError: one is unknown, asks a language model and none is given, or refuses its settings.
    """
    EXPLAINERS.check(config.explainers, config, has_judge=has_judge)


def _settings(config: ExplainConfig) -> dict[str, Any]:
    """What of the configuration the explainers asked for depend on."""
    always = ["explainers", "block_features"]
    if _shows_contexts(config):
        always.append("contexts")
    return EXPLAINERS.recipe(config.explainers, config, always)


def _shows_contexts(config: ExplainConfig) -> bool:
    """Whether an explainer is shown contexts; programs are searched on all tokens."""
    return set(config.explainers) != {PROGRAM}


class _Explaining:
    """Explains block by block, and publishes."""

    def __init__(self, draft: Draft, material: Material, config: ExplainConfig, seed: int, judge: Judge | None) -> None:
        self.draft, self.material, self.config, self.seed, self.judge = draft, material, config, seed, judge
        self.num_features = material.num_features
        self._program: ProgramExplainer | None = None

    def run(self, people: list[Explanation]) -> Summary:
        firsts = range(0, self.num_features, self.config.block_features)
        with progress("Explain features", self.num_features * len(self.config.explainers), "features") as bar:
            for name in self.config.explainers:
                for first in firsts:
                    self._block(name, first)
                    bar.advance(min(self.config.block_features, self.num_features - first))
        with self.draft.stage_work(_work_name(PERSON)) as path:
            write_explanations(path, people)
        names = [_work_name(name, first) for name in self.config.explainers for first in firsts]
        with self.draft.stage(EXPLANATIONS_NAME) as path:
            join_tables(path, map(self.draft.work_file, [_work_name(PERSON), *names]))
        if PROGRAM in self.config.explainers:
            with self.draft.stage(TOKEN_SETS_NAME) as path:
                join_tables(path, (self.draft.work_file(_work_name(TOKEN_SET, first)) for first in firsts))
        return self._publish()

    def _block(self, name: str, first: int) -> None:
        """Explain some features, unless an earlier run has."""
        if self.draft.has_work(_work_name(name, first)):
            return
        stop = min(first + self.config.block_features, self.num_features)
        evidence = read_evidence(self.material.found, first, stop, examples=name != PROGRAM)
        if name == PROGRAM:
            pairs = list(self._programs().explain_both(evidence))
            with self.draft.stage_work(_work_name(TOKEN_SET, first)) as path:
                write_explanations(path, (token_set for _, token_set in pairs))
            explanations = [program for program, _ in pairs]
        else:
            explainer = EXPLAINERS.new(name, self.config, self.judge, self.seed, self.material)
            explanations = list(explainer.explain(_shown(evidence, self.config.contexts)))
        with self.draft.stage_work(_work_name(name, first)) as path:
            write_explanations(path, _one_each(name, range(first, stop), explanations, self.seed))

    def _programs(self) -> ProgramExplainer:
        """The program explainer, with the tokens that it searches on; made once, when it is needed."""
        if self._program is None:
            tokens, firings = self.material.read("train", self.config.max_tokens, self.seed, self.material.strings())
            self._program = ProgramExplainer(tokens, firings, self.config.program, self.seed)
            documents = np.unique(tokens.document_N).tolist()
            read = {"num_tokens": len(tokens), **firings.filtered(), "documents": documents}
            with self.draft.stage_work(_READ_NAME) as path:
                path.write_text(json.dumps(read))
        return self._program

    def _publish(self) -> Summary:
        explained = self.draft.file(EXPLANATIONS_NAME)
        status = StatusCounts(self.num_features)
        labels = choose_labels(status.watch(read_table(explained)))
        with self.draft.stage(LABELS_NAME) as path:
            write_labels(path, labels)
        has_read = self.draft.has_work(_READ_NAME)
        read = json.loads(self.draft.work_file(_READ_NAME).read_bytes()) if has_read else {}
        content = {
            "explainers": status.by_explainer,
            "contexts": self._contexts() if _shows_contexts(self.config) else None,
            "searched": read,
            "spending": self.judge.spending.totals() if self.judge is not None else None,
        }
        self.draft.write(SUMMARY_NAME, json.dumps(content, indent=1, sort_keys=True).encode())
        return {
            "features": self.num_features,
            **status.features,
            "labels": len(labels),
            "explainers": ", ".join(self.config.explainers),
            "tokens": read.get("num_tokens", 0),
            **{name: read[name] for name in ("filtered_tokens",) if name in read},
            "documents": len(read.get("documents", ())),
        }

    def _contexts(self) -> dict[str, int]:
        """How many features have fewer contexts that they fire in than may be shown."""
        counts_F, asked = self.material.found.count_contexts(FIRING_KINDS), self.config.contexts
        fewer = int(((counts_F > 0) & (counts_F < asked)).sum())
        if fewer:
            logger.info("%d of %d features fire in fewer than %d contexts", fewer, self.num_features, asked)
        return {"asked": asked, "features_with_fewer": fewer, "features_without": int((counts_F == 0).sum())}


def _work_name(name: str, first: int = 0) -> str:
    return f"{name}-{first:07d}.parquet"


def _file_ref(path: Path) -> InputRef:
    if not path.is_file():
        message = f"There is no file of labels at {path}. Give JSON Lines or CSV with the columns feature and label."
        raise InputError(message)
    return InputRef(uri=f"file:{without_surrogates(path.name)}", digest=hash_file(path))


def _shown(features: Iterable[Evidence], most: int) -> Iterator[Evidence]:
    """The contexts that a language model may be shown: of each kind the first."""
    for evidence in features:
        seen = Counter[str]()
        kept = []
        for example in evidence.examples:
            seen[example.kind] += 1
            if seen[example.kind] <= most:
                kept.append(example)
        yield evidence._replace(examples=tuple(kept))


def _one_each(name: str, features: range, explanations: Iterable[Explanation], seed: int) -> Iterator[Explanation]:
    """One explanation a feature, in order; one that the explainer left out has failed."""
    made = {explanation.feature: explanation for explanation in explanations}
    for feature in features:
        yield made.get(feature) or Explanation(
            feature=feature,
            explainer=name,
            status="failed",
            text=f"The explainer {name} said nothing of this feature.",
            seed=seed,
        )
