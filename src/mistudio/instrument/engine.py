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
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from mistudio.errors import InputError, SubjectError
from mistudio.instrument.attach import Attached, PassReadings
from mistudio.instrument.compiled import CompiledEdits, Gate
from mistudio.instrument.row_passes import RowPasses
from mistudio.instrument.rows import Finish, Generation, Row, Written, shared_beginning
from mistudio.instrument.sampling import biased, choose
from mistudio.instrument.session import Session
from mistudio.instrument.table import EditTable, Latent, PassEdits, RowSlice
from mistudio.instrument.where import PromptTokens

__all__ = ["Engine", "Finish", "Generation", "Judged", "Written"]

_PASS_TOKENS = 2048  # of prompts that are read together, padding included; or one prompt
_LEAST_SHARED = 16  # tokens from which on copying beats reading again
_MOST_SLOTS = 4096  # where nothing else says how long a sequence may be


class _Passed(NamedTuple):
    """What came of a pass."""

    logits_RV: Tensor  # behind the last token of each row
    readings: PassReadings
    edits: PassEdits | None

    def of(self, number: int, latent: Latent) -> Tensor:
        """A latent as it arrived on the tokens of a row [T]."""
        assert self.edits is not None  # noqa: S101 - what reads is part of it
        column = self.edits.before[latent[0]].column_of()[latent[1]]
        return self.readings.before[latent[0]][number, :, column]


