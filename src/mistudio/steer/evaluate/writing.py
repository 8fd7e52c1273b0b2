"""Continuations of prompts under edits, many at once through one engine."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mistudio.instrument.compiled import CompiledEdits
from mistudio.instrument.engine import Engine, Generation
from mistudio.instrument.sampling import Choosing
from mistudio.instrument.where import plain_prompt
from mistudio.instrument.write_all import write_all
from mistudio.steer.evaluate.windows import Ids


class Wanted(NamedTuple):
    """A continuation that is to be written."""

    prompt: Ids  # special tokens included
    edits: CompiledEdits | None
    seed: str


def write(
    engine: Engine, wanted: Sequence[Wanted], new_tokens: int, temperature: float, ends: frozenset[int]
) -> list[Ids]:
    """The texts, in the order in which they are wanted; the next begins as soon as one has ended.

    Args:
        engine: to write with.
        wanted: what to write.
        new_tokens: of each text at most.
        temperature: 0 for always the likeliest token.
        ends: tokens that end a text.

    Raises:
        InputError: a prompt is too long.
        SubjectError: an edit could not be applied.
    """
    generations = list(_generations(engine, wanted, new_tokens, temperature, ends))
    deque(write_all(engine, generations), maxlen=0)
    return [tuple(generation.tokens) for generation in generations]


def _generations(
    engine: Engine, wanted: Sequence[Wanted], new_tokens: int, temperature: float, ends: frozenset[int]
) -> Iterator[Generation]:
    for each in wanted:
        yield Generation(
            prompt=plain_prompt(each.prompt, engine.special_ids),
            limit=new_tokens,
            edits=each.edits,
            choosing=Choosing(temperature=temperature, seed=each.seed),
            ends=ends,
        )
