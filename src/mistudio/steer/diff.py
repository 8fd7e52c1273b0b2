"""Where two answers differ, token by token."""

from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import takewhile
from typing import Any

from mistudio.steer.decoding import TextStream
from mistudio.steer.requests import Changed

# Pairs of equal tokens beyond which frequent tokens are no anchors any more: with all of them, two answers that go
# round in loops take minutes.
_MOST_PAIRS = 1 << 20


def token_diff(tokenizer: Any, plain: Sequence[int], steered: Sequence[int]) -> tuple[Changed, ...]:
    """The stretches of two answers that are the same, and those that differ, in their order.

    Args:
        tokenizer: of the model.
        plain: tokens of the answer without the edits.
        steered: likewise with them.

    Returns:
        stretches whose texts, put together, are the two answers; no two of a kind stand side by side.
    """
    return piece_diff(_pieces(tokenizer, plain), _pieces(tokenizer, steered))


def piece_diff(plain: Sequence[str], steered: Sequence[str]) -> tuple[Changed, ...]:
    """As :func:`token_diff`, of what each token adds to the text of its answer."""
    head = sum(1 for _ in takewhile(_are_equal, zip(plain, steered, strict=False)))
    behind = zip(reversed(plain[head:]), reversed(steered[head:]), strict=False)
    tail = sum(1 for _ in takewhile(_are_equal, behind))
    ends = len(plain) - tail, len(steered) - tail
    inner = _matched(plain[head : ends[0]], steered[head : ends[1]])
    same = [Changed("same", text, text) for text in ("".join(plain[:head]), "".join(plain[ends[0] :]))]
    return tuple(_joined([same[0], *inner, same[1]]))


def _pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text: a character of several tokens comes with the last of them."""
    stream = TextStream(tokenizer)
    return [*map(stream.add, ids), stream.finish()]


def _are_equal(pair: tuple[str, str]) -> bool:
    return pair[0] == pair[1]


def _matched(plain: Sequence[str], steered: Sequence[str]) -> Iterator[Changed]:
    counts = Counter(plain)
    pairs = sum(counts[token] for token in steered)
    matcher = SequenceMatcher(None, plain, steered, autojunk=pairs > _MOST_PAIRS)
    for tag, first, last, other_first, other_last in matcher.get_opcodes():
        texts = "".join(plain[first:last]), "".join(steered[other_first:other_last])
        yield Changed("same" if tag == "equal" else "changed", *texts)


def _joined(stretches: list[Changed]) -> Iterator[Changed]:
    """The stretches without empty ones, and neighbours of a kind as one."""
    last: Changed | None = None
    for each in stretches:
        if not each.plain and not each.steered:
            continue
        if last is not None and last.kind == each.kind:
            last = Changed(last.kind, last.plain + each.plain, last.steered + each.steered)
            continue
        if last is not None:
            yield last
        last = each
    if last is not None:
        yield last
