"""The program explainer: what a feature fires on, as a program that was searched on the training documents.

Needs no language model and no network, and says the same each time it is run.

Shape legend: N tokens, F features, A tokens that a feature fires on, P documents.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from mistudio.explain.config import PROGRAM, TOKEN_SET, ProgramConfig
from mistudio.explain.firings import Firings
from mistudio.explain.programs.building import build
from mistudio.explain.programs.columns import Context
from mistudio.explain.programs.english import describe, label
from mistudio.explain.programs.language import Program
from mistudio.explain.programs.search import Found, Searcher
from mistudio.explain.records import Evidence, Explanation
from mistudio.explain.tokens import Tokens
from mistudio.parallel import in_parallel


class ProgramExplainer:
    """Explains features by programs.

    Args:
        tokens: tokens of training documents.
        firings: the features' activations over them.
        config: what counts as firing, and how to search.
        seed: of which documents choose.
    """

    name = PROGRAM

    def __init__(self, tokens: Tokens, firings: Firings, config: ProgramConfig, seed: int = 0) -> None:
        self.config, self.firings, self.seed = config, firings, seed
        self.context = Context(tokens)
        documents = np.unique(tokens.document_N)
        num_choosing = max(round(self.config.choosing_fraction * len(documents)), 1)
        choosing = np.random.default_rng(seed).permutation(documents)[:num_choosing]
        # With one document there is nothing to hold back: it teaches, and chooses too.
        is_choosing_N = np.isin(tokens.document_N, choosing) if len(documents) > 1 else np.zeros(len(tokens), bool)
        self._searcher = Searcher(self.context, is_choosing_N, self.config.search)
        self._weights = np.bincount(tokens.id_N, minlength=len(tokens.strings)).astype(np.float64)

    def explain(self, features: Iterable[Evidence]) -> Iterator[Explanation]:
        """One explanation a feature; a feature without firings is dead."""
        for explanation, _ in self.explain_both(features):
            yield explanation

    def explain_both(self, features: Iterable[Evidence]) -> Iterator[tuple[Explanation, Explanation]]:
        """For each feature its program, and the best set of tokens alone: what the program's context has to beat."""
        yield from in_parallel(self._explain, list(features))

    def _explain(self, evidence: Evidence) -> tuple[Explanation, Explanation]:
        token_A, value_A = self.firings.of(evidence.feature)
        fires_A = token_A[value_A > self.config.threshold * evidence.max_value].astype(np.int64)
        if not len(fires_A):
            return self._silent(evidence, PROGRAM), self._silent(evidence, TOKEN_SET)
        return self._both(evidence.feature, self._searcher.search(fires_A))

    def _both(self, feature: int, found: Found) -> tuple[Explanation, Explanation]:
        value_N = self.firings.dense(feature)
        table = self._searcher.whole
        program = build(self.context, table, found.program, value_N)
        token_set = build(self.context, table, found.token_set, value_N)
        return (
            self._explanation(feature, PROGRAM, program, found.f1),
            self._explanation(feature, TOKEN_SET, token_set, found.token_set_f1),
        )

    def _explanation(self, feature: int, name: str, program: Program, f1: float) -> Explanation:
        strings = self.context.tokens.strings
        return Explanation(
            feature=feature,
            explainer=name,
            text=describe(program, strings, self._weights),
            label=label(program, strings, self._weights),
            confidence=round(f1, 4),
            program=program.to_json(),
            seed=self.seed,
        )

    def _silent(self, evidence: Evidence, name: str) -> Explanation:
        num = len(self.context)
        if evidence.max_value > 0:
            text = f"Fires on none of the {num:,} training tokens that programs were searched on, but on others."
            return Explanation(feature=evidence.feature, explainer=name, status="failed", text=text, seed=self.seed)
        text = "Never fires on the training documents."
        return Explanation(feature=evidence.feature, explainer=name, status="dead", text=text, seed=self.seed)
