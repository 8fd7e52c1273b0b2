"""Text from a model, many answers at once, each with edits of its own: ours, for a CPU or one GPU.

::

    with Engine(session) as engine:
        written = engine.start([Generation(prompt, limit=20, edits=edits), Generation(other, limit=50)])
        while engine.running:
            written += engine.step()

Answers come and go between steps: :meth:`Engine.start` reads prompts and gives their first tokens, :meth:`Engine.step`
gives one more token of each that is under way, :meth:`Engine.stop` ends one. A row of the cache belongs to an answer as
long as it is under way. Where another one began with the same tokens under the same edits, what the cache holds of it
is copied: what was done to each token is part of what has to agree.

A model whose attention cannot be told where each row's tokens are (this is tried out when the engine is made) runs
without a cache: all of a sequence again for each token. That is slow, and the same answers.

One thread uses an engine: the one that entered it.

Shape legend: R rows, T tokens of a row in a pass, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

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
from mistudio.instrument.row_passes import RowPasses
from mistudio.instrument.rows import Finish, Generation, Row, Written, shared_beginning
from mistudio.instrument.session import Session
from mistudio.instrument.table import EditTable, PassEdits, RowSlice
from mistudio.instrument.text_engine import Judged
from mistudio.instrument.where import PromptTokens

__all__ = ["Engine", "Finish", "Generation", "Judged", "Written"]

_PASS_TOKENS = 2048  # of prompts that are read together, padding included; or one prompt
_LEAST_SHARED = 16  # tokens from which on copying beats reading again
_MOST_SLOTS = 4096  # where nothing else says how long a sequence may be


class Engine:
    """Generates with a session's model; use it in a ``with`` block.

    Args:
        session: the model and its autoencoders.
        num_rows: answers at once.
        num_slots: tokens of an answer and its prompt; None: what the model takes, at most 4,096.

    Raises:
        SubjectError: the model is an encoder, or predicts no tokens.
    """

    def __init__(self, session: Session, num_rows: int = 16, num_slots: int | None = None) -> None:
        subject = session.subject
        check_can_generate(subject)
        self.num_rows, self.num_slots = num_rows, most_slots(subject, num_slots or _MOST_SLOTS)
        self.special_ids = frozenset(subject.tokenizer.all_special_ids)
        self._session, self._table, self._attached = session, EditTable(session), Attached(session)
        self._passes = RowPasses(subject, num_rows, self.num_slots)
        self._rows: list[Row] = []
        self._steady: PassEdits | None = None  # edits of the last step, where they hold for the next
        self._is_steady = False

    def __enter__(self) -> Self:
        self._attached.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._attached.__exit__(*error)
        self._rows.clear()

    @property
    def has_cache(self) -> bool:
        """Whether the model can be run with the cache."""
        return self._passes.has_cache

    @property
    def running(self) -> Sequence[Generation]:
        """Answers under way."""
        return [row.generation for row in self._rows]

    @property
    def free_rows(self) -> int:
        """How many more can be started."""
        return self.num_rows - len(self._rows)

    def check(self, generation: Generation) -> None:
        """Refuse what cannot be started, now or ever.

        Raises:
            InputError: the prompt is empty or has unknown tokens, or with what is to be generated it is too long.
        """
        check_generation(generation, self._session.subject.vocab_size, self.num_slots)

    @torch.inference_mode()
    def start(self, generations: Sequence[Generation]) -> list[Written]:
        """Read prompts, and give the first token of each answer.

        Raises:
            InputError: there are more of them than free rows, or one cannot be started.
            SubjectError: an edit could not be applied; the answers under way go on, and none of these is.
        """
        if len(generations) > self.free_rows:
            message = f"{len(generations)} answers were to be started, and {self.free_rows} rows are free."
            raise InputError(message)
        for generation in generations:
            self.check(generation)
        lengths = [len(generation.tokens) for generation in generations]
        try:
            return [one for together in _together(generations) for one in self._start(together)]
        except BaseException:
            self._drop(generations)
            for generation, length in zip(generations, lengths, strict=True):
                del generation.tokens[length:]
            raise

    @torch.inference_mode()
    def step(self) -> list[Written]:
        """One more token of each answer under way.

        Raises:
            SubjectError: an edit could not be applied; all answers are as they were before.
        """
        rows = self._rows
        if not rows:
            return []
        held = [row.held for row in rows]
        try:
            passed = self._last_tokens(rows) if self.has_cache else self._extend(0, rows)
        except BaseException:
            for row, num_tokens in zip(rows, held, strict=True):
                row.forget(num_tokens)
            self._is_steady = False
            raise
        return self._choose(rows, passed, self._fired(rows, passed))

    @torch.inference_mode()
    def stop(self, generation: Generation) -> None:
        """End an answer; nothing happens where it is not under way."""
        self._drop([generation])

    @torch.inference_mode()
    def judge(self, prompt: PromptTokens, tokens: Sequence[int], edits: CompiledEdits | None = None) -> Judged:
        """What the model with edits makes of tokens behind a prompt: one pass over all of them.

        Raises:
            SubjectError: an edit could not be applied.
        """
        row = Row(Generation(prompt, 0, edits, tokens=list(tokens)), self.special_ids)
        device = self._session.subject.device
        return judged(row, self._table, self._attached, device, self._passes.whole.logits)

    def _start(self, generations: Sequence[Generation]) -> list[Written]:
        """Prompts of one pass; those that are alike are read once."""
        first, leaders = len(self._rows), dict[object, int]()
        leader_of = [leaders.setdefault(_likeness(generation), len(leaders)) for generation in generations]
        alone = [generations[leader_of.index(number)] for number in range(len(leaders))]
        rows = [Row(generation, self.special_ids) for generation in alone]
        self._rows += rows
        self._is_steady = False
        passed = self._read(first, rows)
        self._fired(rows, passed)  # what ends an answer is looked for on the answer's own tokens
        every = [
            self._row_of(generation, first + number) for generation, number in zip(generations, leader_of, strict=True)
        ]
        return self._choose(every, passed.picked(leader_of), {})

    def _row_of(self, generation: Generation, leader: int) -> Row:
        """The row of an answer whose prompt was read: the leader's own, or one with a copy of what the cache has."""
        if self._rows[leader].generation is generation:
            return self._rows[leader]
        row = Row(generation, self.special_ids)
        row.follow(self._rows[leader])
        self._passes.copy(leader, len(self._rows), row.held)
        self._rows.append(row)
        return row

    def _read(self, first: int, rows: Sequence[Row]) -> Passed:
        """Bring prompts into the cache."""
        for number, row in enumerate(rows, first):
            self._share(number, row)
        passed = self._extend(first, rows)
        # What a condition switches on acts on tokens behind the first that fires: they are read again, with it.
        examined, length = 0, rows[0].generation.length
        while True:
            _, span = passed.layout.spans[0]
            place = fired_first(rows[0], 0, passed, length - (span.stop - span.start), examined)
            if place is None or place + 1 == length:
                return passed
            examined = place + 1
            rows[0].forget(examined)
            passed = self._extend(first, rows)

    def _share(self, number: int, row: Row) -> None:
        """Copy what another row of the cache holds of the same beginning."""
        prompt = row.generation.prompt
        has_conditions = row.edits is not None and row.edits.compiled.latches
        if not self.has_cache or has_conditions or prompt.length <= _LEAST_SHARED or not number:
            return
        shared = [shared_beginning(row, other) for other in self._rows[:number]]
        best = max(shared)
        if best >= _LEAST_SHARED:
            self._passes.copy(shared.index(best), number, best)
            factor_TJ = row.factors(0)
            row.hold(best, None if factor_TJ is None else factor_TJ[:best])

    def _extend(self, first: int, rows: Sequence[Row]) -> Passed:
        """A pass over all that the cache lacks of some rows."""
        starts = [row.held for row in rows]
        slices = []
        for row, start in zip(rows, starts, strict=True):
            factor_TJ = row.factors(start)
            slices.append(RowSlice(row.generation.edits, factor_TJ))
            if self.has_cache:
                row.hold(row.generation.length - start, factor_TJ)
        layout = Layout.side_by_side([row.generation.length - start for row, start in zip(rows, starts, strict=True)])
        return self._pass(first, rows, layout, self._edits_of(rows, slices, layout))

    def _last_tokens(self, rows: Sequence[Row]) -> Passed:
        """A pass over the last token of each row."""
        layout = Layout.side_by_side([1] * len(rows))
        return self._pass(0, rows, layout, self._step_edits(rows, layout))

    def _step_edits(self, rows: Sequence[Row], layout: Layout) -> PassEdits | None:
        """The edits of a step; those of the step before, where nothing has changed since."""
        is_steady = all(row.is_steady for row in rows)
        if self._is_steady and is_steady:
            for row in rows:
                row.hold(1, row.last_factors)
            return self._steady
        slices = []
        for row in rows:
            row.last_factors = row.factors(row.generation.length - 1)
            slices.append(RowSlice(row.generation.edits, row.last_factors))
            row.hold(1, row.last_factors)
        self._steady, self._is_steady = self._edits_of(rows, slices, layout), is_steady
        return self._steady

    def _edits_of(self, rows: Sequence[Row], slices: Sequence[RowSlice], layout: Layout) -> PassEdits | None:
        """Edits, and what is to be read for conditions and for those who watch."""
        return self._table.edits(slices, layout, *asked_of(rows))

    def _pass(self, first: int, rows: Sequence[Row], layout: Layout, edits: PassEdits | None) -> Passed:
        """A pass over the last tokens of rows, padded on the left."""
        ids_RT = np.zeros(layout.shape, dtype=np.int64)
        place_RT = np.full(layout.shape, -1, dtype=np.int64)
        for row, span in zip(rows, layout.spans, strict=True):
            start = row.generation.length - (span[1].stop - span[1].start)
            ids_RT[span] = row.ids(start)
            place_RT[span] = range(start, row.generation.length)
        ids, places = (torch.from_numpy(each).to(self._session.subject.device) for each in (ids_RT, place_RT))
        passes = self._passes

        def forward() -> Tensor:
            if passes.has_cache:
                return passes.cached(first, ids, places)
            return passes.whole.logits(ids, mask_RT=(places >= 0).long() if (place_RT < 0).any() else None)[:, -1]

        logits_RV, readings = self._attached.run(edits, layout.shape, forward)
        return Passed(logits_RV, readings, edits, layout)

    def _fired(self, rows: Sequence[Row], passed: Passed) -> dict[Generation, Gate]:
        """Note which conditions fired on the last token of rows; the answers that end with it, by what ended them."""
        stopped: dict[Generation, Gate] = {}
        for number, row in enumerate(rows):
            if row.edits is None:
                continue
            latches, stops = row.edits.compiled.latches, row.edits.compiled.stops
            for gate in passed.firing(number, stops)[:1]:
                stopped[row.generation] = gate
            for gate in passed.firing(number, latches):
                if gate not in row.edits.fired:
                    row.edits.fired[gate] = row.generation.length - 1
                    self._is_steady = False
        return stopped

    def _choose(self, rows: Sequence[Row], passed: Passed, stopped: dict[Generation, Gate]) -> list[Written]:
        """The next token of each row, and what is to be told with it; rows that are at their end are freed."""
        found = written(rows, passed, stopped)
        self._wipe([one.generation for one in found if one.finish == "broken"])
        self._drop([one.generation for one in found if one.finish is not None])
        return found

    def _wipe(self, generations: Sequence[Generation]) -> None:
        """Leave nothing of answers in the cache: what is no number spreads from where attention gives it no weight."""
        for number, row in enumerate(self._rows):
            if row.generation in generations:
                self._passes.wipe(number)

    def _drop(self, generations: Iterable[Generation]) -> None:
        """Free rows; the last row takes the place of each."""
        for generation in generations:
            number = next((n for n, row in enumerate(self._rows) if row.generation is generation), None)
            if number is None:
                continue
            last = len(self._rows) - 1
            if number != last:
                self._passes.copy(last, number, self._rows[last].held)
                self._rows[number] = self._rows[last]
            self._rows.pop()
            self._is_steady = False


def _together(generations: Sequence[Generation]) -> Iterator[list[Generation]]:
    """Prompts that are read in one pass: of like length. One with a lasting condition is alone: it may need several."""
    together: list[Generation] = []
    for generation in sorted(generations, key=lambda each: each.prompt.length):
        is_alone = generation.edits is not None and bool(generation.edits.latches)
        is_full = (len(together) + 1) * generation.prompt.length > _PASS_TOKENS
        if together and (is_alone or is_full):
            yield together
            together = []
        together.append(generation)
        if is_alone:
            yield together
            together = []
    if together:
        yield together


def _likeness(generation: Generation) -> object:
    """What two answers have in common whose prompts need to be read but once."""
    edits = generation.edits.digest if generation.edits is not None else None
    return generation.prompt.ids, id(generation.prompt), edits, generation.watched
