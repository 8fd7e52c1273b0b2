"""What becomes of a pass: the next token of each row, and what is told with it; whichever engine ran the pass.

Shape legend: R rows, T tokens of a row in a pass, W rows that want something, V vocabulary, U columns of a reading.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mistudio.errors import InputError, SubjectError
from mistudio.instrument.attach import Attached, PassReadings
from mistudio.instrument.compiled import Gate
from mistudio.instrument.layout import Layout
from mistudio.instrument.rows import Finish, Generation, Row, Written
from mistudio.instrument.sampling import biased, choose
from mistudio.instrument.table import EditTable, Latent, PassEdits, Reading, RowSlice
from mistudio.instrument.text_engine import Judged
from mistudio.subject import Subject


@dataclass(eq=False)
class Passed:
    """What came of a pass.

    Attributes:
        logits_RV: behind the last token of each row.
        readings: what was read.
        edits: what was done and asked for.
        layout: where the rows' tokens were.
    """

    logits_RV: Tensor
    readings: PassReadings
    edits: PassEdits | None
    layout: Layout

    def of(self, number: int, latent: Latent) -> Tensor:
        """A latent as it arrived on the tokens of a row [T]."""
        assert self.edits is not None  # noqa: S101 - what reads is part of it
        column = self.edits.before[latent[0]].column_of()[latent[1]]
        return self.readings.before[latent[0]][(*self.layout.spans[number], column)]

    def firing(self, number: int, gates: Sequence[Gate]) -> list[Gate]:
        """Which of these fired on the last token of a row."""
        return [gate for gate in gates if self._arrived[gate.autoencoder, gate.latent][number] > gate.above]

    def first_firing(self, number: int, gate: Gate, skipped: int) -> int | None:
        """The first token of a row in the pass on which a latent fired, some at its beginning left out; None: none."""
        _, tokens = self.layout.spans[number]
        if tokens.stop - tokens.start == 1:
            return 0 if not skipped and self.firing(number, [gate]) else None
        fires = (self.of(number, (gate.autoencoder, gate.latent))[skipped:] > gate.above).nonzero()
        return skipped + int(fires[0]) if len(fires) else None

    def picked(self, numbers: Sequence[int]) -> "Passed":
        """The same, of some rows, in this order; a row may be taken several times."""
        return self.placed(numbers, numbers)

    def placed(self, numbers: Sequence[int], logits_of: Sequence[int]) -> "Passed":
        """The same, of some rows; their logits have numbers of their own, where not every row has some."""
        if list(numbers) == list(range(len(self.layout.spans))):
            return self
        layout = Layout(self.layout.shape, tuple(self.layout.spans[number] for number in numbers))
        index = torch.tensor(logits_of, device=self.logits_RV.device)
        return Passed(self.logits_RV[index], self.readings, self.edits, layout)

    def watched(self, number: int, latents: Sequence[Latent]) -> tuple[float, ...]:
        """Latents as the model went on with them, on the last token of a row."""
        return tuple(self._left[latent][number] for latent in latents)

    @cached_property
    def _arrived(self) -> dict[Latent, list[float]]:
        return {} if self.edits is None else self._last(self.edits.before, self.readings.before)

    @cached_property
    def _left(self) -> dict[Latent, list[float]]:
        return {} if self.edits is None else self._last(self.edits.after, self.readings.after)

    def _last(self, readings: Mapping[int, Reading], value: Mapping[int, Tensor]) -> dict[Latent, list[float]]:
        """What was read on the last token of each row, by latent."""
        found: dict[Latent, list[float]] = {}
        for number, reading in readings.items():
            by_column = self.layout.last(value[number]).T.tolist()
            found |= {(number, latent): by_column[column] for latent, column in reading.column_of().items()}
        return found


def check_can_generate(subject: Subject) -> None:
    """Refuse a model that does not go on with a text.

    Raises:
        SubjectError: it is an encoder, or predicts no tokens.
    """
    if not subject.is_causal or subject.model.get_output_embeddings() is None:
        message = f"{type(subject.model).__name__} does not go on with a text: it is an encoder, or has no head."
        raise SubjectError(message)


def most_slots(subject: Subject, wanted: int) -> int:
    """How long a sequence may be.

    Where a model turns all places otherwise as soon as one row of a batch is longer than some length (``longrope``), a
    row would depend on those beside it, and on what the cache held before: it may be no longer than that.

    Args:
        subject: the model.
        wanted: tokens of a sequence, at most.
    """
    rope = getattr(subject.text_config, "rope_parameters", None) or {}
    some = [rope, *(each for each in rope.values() if isinstance(each, dict))]  # of all layers, or by their kind
    turns = [each.get("original_max_position_embeddings") for each in some if each.get("rope_type") == "longrope"]
    return min(wanted, subject.max_positions or wanted, *(int(length) for length in turns if length))


def check_generation(generation: Generation, vocabulary: int, num_slots: int) -> None:
    """Refuse what cannot be started, now or ever.

    Raises:
        InputError: the prompt is empty or has unknown tokens, or with what is to be generated it is too long.
    """
    prompt = generation.prompt
    if not prompt.length:
        message = "The prompt is empty, and there is no token that begins a text: give a prompt."
        raise InputError(message)
    wrong = next((token for token in prompt.ids if not 0 <= token < vocabulary), None)
    if wrong is not None:
        message = f"There is no token {wrong}: the model knows {vocabulary:,}, numbered from 0."
        raise InputError(message)
    if prompt.length + generation.limit > num_slots:
        message = (
            f"The prompt has {prompt.length:,} tokens, and {generation.limit:,} are to be generated: together "
            f"more than the {num_slots:,} that there is room for."
        )
        raise InputError(message)


def written(rows: Sequence[Row], passed: Passed, stopped: Mapping[Generation, Gate]) -> list[Written]:
    """The next token of each row, which belongs to its answer from now on, and what is to be told with it.

    An answer whose logits are no numbers, which edits can lead to, ends before its next token.

    Args:
        rows: in the order of the pass.
        passed: what came of it.
        stopped: answers that end before their next token, by the feature that ends them.
    """
    choosings = [row.generation.choosing for row in rows]
    logits_RV = biased(passed.logits_RV, choosings)
    tokens = choose(logits_RV, choosings, [row.draws for row in rows])
    told = _told(rows, logits_RV, tokens)
    is_sound_R = logits_RV.max(dim=-1).values.isfinite().tolist()
    found = []
    for number, (row, token) in enumerate(zip(rows, tokens, strict=True)):
        generation = row.generation
        if not is_sound_R[number]:
            found.append(Written(generation, None, "broken"))
            continue
        if generation in stopped:
            found.append(Written(generation, None, "feature", stopped[generation]))
            continue
        generation.tokens.append(token)
        logprob, alternatives = told.get(number, (None, ()))
        watched = passed.watched(number, generation.watched) if generation.watched else None
        found.append(Written(generation, token, _finish(generation, token), None, logprob, alternatives, watched))
    return found


def asked_of(rows: Sequence[Row]) -> tuple[set[Latent], set[Latent]]:
    """Latents that rows want read: after the edits, for those who watch, and before them, for conditions."""
    read: set[Latent] = set()
    for row in rows:
        if row.edits is not None:
            gates = (*row.edits.compiled.latches, *row.edits.compiled.stops)
            read |= {(gate.autoencoder, gate.latent) for gate in gates}
    return {latent for row in rows for latent in row.generation.watched}, read


def fired_first(row: Row, number: int, passed: Passed, start: int, examined: int) -> int | None:
    """Note which of a row's conditions fire first in a pass.

    Args:
        row: whose conditions they are.
        number: of the row in the pass.
        passed: what came of it.
        start: place of the row's first token in the pass.
        examined: tokens of the row on which conditions were looked at before.

    Returns:
        The place of the token on which they fire; None where none does.
    """
    if row.edits is None:
        return None
    places = dict[Gate, int]()
    for gate in row.edits.compiled.latches:
        first = None
        if gate not in row.edits.fired:
            first = passed.first_firing(number, gate, max(examined - start, 0))
        if first is not None:
            places[gate] = start + first
    place = min(places.values(), default=None)
    row.edits.fired |= {gate: at for gate, at in places.items() if at == place}
    return place


def judged(
    row: Row, table: EditTable, attached: Attached, device: torch.device, whole: Callable[[Tensor, int], Tensor]
) -> Judged:
    """What a model with edits makes of an answer that is there.

    It takes a pass over all of it, and another one for each condition that fires in it.

    Args:
        row: the answer, with all of its tokens.
        table: makes the tensors of its edits.
        attached: the model's hooks.
        device: of the model.
        whole: logits [1, keep, V] at the last ``keep`` tokens of a sequence [1, T].

    Raises:
        SubjectError: an edit could not be applied.
    """
    compiled, ids = row.generation.edits, row.ids(0)
    layout, ids_1T = Layout.side_by_side([len(ids)]), torch.tensor([ids], device=device)
    read = [(gate.autoencoder, gate.latent) for gate in compiled.latches] if compiled is not None else []
    examined = 0
    while True:
        edits = table.edits([RowSlice(compiled, row.factors(0))], layout, (), read)
        logits_1TV, readings = attached.run(
            edits, layout.shape, lambda: whole(ids_1T, len(row.generation.tokens) + 1), dose=True
        )
        place = fired_first(row, 0, Passed(logits_1TV, readings, edits, layout), 0, examined)
        if place is None or place + 1 == len(ids):
            break
        examined = place + 1
    dose = {str(point): _mean_of_changed(dose_RT[0]) for point, dose_RT in readings.dose.items()}
    return Judged(logits_1TV[0, :-1].float(), dose)


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
    chosen = logprob_WV[range(len(wanting)), [tokens[number] for number in wanting]].tolist()
    found = {}
    for place, number in enumerate(wanting):
        count = rows[number].generation.alternatives or 0
        pairs = tuple(zip(indices[place][:count], values[place][:count], strict=True))
        found[number] = (chosen[place], pairs)
    return found


def _mean_of_changed(dose_T: Tensor) -> float:
    """The mean over tokens on which something was changed."""
    changed_T = dose_T[dose_T > 0]
    return float(changed_T.mean()) if len(changed_T) else 0.0