class Judged(NamedTuple):
    """What a model with or without edits makes of tokens that are there."""

    logits_TV: Tensor  # of each token, float32
    dose: dict[str, float]  # mean norm of what was changed over the activation's, by hook point


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
        if not subject.is_causal or subject.model.get_output_embeddings() is None:
            message = f"{type(subject.model).__name__} does not go on with a text: it is an encoder, or has no head."
            raise SubjectError(message)
        wanted = num_slots or _MOST_SLOTS
        self.num_rows, self.num_slots = num_rows, min(wanted, subject.max_positions or wanted)
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
        prompt, vocabulary = generation.prompt, self._session.subject.vocab_size
        if not prompt.length:
            message = "The prompt is empty, and there is no token that begins a text: give a prompt."
            raise InputError(message)
        wrong = next((token for token in prompt.ids if not 0 <= token < vocabulary), None)
        if wrong is not None:
            message = f"There is no token {wrong}: the model knows {vocabulary:,}, numbered from 0."
            raise InputError(message)
        if prompt.length + generation.limit > self.num_slots:
            message = (
                f"The prompt has {prompt.length:,} tokens, and {generation.limit:,} are to be generated: together "
                f"more than the {self.num_slots:,} that there is room for."
            )
            raise InputError(message)

    @torch.inference_mode()
    def start(self, generations: Sequence[Generation]) -> list[Written]:
        """Read prompts, and give the first token of each answer.

        Raises:
            InputError: there are more of them than free rows, or one cannot be started.
            SubjectError: an edit could not be applied.
        """
        if len(generations) > self.free_rows:
            message = f"{len(generations)} answers were to be started, and {self.free_rows} rows are free."
            raise InputError(message)
        for generation in generations:
            self.check(generation)
        return [one for together in _together(generations) for one in self._start(together)]

    @torch.inference_mode()
    def step(self) -> list[Written]:
        """One more token of each answer under way.

        Raises:
            SubjectError: an edit could not be applied.
        """
        rows = self._rows
        if not rows:
            return []
        if self.has_cache:
            passed = self._pass(0, rows, [row.generation.length - 1 for row in rows], self._step_edits(rows))
        else:
            passed = self._extend(0, rows)
        return self._choose(rows, passed, self._fired(rows, passed))

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
        ids = row.ids(0)
        table = self._table.edits([RowSlice(edits, row.factors(0))], len(ids))
        ids_1T = torch.tensor([ids], device=self._session.subject.device)
        keep = len(tokens) + 1
        logits_1TV, readings = self._attached.run(
            table, (1, len(ids)), lambda: self._passes.whole(ids_1T, keep=keep), dose=True
        )
        dose = {str(point): _mean_of_changed(dose_RT[0]) for point, dose_RT in readings.dose.items()}
        return Judged(logits_1TV[0, :-1].float(), dose)

    def _start(self, generations: Sequence[Generation]) -> list[Written]:
        """Prompts of one pass; those that are alike are read once."""
        first, leaders = len(self._rows), dict[object, int]()
        leader_of = [leaders.setdefault(_likeness(generation), len(leaders)) for generation in generations]
        alone = [generations[leader_of.index(number)] for number in range(len(leaders))]
        rows = [Row(generation, self.special_ids) for generation in alone]
        self._rows += rows
        self._is_steady = False
        try:
            passed = self._read(first, rows)
        except BaseException:
            del self._rows[first:]
            raise
        self._fired(rows, passed)  # what ends an answer is looked for on the answer's own tokens
        every = [
            self._row_of(generation, first + number) for generation, number in zip(generations, leader_of, strict=True)
        ]
        return self._choose(every, _picked(passed, leader_of), {})

    def _row_of(self, generation: Generation, leader: int) -> Row:
        """The row of an answer whose prompt was read: the leader's own, or one with a copy of what the cache has."""
        if self._rows[leader].generation is generation:
            return self._rows[leader]
        row = Row(generation, self.special_ids)
        row.follow(self._rows[leader])
        self._passes.copy(leader, len(self._rows), row.held)
        self._rows.append(row)
        return row

    def _read(self, first: int, rows: Sequence[Row]) -> _Passed:
        """Bring prompts into the cache."""
        for number, row in enumerate(rows, first):
            self._share(number, row)
        passed = self._extend(first, rows)
        # What a condition switches on acts on tokens behind the first that fires: they are read again, with it.
        while (place := self._fired_in_prompt(rows, passed)) is not None:
            rows[0].forget(place + 1)
            passed = self._extend(first, rows)
        return passed

    def _fired_in_prompt(self, rows: Sequence[Row], passed: _Passed) -> int | None:
        """Where in its prompt a condition of the only row fired, if tokens are behind it."""
        row = rows[0]
        if row.edits is None or not row.edits.compiled.latches:
            return None
        length, places = row.generation.prompt.length, dict[Gate, int]()
        for gate in row.edits.compiled.latches:
            value_T = passed.of(0, (gate.autoencoder, gate.latent))
            fires = (value_T > gate.above).nonzero()[:, 0].tolist()
            if fires and gate not in row.edits.fired:
                places[gate] = length - len(value_T) + fires[0]
        place = min(places.values(), default=length)
        row.edits.fired |= {gate: at for gate, at in places.items() if at == place}
        return place if place + 1 < length else None

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

    def _extend(self, first: int, rows: Sequence[Row]) -> _Passed:
        """A pass over all that the cache lacks of some rows."""
        starts = [row.held for row in rows]
        slices = []
        for row, start in zip(rows, starts, strict=True):
            factor_TJ = row.factors(start)
            slices.append(RowSlice(row.generation.edits, factor_TJ))
            if self.has_cache:
                row.hold(row.generation.length - start, factor_TJ)
        num_tokens = max(row.generation.length - start for row, start in zip(rows, starts, strict=True))
        return self._pass(first, rows, starts, self._edits_of(rows, slices, num_tokens))

    def _step_edits(self, rows: Sequence[Row]) -> PassEdits | None:
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
        self._steady, self._is_steady = self._edits_of(rows, slices, 1), is_steady
        return self._steady

    def _edits_of(self, rows: Sequence[Row], slices: Sequence[RowSlice], num_tokens: int) -> PassEdits | None:
        """Edits, and what is to be read for conditions and for those who watch."""
        read: set[Latent] = set()
        for row in rows:
            if row.edits is not None:
                gates = (*row.edits.compiled.latches, *row.edits.compiled.stops)
                read |= {(gate.autoencoder, gate.latent) for gate in gates}
        watched = {latent for row in rows for latent in row.generation.watched}
        return self._table.edits(slices, num_tokens, watched, read)

    def _pass(self, first: int, rows: Sequence[Row], starts: Sequence[int], edits: PassEdits | None) -> _Passed:
        """A pass over the tokens of rows from some place of each on, padded on the left."""
        num_tokens = max(row.generation.length - start for row, start in zip(rows, starts, strict=True))
        ids_RT = np.zeros((len(rows), num_tokens), dtype=np.int64)
        place_RT = np.full((len(rows), num_tokens), -1, dtype=np.int64)
        for number, (row, start) in enumerate(zip(rows, starts, strict=True)):
            behind = num_tokens - (row.generation.length - start)
            ids_RT[number, behind:] = row.ids(start)
            place_RT[number, behind:] = range(start, row.generation.length)
        ids, places = (torch.from_numpy(each).to(self._session.subject.device) for each in (ids_RT, place_RT))
        passes = self._passes

        def forward() -> Tensor:
            if passes.has_cache:
                return passes.cached(first, ids, places)
            return passes.whole(ids, (places >= 0).long() if (place_RT < 0).any() else None)[:, -1]

        logits_RV, readings = self._attached.run(edits, (len(rows), num_tokens), forward)
        return _Passed(logits_RV, readings, edits)

    def _fired(self, rows: Sequence[Row], passed: _Passed) -> dict[Generation, Gate]:
        """Note which conditions fired on the last token of rows; the answers that end with it, by what ended them."""
        stopped: dict[Generation, Gate] = {}
        for number, row in enumerate(rows):
            compiled = row.generation.edits
            if compiled is None or row.edits is None:
                continue
            for gate in (*compiled.latches, *compiled.stops):
                if float(passed.of(number, (gate.autoencoder, gate.latent))[-1]) <= gate.above:
                    continue
                if gate in compiled.stops:
                    stopped.setdefault(row.generation, gate)
                if gate in compiled.latches and gate not in row.edits.fired:
                    row.edits.fired[gate] = row.generation.length - 1
                    self._is_steady = False
        return stopped

    def _choose(self, rows: Sequence[Row], passed: _Passed, stopped: dict[Generation, Gate]) -> list[Written]:
        """The next token of each row, and what is to be told with it; rows that are at their end are freed."""
        choosings = [row.generation.choosing for row in rows]
        logits_RV = biased(passed.logits_RV, choosings)
        tokens = choose(logits_RV, choosings, [row.draws for row in rows])
        told, watched = _told(rows, logits_RV, tokens), _watched(rows, passed)
        written = []
        for number, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            generation = row.generation
            if generation in stopped:
                written.append(Written(generation, None, "feature", stopped[generation]))
                continue
            generation.tokens.append(token)
            logprob, alternatives = told.get(number, (None, ()))
            finish = _finish(generation, token)
            written.append(Written(generation, token, finish, None, logprob, alternatives, watched.get(number)))
        self._drop([one.generation for one in written if one.finish is not None])
        return written

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


