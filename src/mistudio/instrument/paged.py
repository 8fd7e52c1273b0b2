"""Text from a model, many answers at once, each with edits of its own: on transformers' cache in pages, for GPUs.

The same as :class:`~mistudio.instrument.engine.Engine` to whoever uses it. What differs is how a pass is laid out: the
tokens of all answers end to end in one line, prompts beside single tokens; and that the cache may be smaller than all
answers together: where it is full, the newest one waits and is read again when there is room. Its edits, conditions
that have fired and draws go on where they were, for all are known by their place in the sequence.

A prompt is read by itself, also where another one begins with the same tokens.

Shape legend: T tokens of a row in a pass, V vocabulary.
"""

from collections.abc import Sequence
from itertools import count
from typing import Self

import torch

from mistudio.errors import InputError
from mistudio.instrument.answers import (
    Passed,
    asked_of,
    check_can_generate,
    check_generation,
    fired_first,
    judged,
    most_slots,
    written,
)
from mistudio.instrument.attach import Attached
from mistudio.instrument.compiled import CompiledEdits, Gate
from mistudio.instrument.layout import Layout
from mistudio.instrument.paged_batches import PagedBatches, Piece
from mistudio.instrument.rows import Generation, Row, Written
from mistudio.instrument.session import Session
from mistudio.instrument.table import EditTable, PassEdits, RowSlice
from mistudio.instrument.text_engine import Judged
from mistudio.instrument.where import PromptTokens

_MOST_SLOTS = 4096  # where nothing else says how long a sequence may be


class _Request(Row):
    """An answer under way."""

    examined = 0  # tokens on which conditions have been looked at


