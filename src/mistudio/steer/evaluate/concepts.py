"""What a text is asked for: whether it has a feature's concept, by measures that know nothing of how it was written.

Shape legend: N texts, D width of a hook point.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mistudio.explain.programs import Context, Program
from mistudio.explain.tokens import Tokens
from mistudio.steer.evaluate.windows import Ids


class TextJudge(Protocol):
    """Tells texts that have a concept."""

    def __call__(self, texts: Sequence[Ids]) -> NDArray[np.bool_]:
        """Which of the texts have it [N]."""


class Concept(NamedTuple):
    """What is known of a feature from training documents.

    Attributes:
        feature: its number.
        maximum: its largest activation.
        label: a few words; None where nobody explained it.
        program: what says on which tokens it fires; None where there is none.
        positives: texts on which it fires, the strongest first.
        negatives: texts on which it does not.
    """

    feature: int
    maximum: float
    label: str | None
    program: Program | None
    positives: tuple[Ids, ...]
    negatives: tuple[Ids, ...]


class ProgramJudge:
    """Holds a text to have a concept where a program fires on any of its tokens.

    Args:
        program: the program.
        strings: how each token id reads.
    """

    def __init__(self, program: Program, strings: Sequence[str]) -> None:
        self._program, self._strings = program, tuple(strings)

    def __call__(self, texts: Sequence[Ids]) -> NDArray[np.bool_]:
        """Which of the texts it fires on [N]."""
        tokens = _as_tokens(texts, self._strings)
        fires_M = self._program.predict(Context(tokens)) > 0 if len(tokens) else np.zeros(0, dtype=bool)
        return np.bincount(tokens.document_N[fires_M], minlength=len(texts)) > 0


def _as_tokens(texts: Sequence[Ids], strings: tuple[str, ...]) -> Tokens:
    """Texts as programs see them: each a document of one sequence."""
    lengths = [len(text) for text in texts]
    number_N = np.repeat(np.arange(len(texts)), lengths).astype(np.int32)
    place_N = np.concatenate([np.zeros(0), *map(np.arange, lengths)]).astype(np.int32)
    ids_N = np.array([token for text in texts for token in text], dtype=np.int32)
    return Tokens(ids_N, number_N, number_N, place_N, place_N, np.zeros_like(number_N), ("",), strings)