def _picked(passed: _Passed, numbers: Sequence[int]) -> _Passed:
    """What came of a pass, for rows that were read and their likes."""
    if list(numbers) == list(range(len(passed.logits_RV))):
        return passed
    index = torch.tensor(numbers, device=passed.logits_RV.device)
    after = {number: value[index.to(value.device)] for number, value in passed.readings.after.items()}
    return _Passed(passed.logits_RV[index], PassReadings(after=after), passed.edits)


def _finish(generation: Generation, token: int) -> Finish | None:
    if token in generation.ends:
        return "stop"
    return "length" if len(generation.tokens) >= generation.limit else None


def _told(
    rows: Sequence[Row], logits_RV: Tensor, tokens: Sequence[int]
) -> dict[int, tuple[float, tuple[tuple[int, float], ...]]]:
    """Log-probabilities for the rows that want them: of the chosen token, and the likeliest with theirs."""
    wanting = [number for number, row in enumerate(rows) if row.generation.alternatives is not None]
    if not wanting:
        return {}
    logprob_WV = torch.log_softmax(logits_RV[wanting], dim=-1)
    most = max(rows[number].generation.alternatives or 0 for number in wanting)
    best = logprob_WV.topk(min(most, logprob_WV.shape[-1]), dim=-1)
    values, indices = best.values.tolist(), best.indices.tolist()
    found = {}
    for place, number in enumerate(wanting):
        count = rows[number].generation.alternatives or 0
        pairs = tuple(zip(indices[place][:count], values[place][:count], strict=True))
        found[number] = (float(logprob_WV[place, tokens[number]]), pairs)
    return found


def _watched(rows: Sequence[Row], passed: _Passed) -> dict[int, tuple[float, ...]]:
    """Activations of watched latents on the last token, for the rows that want them."""
    if passed.edits is None or not passed.edits.after:
        return {}
    value = {number: each[:, -1].tolist() for number, each in passed.readings.after.items()}
    column = {number: reading.column_of() for number, reading in passed.edits.after.items()}
    return {
        number: tuple(value[placed][number][column[placed][latent]] for placed, latent in row.generation.watched)
        for number, row in enumerate(rows)
        if row.generation.watched
    }


def _mean_of_changed(dose_T: Tensor) -> float:
    """The mean over tokens on which something was changed."""
    changed_T = dose_T[dose_T > 0]
    return float(changed_T.mean()) if len(changed_T) else 0.0
