"""Explaining features block by block: each finished block is kept with the draft, so that a killed run goes on.

Shape legend: F features, S features explained now.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mistudio.artifacts import Artifact, Draft, Summary
from mistudio.explain.config import EXPLAINERS, PERSON, PROGRAM, TOKEN_SET, ExplainConfig
from mistudio.explain.evidence import read_some
from mistudio.explain.judge import Judge
from mistudio.explain.keeping import Share, add_spending
from mistudio.explain.labels import choose_labels
from mistudio.explain.material import Material
from mistudio.explain.program import ProgramExplainer
from mistudio.explain.records import Evidence, Explanation
from mistudio.explain.status import StatusCounts
from mistudio.explain.tables import (
    EXPLANATIONS_NAME,
    SUMMARY_NAME,
    TOKEN_SETS_NAME,
    as_rows,
    file_rows,
    publish_explanations,
    publish_labels,
    read_explanations,
    read_tables,
    write_explanations,
)
from mistudio.features import FIRING_KINDS
from mistudio.progress import progress, say

logger = logging.getLogger(__name__)

_READ_NAME = "read.json"


def shows_contexts(config: ExplainConfig) -> bool:
    """Whether an explainer is shown contexts; programs are searched on all tokens."""
    return set(config.explainers) != {PROGRAM}


def said_by(
    base: Artifact | None, explainer: str, of_F: NDArray[np.bool_] | None = None, name: str = EXPLANATIONS_NAME
) -> Iterator[Explanation]:
    """What the base holds by one explainer, of some features or all."""
    for each in read_explanations(base, name) if base is not None else ():
        if each.explainer == explainer and (of_F is None or of_F[each.feature]):
            yield each


class Explaining:
    """Explains block by block, and publishes.

    Args:
        draft: of the artifact.
        material: the features, and what they were found in.
        config: who explains, and from how much.
        seed: of everything random.
        judge: the language model that explainers ask.
        shared: which features are explained now, and whose explanations are kept.
        base: holds those.
    """

    def __init__(
        self,
        draft: Draft,
        material: Material,
        config: ExplainConfig,
        seed: int,
        judge: Judge | None,
        shared: Share,
        base: Artifact | None,
    ) -> None:
        self.draft, self.material, self.config, self.seed, self.judge = draft, material, config, seed, judge
        self.num_features, self.shared, self.base = material.num_features, shared, base
        self._program: ProgramExplainer | None = None

    def run(self, people: Iterable[Explanation]) -> Summary:
        """Explain, put all together after what ``people`` say, and return the summary."""
        firsts = range(0, len(self.shared.new_S), self.config.block_features)
        self._say_cost()
        total = len(self.shared.new_S) * len(self.config.explainers)
        with progress("Explain features", total, "features") as bar:
            for name in self.config.explainers:
                for first in firsts:
                    self._block(name, first)
                    bar.advance(len(self._features(first)))
        with self.draft.stage_work(_work_name(PERSON)) as path:
            write_explanations(path, sorted(people, key=attrgetter("feature")))
        names = self._join(self.config.explainers, EXPLANATIONS_NAME, [_work_name(PERSON)])
        if PROGRAM in self.config.explainers:
            self._join([TOKEN_SET], TOKEN_SETS_NAME)
        return self._publish(names)

    def _join(self, explainers: Iterable[str], name: str, before: Sequence[str] = ()) -> list[str]:
        """Put the blocks together by feature, and what is kept of the base among them; return the files' names."""
        firsts = range(0, len(self.shared.new_S), self.config.block_features)
        streams = [self._rows(before)]
        for each in explainers:
            streams.append(as_rows(said_by(self.base, each, self.shared.kept_F, name)))
            streams.append(self._rows([_work_name(each, first) for first in firsts]))
        return publish_explanations(self.draft, self.num_features, streams, name)

    def _rows(self, names: Iterable[str]) -> Iterator[pa.Table]:
        """What the blocks hold."""
        return file_rows(map(self.draft.work_file, names))

    def _features(self, first: int) -> NDArray[np.int64]:
        """The features of a block."""
        return self.shared.new_S[first : first + self.config.block_features]

    def _say_cost(self) -> None:
        """Say what a language model will be asked, before it is."""
        new_S = self.shared.new_S
        asking = [name for name in self.config.explainers if EXPLAINERS.find(name).needs_judge]
        if self.judge is None or not len(new_S):
            return
        num_firing = int((self.material.found.column("count").to_numpy()[new_S] > 0).sum())
        prompts = -(-num_firing // self.config.llm.features_per_prompt)
        say(
            f"{', '.join(asking)}: {self.judge.model} is asked about {num_firing:,} of {self.num_features:,} features, "
            f"in about {prompts * len(asking):,} prompts; what it has answered before is not paid for again."
        )

    def _block(self, name: str, first: int) -> None:
        """Explain some features, unless an earlier run has."""
        if self.draft.has_work(_work_name(name, first)):
            return
        features = self._features(first)
        evidence = read_some(self.material.found, features, examples=name != PROGRAM)
        if name == PROGRAM:
            pairs = list(self._programs().explain_both(evidence))
            with self.draft.stage_work(_work_name(TOKEN_SET, first)) as path:
                write_explanations(path, (token_set for _, token_set in pairs))
            explanations = [program for program, _ in pairs]
        else:
            explainer = EXPLAINERS.new(name, self.config, self.judge, self.seed, self.material)
            explanations = list(explainer.explain(_shown(evidence, self.config.contexts)))
        with self.draft.stage_work(_work_name(name, first)) as path:
            write_explanations(path, _one_each(name, features.tolist(), explanations, self.seed))

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

    def _publish(self, names: Sequence[str]) -> Summary:
        status = StatusCounts(self.num_features)
        labels = choose_labels(status.watch(read_tables(map(self.draft.file, names))))
        publish_labels(self.draft, self.num_features, labels)
        before = json.loads(self.base.file(SUMMARY_NAME).read_bytes()) if self.base is not None else {}
        has_read = self.draft.has_work(_READ_NAME)
        read = json.loads(self.draft.work_file(_READ_NAME).read_bytes()) if has_read else before.get("searched", {})
        content = {
            "explainers": status.by_explainer,
            "contexts": self._contexts() if shows_contexts(self.config) else None,
            "searched": read,
            "spending": add_spending(before.get("spending"), self.judge),
        }
        self.draft.write(SUMMARY_NAME, json.dumps(content, indent=1, sort_keys=True).encode())
        return {
            "features": self.num_features,
            **self._shared_out(status),
            **status.features,
            "labels": len(labels),
            "explainers": ", ".join(self.config.explainers),
            "tokens": read.get("num_tokens", 0),
            **{name: read[name] for name in ("filtered_tokens",) if name in read},
            "documents": len(read.get("documents", ())),
        }

    def _shared_out(self, status: StatusCounts) -> dict[str, int]:
        """Of a selection, or where there is a base: how many were asked for and kept, and are left without a word."""
        if self.base is None and self.config.only is None:
            return {}
        return {
            "selected": self.shared.num_selected,
            "kept_from_base": int(self.shared.kept_F.sum()),
            "not_explained": status.not_explained,
        }

    def _contexts(self) -> dict[str, int]:
        """How many of the features explained have fewer contexts that they fire in than may be shown."""
        counts_F, asked = self.material.found.count_contexts(FIRING_KINDS), self.config.contexts
        there_F = self.shared.kept_F.copy()
        there_F[self.shared.new_S] = True
        counts = counts_F[there_F]
        fewer = int(((counts > 0) & (counts < asked)).sum())
        if fewer:
            logger.info("%d of %d features fire in fewer than %d contexts", fewer, len(counts), asked)
        return {"asked": asked, "features_with_fewer": fewer, "features_without": int((counts == 0).sum())}


def _work_name(name: str, first: int = 0) -> str:
    return f"{name}-{first:07d}.parquet"


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


def _one_each(
    name: str, features: Iterable[int], explanations: Iterable[Explanation], seed: int
) -> Iterator[Explanation]:
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
