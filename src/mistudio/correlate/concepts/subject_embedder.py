"""Texts as the language model under study has them: the mean of its hidden states at a middle layer.

It needs no second model and nothing from outside. Hidden states of a language model share a large common part, so that
they are compared with the mean of all taken off (Mu and Viswanath 2018, "All-but-the-Top").

Shape legend: N texts, T tokens of all texts, D width of the residual stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mistudio.instrument.passes import ListedSequences
    from mistudio.subject import Subject

MOST_TOKENS = 256  # of a text; what comes behind is left out


@dataclass(frozen=True, eq=False)
class SubjectEmbedder:
    """Embeds texts with a loaded model.

    Attributes:
        subject: the model.
        source_digest: of where it was loaded from.
        layer: whose output is read; None: the middle one.
    """

    subject: "Subject"
    source_digest: str
    layer: int | None = None
    centred: bool = True
    at_once: int = 256

    @property
    def name(self) -> str:
        """How people call it."""
        return f"subject, layer {self._layer}"

    @property
    def identity(self) -> str:
        """What determines the vectors, but for rounding."""
        return f"subject {self.source_digest} {self.subject.dtype_name} resid_post.{self._layer} {MOST_TOKENS}"

    @property
    def _layer(self) -> int:
        return self.subject.num_layers // 2 if self.layer is None else self.layer

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The mean hidden states of some texts [N, D]; zeros for one without tokens.

        Raises:
            SubjectError: the model has no such layer.
        """
        import torch

        from mistudio.instrument.passes import ListedSequences, text_activations
        from mistudio.instrument.texts import TextReader
        from mistudio.subject import HookPoint, resolve_hooks

        read = TextReader(self.subject).read(list(texts))
        prefix, suffix = _specials(read.sequences)
        longest = min(MOST_TOKENS, self.subject.max_positions or MOST_TOKENS)
        ids = [one.token_ids[: longest - len(prefix) - len(suffix)] for one in read.texts]
        sequences = [np.concatenate([prefix, one, suffix]) for one in ids]
        hooks = resolve_hooks(self.subject, [HookPoint.parse(f"resid_post.{self._layer}")])
        listed = ListedSequences(sequences, len(prefix), len(suffix))
        with torch.no_grad():
            ((_, acts_TD),) = text_activations(self.subject, hooks, listed).items()
        return _means(acts_TD.float().cpu().numpy(), [len(one) for one in ids])


def _specials(pieces: "ListedSequences") -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The special tokens at the start and at the end of every sequence."""
    first = np.asarray(pieces.token_ids[0] if pieces.token_ids else (), dtype=np.int32)
    return first[: pieces.num_prefix], first[len(first) - pieces.num_suffix :]


def _means(acts_TD: NDArray[np.float32], lengths: list[int]) -> NDArray[np.float32]:
    """The mean over the tokens of each text [N, D]; what is not finite counts as 0."""
    rows = np.split(np.nan_to_num(acts_TD, nan=0.0, posinf=0.0, neginf=0.0), np.cumsum(lengths)[:-1])
    zero_D = np.zeros(acts_TD.shape[1], dtype=np.float32)
    return np.stack([own.mean(axis=0) if len(own) else zero_D for own in rows])
