"""Text from elsewhere made fit to be written and shown: lone surrogates, and values too long for a message.

Half of a surrogate pair comes from JSON, which can spell one, and from names of files that are not UTF-8. No text of
UTF-8 can hold it.
"""

import re

_SURROGATE = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_SHOWN_CHARACTERS = 80
_LONG_WORD = re.compile(r"\S{321,}")  # longer than the paths that people have
_WORD_STARTS, _WORD_ENDS = 120, 60
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#])")


def has_surrogates(text: str) -> bool:
    """Whether the text cannot be written as UTF-8."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def without_surrogates(text: str) -> str:
    """The text with a visible replacement for each half of a surrogate pair."""
    return _SURROGATE.sub(_REPLACEMENT, text)


def shortened(value: object, max_characters: int = _SHOWN_CHARACTERS) -> str:
    """A value as it is written in Python, cut where it is longer than a message should repeat."""
    try:
        text = repr(value[: max_characters + 1] if isinstance(value, str | bytes) else value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= max_characters + 2 else f"{text[:max_characters]}…"


def without_long_words(text: str) -> str:
    """A message in which no word without a space is longer than people read; its begin and end stay."""
    return _LONG_WORD.sub(lambda word: f"{word[0][:_WORD_STARTS]}…{word[0][-_WORD_ENDS:]}", text)


def in_markdown(text: str) -> str:
    """Text from data, so that it can neither break a table of Markdown nor turn into markup."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
