"""The tokens that programs list, as words beside the text that names the first few of them.

A program's sets hold token ids. How those read is taken from the tables of features: the tokens that go with each
feature, and the contexts of the first of them; a token that is in neither is left out. There is one entry a token of
the vocabulary, so that memory does not grow with the features.

Shape legend: N tokens of a batch.
"""

import re
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import pyarrow as pa

from mistudio.explain.programs.columns import CURRENT
from mistudio.explain.programs.language import Member, Pair, Program
from mistudio.features import CONTEXTS, FEATURES, FeatureSet
from mistudio.features.tables import TableReader

MOST_TOKENS = 64  # of a program; those that matter most come first in each set
_MOST_CHARACTERS = 64  # of a token
_MOST_CONTEXTS = 1 << 17  # that are read: small dictionaries have fewer, and large ones name each token elsewhere
_KINDS = ("promoted_", "suppressed_", "lift_", "mean_")
_WORD = re.compile(r"\w+")


class TokenLists:
    """Says in words what programs list.

    Args:
        features: whose tables say how tokens read; they are looked at once, for the first program.
    """

    def __init__(self, features: FeatureSet) -> None:
        self._features = features

    def beyond(self, program: str, text: str) -> str:
        """The tokens that a program fires on and a text does not name, each once, with commas between.

        Those of the current token come before those beside which it has to stand. Tokens that a condition rules out are
        not among them, and neither are those without a letter or digit, which nobody asks for in words.

        Args:
            program: as JSON.
            text: what is said of it.
        """
        named = {*_WORD.findall(text.casefold())}
        listed: dict[str, None] = {}
        for token in self._read(program):
            word = token.strip().casefold()[:_MOST_CHARACTERS]
            if _WORD.search(word) and not named.issuperset(_WORD.findall(word)):
                listed[word] = None
            if len(listed) == MOST_TOKENS:
                break
        return ", ".join(listed)

    def _read(self, program: str) -> Iterator[str]:
        for ids in _positive(Program.from_json(program)):
            yield "".join(self._strings.get(token, "") for token in ids)

    @cached_property
    def _strings(self) -> dict[int, str]:
        strings: dict[int, str] = {}
        for kind in _KINDS:
            for batch in TableReader(self._features.artifact, FEATURES).batches([f"{kind}token_ids", f"{kind}tokens"]):
                _take_in(batch, strings)
        num_read = 0
        for batch in TableReader(self._features.artifact, CONTEXTS).batches(["token_ids", "tokens"]):
            _take_in(batch, strings)
            num_read += len(batch)
            if num_read >= _MOST_CONTEXTS:
                break
        return strings


def _positive(program: Program) -> Iterator[tuple[int, ...]]:
    """The tokens and pairs of tokens in the conditions that ask for them, those of the current token first."""
    conditions = [each for branch in program.branches for each in branch.conditions]
    sets = [each for each in conditions if isinstance(each, Member | Pair) and not each.negated]
    for each in sorted(sets, key=lambda each: isinstance(each, Member) and each.column != CURRENT):
        yield from each.pairs if isinstance(each, Pair) else ((token,) for token in each.tokens)


def _take_in(batch: pa.RecordBatch, strings: dict[int, str]) -> None:
    """Learn how the tokens of a batch read from its lists of ids and of texts."""
    ids, texts = (column.flatten() for column in batch.columns)
    own_N, first_N = np.unique(ids.to_numpy(zero_copy_only=False), return_index=True)
    strings.update(zip(own_N.tolist(), texts.take(pa.array(first_N)).to_pylist(), strict=True))
