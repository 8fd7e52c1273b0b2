"""Text to token ids, by the subject's own tokenizer.

Special tokens are ours to add, around every sequence, so that their positions are known. Text that
spells a special token (``<s>``) is tokenised like any other text: it must not end a document, and a
model that is shown it must not take it for a command.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mistudio.errors import SubjectError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

TokenIds = npt.NDArray[np.int32]

_UNSPELLABLE = "\U0010fffe"  # a code point that is no character
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
        self._slow = None if tokenizer.is_fast else tokenizer
        self._fast: Tokenizer | None = None
        if tokenizer.is_fast:
            # A copy: the caller's tokenizer keeps its own truncation, padding and view of special tokens.
            self._fast = _without_special_pieces(tokenizer)
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


def _without_special_pieces(tokenizer: "PreTrainedTokenizerBase") -> "Tokenizer":
    """A copy in whose vocabulary no special token is spelled as a text could spell it.

    Not to look for special tokens in a text is not enough where they are pieces of the vocabulary like all others, as
    in Unigram models: then the text ``</s>`` is that piece.
    """
    from tokenizers import Tokenizer

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model, specials = content["model"], {each["content"] for each in content["added_tokens"] if each["special"]}
    pieces = model["vocab"]
    names = {name: f"{_UNSPELLABLE}{number}{_UNSPELLABLE}" for number, name in enumerate(sorted(specials))}
    if isinstance(pieces, dict):
        merges = (pair if isinstance(pair, list) else pair.split(" ", 1) for pair in model.get("merges", ()))
        made = set(map("".join, merges))
        names = {name: other for name, other in names.items() if name in pieces and name not in made}
        model["vocab"] = {names.get(piece, piece): index for piece, index in pieces.items()}
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
    else:
        names = {name: other for name, other in names.items() if any(name == piece for piece, _ in pieces)}
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in pieces]
    if not names:
        return Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    # Their entries would come back as new pieces; nothing here looks them up.
    content["added_tokens"] = [each for each in content["added_tokens"] if each["content"] not in names]
    content["post_processor"] = None
    return Tokenizer.from_str(json.dumps(content))


def chunk(ids_T: TokenIds, max_tokens: int) -> list[TokenIds]:
    """Cut the tokens of one document into consecutive pieces of ``max_tokens``; the last may be shorter."""
    return [ids_T[start : start + max_tokens] for start in range(0, len(ids_T), max_tokens)]


def _ids(tokenizer: Any, text: str, **options: bool) -> list[int]:
    return list(tokenizer(text, truncation=False, padding=False, verbose=False, **options)["input_ids"])


def _find(whole: list[int], part: list[int]) -> int:
    """Where ``part`` starts in ``whole``; -1 where it does not occur."""
    starts = range(len(whole) - len(part) + 1)
    return next((start for start in starts if whole[start : start + len(part)] == part), -1)
