"""Classes of tokens by how they read: what a program can say of a token without listing it."""

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Name, as in "a number", and what the whole token matches.
CLASSES: dict[str, str] = {
    "a line break": r"\s*\n\s*",
    "spaces": r"[ \t]+",
    "a number": r"\s*\d+",
    "a word": r"\s*[^\W\d_]+",
    "a word after a space": r"\s+[^\W\d_]+",
    "part of a word without a space before it": r"[^\W\d_]+",
    "a capitalised word": r"\s*[A-Z][a-z]+",
    "a word in capitals": r"\s*[A-Z]{2,}",
    "a single letter": r"\s*[^\W\d_]",
    "a name with an underscore": r"\s*\w*_\w*",
    "punctuation": r"\s*[^\w\s]+",
    "an opening bracket": r"\s*[^\w\s]*[(\[{]",
    "a closing bracket": r"\s*[)\]}][^\w\s]*",
    "a quotation mark": r"\s*[^\w\s]*[\"'`]+[^\w\s]*",
    "an operator": r"\s*[-+*/%=<>!&|^~@]+=?",
    "a Python keyword": (
        r"\s*(?:and|as|assert|async|await|break|class|continue|def|del|elif|else|except|finally|for|from|global|if|"
        r"import|in|is|lambda|nonlocal|not|or|pass|raise|return|try|while|with|yield)"
    ),
    "True, False or None": r"\s*(?:True|False|None)",
    "a character outside ASCII": r"\s*(?:[^\x00-\x7f]|<0x[0-9A-F]{2}>)+",
}


@lru_cache(maxsize=4)
def class_table(strings: tuple[str, ...]) -> NDArray[np.bool_]:
    """Which class each token id belongs to [classes, ids + 1]; the last id stands for no token, in no class."""
    table = np.zeros((len(CLASSES), len(strings) + 1), dtype=bool)
    for row, pattern in enumerate(CLASSES.values()):
        table[row, :-1] = _matching(pattern, strings)
    return table


def _matching(pattern: str, strings: Sequence[str]) -> NDArray[np.bool_]:
    matches = re.compile(pattern).fullmatch
    return np.fromiter((matches(each) is not None for each in strings), dtype=bool, count=len(strings))
