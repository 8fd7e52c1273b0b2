"""Programs in plain English, and in a few words as labels."""

from collections.abc import Sequence

import numpy as np

from mistudio.explain.programs.classes import CLASSES, class_table
from mistudio.explain.programs.columns import (
    CURRENT,
    EARLY,
    FIRST,
    HEAD,
    INDUCED,
    LINE_START,
    LINE_WORD,
    NEXT,
    OPENING,
    PREVIOUS,
    REPEATED,
    REPEATED_PAIR,
    SECOND,
)
from mistudio.explain.programs.language import Branch, Condition, Flag, Member, Pair, Program

_SHOWN = 6
_SHOWN_IN_LABEL = 3
_LABEL_CHARACTERS = 60
_CLASS_SHARE = 0.8  # of the weight of a set, and of a class, for the one to go by the other's name
_WHERE = {
    PREVIOUS: ("after {}", "not after {}"),
    SECOND: ("two tokens after {}", "not two tokens after {}"),
    NEXT: ("before {}", "not before {}"),
    INDUCED: ("whose last occurrence was followed by {}", "whose last occurrence was not followed by {}"),
    HEAD: ("on a line that begins with {}", "on a line that does not begin with {}"),
}
_NOT = {
    LINE_START: "not at the start of a line",
    LINE_WORD: "not as the first word of a line",
    FIRST: "not as the first token of its sequence",
    EARLY: "not among the first 8 tokens of its sequence",
    OPENING: "not among the first 32 tokens of its document",
    REPEATED: "that did not occur before in its sequence",
    REPEATED_PAIR: "where the previous and this token did not occur together before",
}


def describe(program: Program, strings: tuple[str, ...], weights: np.ndarray) -> str:
    """What a program says, as a sentence.

    Args:
        program: the program.
        strings: how each token id reads.
        weights: how often each token id occurs [V].
    """
    if not program.branches:
        return "Fires on nothing that a program could tell."
    parts = [_branch(branch, strings, weights, _SHOWN) for branch in program.branches]
    return f"Fires on {'; or on '.join(parts)}."


def label(program: Program, strings: tuple[str, ...], weights: np.ndarray) -> str:
    """The first branch in a few words, and a sign that there are others."""
    if not program.branches:
        return "unexplained"
    text = _branch(program.branches[0], strings, weights, _SHOWN_IN_LABEL)
    if len(text) > _LABEL_CHARACTERS:
        text = _branch(program.branches[0], strings, weights, 1)
    if len(text) > _LABEL_CHARACTERS:
        text = f"{text[: _LABEL_CHARACTERS - 1].rstrip()}…"
    return text if len(program.branches) == 1 else f"{text} +{len(program.branches) - 1}"


def shown(token: str) -> str:
    """A token as people read it: between backticks, its spaces and line breaks visible."""
    visible = token.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    return f"`{visible}`"


def _branch(branch: Branch, strings: tuple[str, ...], weights: np.ndarray, most: int) -> str:
    subject, where = "any token", []
    for condition in branch.conditions:
        if isinstance(condition, Member) and condition.column == CURRENT and not condition.negated:
            subject = _tokens(condition.tokens, strings, weights, most)
        elif isinstance(condition, Pair) and not condition.negated:
            subject = _pairs(condition, strings, most)
        elif isinstance(condition, Flag) and condition.name.startswith("is ") and subject == "any token":
            name = condition.name.removeprefix("is ")
            subject = f"any token but {name}" if condition.negated else name
        else:
            where.append(_where(condition, strings, weights, most))
    return " ".join([subject, ", ".join(where)]).strip()


def _where(condition: Condition, strings: tuple[str, ...], weights: np.ndarray, most: int) -> str:
    if isinstance(condition, Flag):
        return _flag(condition)
    if isinstance(condition, Pair):
        return f"not as the end of {_pairs(condition, strings, most)}"
    if condition.column == CURRENT:
        return f"except {_tokens(condition.tokens, strings, weights, most)}"
    return _WHERE[condition.column][condition.negated].format(_tokens(condition.tokens, strings, weights, most))


def _flag(flag: Flag) -> str:
    if flag.name.startswith("is "):
        return f"where it is {'not ' if flag.negated else ''}{flag.name.removeprefix('is ')}"
    if not flag.negated:
        return flag.name
    if flag.name in _NOT:
        return _NOT[flag.name]
    if flag.name.startswith("inside "):
        return f"outside {flag.name.removeprefix('inside ')}"
    return flag.name.replace("outside", "inside", 1) if flag.name.startswith("outside ") else f"not {flag.name}"


def _tokens(ids: Sequence[int], strings: tuple[str, ...], weights: np.ndarray, most: int) -> str:
    """A set of tokens: a class with examples where it is one, else the first of them and how many more there are."""
    known = [token for token in ids if 0 <= token < len(strings)]
    names = list(dict.fromkeys(shown(strings[token]) for token in known))
    if len(known) < len(ids):
        names.append("nothing")
    what = _class_of(known, strings, weights)
    if what and len(known) > most:
        return f"{what} ({', '.join(names[:most])}, …)"
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def _pairs(condition: Pair, strings: tuple[str, ...], most: int) -> str:
    names = [shown(f"{strings[first]}{strings[second]}") for first, second in condition.pairs]
    rest = len(names) - most
    return f"the end of {', '.join(names[:most])}" + (f" and {rest:,} more pairs" if rest > 0 else "")


def _class_of(ids: Sequence[int], strings: tuple[str, ...], weights: np.ndarray) -> str | None:
    """The class that the tokens are, by how often they occur."""
    if not ids:
        return None
    inside = np.zeros(len(strings), dtype=bool)
    inside[list(ids)] = True
    table = class_table(strings)[:, :-1]
    both = table[:, inside] @ weights[inside]
    share = both / np.maximum(np.maximum(table @ weights, weights[inside].sum()), 1)
    best = int(share.argmax())
    return list(CLASSES)[best] if share[best] >= _CLASS_SHARE else None
