"""The tokenizer of a subject, and how a single token is shown to a person."""

import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from functools import cache
from typing import Any

from mistudio.errors import SubjectError
from mistudio.subject.gguf_plain import tokenizer_folder
from mistudio.subject.loading import loading_problem, quiet_transformers
from mistudio.subject.source import SubjectSource

_BYTE_PIECE = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")
_SHOWN_CHARACTERS = 40
_WORD_START = "\u2581"  # how SentencePiece writes a space


def load_tokenizer(source: SubjectSource, trust_remote_code: bool = False) -> Any:
    """The tokenizer of ``source``.

    Raises:
        SubjectError: there is none, it cannot be read, or it needs code that is not trusted.
    """
    from transformers import AutoTokenizer

    try:
        with tokenizer_folder(source) if source.is_gguf else nullcontext(source.path) as path, quiet_transformers():
            return AutoTokenizer.from_pretrained(path, revision=source.revision, trust_remote_code=trust_remote_code)
    except SubjectError:
        raise
    except Exception as error:  # a broken file surfaces as any of a dozen exception types
        raise SubjectError(loading_problem("tokenizer", source, error)) from error


def token_strings(tokenizer: Any) -> list[str]:
    """A readable string for each token id, such that strings side by side read as text.

    Spaces and newlines are real ones, bytes that are no text on their own read ``<0xE2>``, special tokens
    are shown by name, and ids that the tokenizer does not use as ``<unused 7>``.
    """
    pieces = {index: piece for piece, index in tokenizer.get_vocab().items()}
    added = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items()}
    show = _piece_reader(tokenizer)
    num_ids = max((*pieces, *added), default=-1) + 1
    return [
        added[index] if index in added else show(pieces[index]) if index in pieces else f"<unused {index}>"
        for index in range(num_ids)
    ]


def check_vocabulary(tokenizer: Any, vocab_size: int, name: str) -> None:
    """Refuse a tokenizer that gives ids of text that the model has no embedding for.

    Ids past the vocabulary that no text gives do no harm: special tokens, which are never read out of a text.

    Args:
        tokenizer: of the model.
        vocab_size: how many ids have an embedding.
        name: of the model, for the message.

    Raises:
        SubjectError: there is such an id; the message names it and its token.
    """
    special = set(tokenizer.all_special_ids)
    special |= {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    # Those put around every text are special, and read by the model all the same.
    around = set(tokenizer("a")["input_ids"])
    given = {index: token for token, index in tokenizer.get_vocab().items() if index in around or index not in special}
    largest = max(given, default=-1)
    if largest >= vocab_size:
        token = given[largest][:_SHOWN_CHARACTERS]
        message = (
            f"The tokenizer of {name} gives token ids up to {largest} ({token!r}), and the model "
            f"has embeddings for 0 to {vocab_size - 1} alone: it is the tokenizer of another model. Put that of the "
            "model beside it."
        )
        raise SubjectError(message)


def _piece_reader(tokenizer: Any) -> Any:
    """How this tokenizer writes text in its pieces: as bytes, as SentencePiece, as WordPiece or plainly."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    settings = json.loads(backend.to_str()) if backend is not None else {}
    kinds = set(_types(settings.get("decoder")))
    if "ByteLevel" in kinds or "ByteLevel" in set(_types(settings.get("pre_tokenizer"))):
        return _byte_level_piece
    if "WordPiece" in kinds:
        prefix = str(settings["model"].get("continuing_subword_prefix", "##"))
        return lambda piece: piece.removeprefix(prefix) if piece.startswith(prefix) else f" {piece}"
    suffix = str(settings.get("model", {}).get("end_of_word_suffix") or "")
    if suffix:
        return lambda piece: f"{piece.removesuffix(suffix)} " if piece.endswith(suffix) else piece
    return _sentencepiece_piece


def _types(part: Any) -> Iterator[str]:
    """The types of a tokenizer's component and of the components inside it."""
    if isinstance(part, dict):
        yield str(part.get("type"))
        for inner in part.values():
            yield from _types(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _types(inner)


def _byte_level_piece(piece: str) -> str:
    table = _byte_of_character()
    if not all(character in table for character in piece):
        return piece
    return _text_or_hex(bytes(table[character] for character in piece))


def _sentencepiece_piece(piece: str) -> str:
    byte = _BYTE_PIECE.match(piece)
    if byte:
        return _text_or_hex(bytes([int(byte[1], 16)]))
    return piece.replace(_WORD_START, " ")


def _text_or_hex(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in data)


@cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's table: printable bytes stand for themselves, the others for the characters from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