class PagedEngine:
    """Generates with a session's model; use it in a ``with`` block, once: behind it the cache is gone.

    Args:
        session: the model and its autoencoders.
        num_rows: answers at once.
        num_slots: tokens of an answer and its prompt; None: what the model takes, at most 4,096.
        num_cached: tokens of all answers and prompts that there is room for; None: as many as all rows can have.

    Raises:
        SubjectError: the model is an encoder, predicts no tokens, or its attention cannot read a cache in pages.
        ConfigError: the cache does not fit into memory.
    """

    has_cache = True

    def __init__(
        self, session: Session, num_rows: int = 16, num_slots: int | None = None, num_cached: int | None = None
    ) -> None:
        subject = session.subject
        check_can_generate(subject)
        wanted = most_slots(subject, num_slots or _MOST_SLOTS)
        self._batches = PagedBatches(subject, num_rows, wanted, num_cached or num_rows * wanted)
        self.num_rows, self.num_slots = num_rows, self._batches.num_slots
        self.special_ids = frozenset(subject.tokenizer.all_special_ids)
        self._session, self._table, self._attached = session, EditTable(session), Attached(session)
        self._requests: dict[str, _Request] = {}
        self._keys = (str(number) for number in count())
        self._steady: tuple[list[str], PassEdits | None] | None = None  # of the last pass, where they hold for the next

    def __enter__(self) -> Self:
        self._attached.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._attached.__exit__(*error)
        self._requests.clear()
        self._batches.close()

    @property
    def running(self) -> Sequence[Generation]:
        """Answers under way."""
        return [request.generation for request in self._requests.values()]

    @property
    def free_rows(self) -> int:
        """How many more can be started."""
        return self.num_rows - len(self._requests)

    def check(self, generation: Generation) -> None:
        """Refuse what cannot be started, now or ever.

        Raises:
            InputError: the prompt is empty or has unknown tokens, or with what is to be generated it is too long.
        """
        check_generation(generation, self._session.subject.vocab_size, self.num_slots)

    @torch.inference_mode()
    def start(self, generations: Sequence[Generation]) -> list[Written]:
        """Take up answers, and run a pass, which may give tokens of others too.

        Raises:
            InputError: there are more of them than free rows, or one cannot be started.
            SubjectError: an edit could not be applied; the answers under way go on, and none of these is.
        """
        if len(generations) > self.free_rows:
            message = f"{len(generations)} answers were to be started, and {self.free_rows} rows are free."
            raise InputError(message)
        for generation in generations:
            self.check(generation)
        for generation in generations:
            key = next(self._keys)
            self._requests[key] = _Request(generation, self.special_ids)
            self._batches.add(key, generation.prompt.ids)
        try:
            return self.step() if generations else []
        except BaseException:
            for generation in generations:
                self.stop(generation)
            raise

    @torch.inference_mode()
    def step(self) -> list[Written]:
        """A pass: one more token of each answer whose prompt has been read to its end.

        Raises:
            SubjectError: an edit could not be applied; all answers are as they were before.
        """
        if not self._requests:
            return []
        pieces = self._batches.next()
        requests = [self._requests[piece.key] for piece in pieces]
        try:
            passed = self._pass(pieces, requests)
            waiting = [
                number for number, piece in enumerate(pieces) if not self._condition_fired(number, piece, passed)
            ]
            return self._choose([number for number in waiting if pieces[number].is_last], pieces, passed)
        except BaseException:
            for piece in pieces:
                if piece.key in self._requests:
                    self._read_again(piece.key)
            raise

    def stop(self, generation: Generation) -> None:
        """End an answer; nothing happens where it is not under way."""
        for key, request in list(self._requests.items()):
            if request.generation is generation:
                self._drop(key)

    @torch.inference_mode()
    def judge(self, prompt: PromptTokens, tokens: Sequence[int], edits: CompiledEdits | None = None) -> Judged:
        """What the model with edits makes of tokens behind a prompt: one pass over all of them.

        Raises:
            SubjectError: an edit could not be applied.
        """
        row = Row(Generation(prompt, 0, edits, tokens=list(tokens)), self.special_ids)
        with self._batches.own_attention() as whole:
            return judged(row, self._table, self._attached, self._session.subject.device, whole.logits)

    def _pass(self, pieces: Sequence[Piece], requests: Sequence[_Request]) -> Passed:
        """Run a batch; the logits are of those pieces that end their sequences, in their order."""
        layout = Layout.end_to_end([piece.num_tokens for piece in pieces])
        edits = self._edits_of(pieces, requests, layout)
        logits_RV, readings = self._attached.run(edits, layout.shape, self._batches.forward)
        return Passed(logits_RV, readings, edits, layout)

    def _edits_of(self, pieces: Sequence[Piece], requests: Sequence[_Request], layout: Layout) -> PassEdits | None:
        """The edits of a pass; those of the last one, where nothing has changed since."""
        keys = [piece.key for piece in pieces]
        is_steady = all(_is_steady(piece, request) for piece, request in zip(pieces, requests, strict=True))
        if is_steady and self._steady is not None and self._steady[0] == keys:
            return self._steady[1]
        slices = []
        for piece, request in zip(pieces, requests, strict=True):
            factor_TJ = request.factors(piece.start)
            here_TJ = None if factor_TJ is None else factor_TJ[: piece.num_tokens]
            slices.append(RowSlice(request.generation.edits, here_TJ))
        edits = self._table.edits(slices, layout, *asked_of(requests))
        self._steady = (keys, edits) if is_steady else None
        return edits

    def _condition_fired(self, number: int, piece: Piece, passed: Passed) -> bool:
        """Note where conditions fire in a piece; whether it is to be read again, for they act on tokens behind that."""
        request, end = self._requests[piece.key], piece.start + piece.num_tokens
        place = fired_first(request, number, passed, piece.start, request.examined)
        request.examined = max(request.examined, end if place is None else place + 1)
        if place is None:
            return False
        self._steady = None
        if place + 1 < end:
            self._read_again(piece.key)
        return place + 1 < end

    def _choose(self, numbers: Sequence[int], pieces: Sequence[Piece], passed: Passed) -> list[Written]:
        """The next tokens of some of the answers in a pass; those that are at their end are freed."""
        if not numbers:
            return []
        ending = [number for number, piece in enumerate(pieces) if piece.is_last]
        ended = passed.placed(numbers, [ending.index(number) for number in numbers])
        keys = [pieces[number].key for number in numbers]
        requests = [self._requests[key] for key in keys]
        stopped = dict[Generation, Gate]()
        for number, request in enumerate(requests):
            # What ends an answer is looked for on the answer's own tokens.
            if request.edits is not None and request.generation.tokens:
                for gate in ended.firing(number, request.edits.compiled.stops)[:1]:
                    stopped[request.generation] = gate
        found = written(requests, ended, stopped)
        for key, one in zip(keys, found, strict=True):
            if one.finish is not None:
                self._drop(key)
            elif one.token is not None:
                self._batches.go_on(key, one.token)
        return found

    def _read_again(self, key: str) -> None:
        self._batches.remove(key)
        self._batches.add(key, self._requests[key].ids(0))

    def _drop(self, key: str) -> None:
        self._batches.remove(key)
        del self._requests[key]


def _is_steady(piece: Piece, request: _Request) -> bool:
    """Whether a piece is an answer's last token, on which is done what is done on all further ones."""
    is_step = piece.num_tokens == 1 and piece.is_last and bool(request.generation.tokens)
    return is_step and request.is_steady
