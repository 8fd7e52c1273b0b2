"""Text to token ids, by the subject's own tokenizer.

Special tokens are ours to add, around every sequence, so that their positions are known. Text that
spells a special token (``<s>``) is tokenised like any other text: it must not end a document, and a
model that is shown it must not take it for a command.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mistudio.errors import SubjectError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TokenIds = npt.NDArray[np.int32]

_PROBES = ("a", "the", "0", "one two", ".")


@dataclass(frozen=True)
class Specials:
    """The special tokens around every sequence."""

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()

    @property
    def num(self) -> int:
        """How many special tokens a sequence has."""
        return len(self.prefix) + len(self.suffix)


def find_specials(tokenizer: "PreTrainedTokenizerBase") -> Specials:
    """The specials that the tokenizer's own template puts around one text.

    A tokenizer that has a beginning-of-sequence token and a template that adds nothing before the text
    (GPT-2) gets that token all the same: the first position of a model is an outlier, and is best spent
    on a token that is left out of everything later.

    Raises:
        SubjectError: the template does not keep the text together.
    """
    for probe in _PROBES:
        plain = _ids(tokenizer, probe, add_special_tokens=False)
        whole = _ids(tokenizer, probe, add_special_tokens=True)
        start = _find(whole, plain) if plain else -1
        if start >= 0:
            prefix, suffix = tuple(whole[:start]), tuple(whole[start + len(plain) :])
            if not prefix and tokenizer.bos_token_id is not None:
                prefix = (int(tokenizer.bos_token_id),)
            return Specials(prefix, suffix)
    message = (
        f"The tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} has a template that cannot be "
        "understood: the tokens of a text do not appear in it as they are. Set add_special_tokens to false."
    )
    raise SubjectError(message)


class TextEncoder:
    """Token ids of plain text, without special tokens; many texts at a time in parallel threads."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        from tokenizers import Tokenizer

        self._slow = None if tokenizer.is_fast else tokenizer
        self._fast: Tokenizer | None = None
        if tokenizer.is_fast:
            # A copy: the caller's tokenizer keeps its own truncation, padding and view of special tokens.
            self._fast = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
            self._fast.no_truncation()
            self._fast.no_padding()
            self._fast.encode_special_tokens = True

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """The token ids of each text."""
        if self._fast is not None:
            encodings = self._fast.encode_batch_fast(list(texts), add_special_tokens=False)
            return [np.asarray(encoding.ids, dtype=np.int32) for encoding in encodings]
        return [
            np.asarray(_ids(self._slow, text, add_special_tokens=False, split_special_tokens=True), dtype=np.int32)
            for text in texts
        ]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[TokenIds, npt.NDArray[np.int32] | None]]:
        """The token ids of each text, and where each token begins and ends in it, in characters [T, 2].

        Tokenizers in plain Python cannot tell: None.
        """
        if self._fast is None:
            return [(ids_T, None) for ids_T in self.encode(texts)]
        return [
            (np.asarray(one.ids, dtype=np.int32), np.asarray(one.offsets, dtype=np.int32).reshape(-1, 2))
            for one in self._fast.encode_batch(list(texts), add_special_tokens=False)
        ]


def chunk(ids_T: TokenIds, max_tokens: int) -> list[TokenIds]:
    """Cut the tokens of one document into consecutive pieces of ``max_tokens``; the last may be shorter."""
    return [ids_T[start : start + max_tokens] for start in range(0, len(ids_T), max_tokens)]


def _ids(tokenizer: Any, text: str, **options: bool) -> list[int]:
    return list(tokenizer(text, truncation=False, padding=False, verbose=False, **options)["input_ids"])


def _find(whole: list[int], part: list[int]) -> int:
    """Where ``part`` starts in ``whole``; -1 where it does not occur."""
    starts = range(len(whole) - len(part) + 1)
    return next((start for start in starts if whole[start : start + len(part)] == part), -1)
