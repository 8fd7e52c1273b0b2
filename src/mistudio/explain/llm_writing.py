"""How a judge on this machine writes: many answers at once, each until it says its JSON is whole.

Models that were not taught to stop are stopped there too. Where one answer has ended the next one begins.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mistudio.explain.judge import AnswerToken, Chat, Reply, Usage
from mistudio.explain.llm_answers import is_complete
from mistudio.explain.llm_checks import LEAST_LOGPROB
from mistudio.instrument import Session
from mistudio.instrument.engine import Engine, Generation, Written
from mistudio.instrument.where import plain_prompt
from mistudio.instrument.write_all import write_all
from mistudio.subject import Subject

_FEWEST_SLOTS = 256  # tokens of a prompt and its answer


class Writer:
    """Writes answers with a model, always the likeliest token.

    Args:
        subject: the model.
        num_rows: answers at once.
    """

    def __init__(self, subject: Subject, num_rows: int) -> None:
        self._session, self._num_rows = Session(subject), num_rows
        self._ends = subject.ending_ids | frozenset(subject.tokenizer.all_special_ids)
        self._engine: Engine | None = None

    def write(self, prompts: Mapping[Chat, list[int]]) -> Iterator[tuple[Chat, Reply]]:
        """Each request with its reply, as they come to their ends.

        Args:
            prompts: token ids of each, which with the answer fit into the model.
        """
        tokenizer = self._session.subject.tokenizer
        answers = {
            self._generation(request, ids): _Answer(tokenizer, request, self._ends) for request, ids in prompts.items()
        }
        if not answers:
            return
        with self._with_room(max(each.prompt.length + each.limit for each in answers)) as engine:
            for written in write_all(engine, list(answers)):
                generation, answer = written.generation, answers[written.generation]
                answer.take(written)
                if answer.is_whole:
                    engine.stop(generation)
                if answer.is_whole or written.finish:
                    yield answer.request, answer.reply(generation)

    def _generation(self, request: Chat, ids: list[int]) -> Generation:
        return Generation(
            plain_prompt(ids, frozenset()),
            request.max_tokens,
            ends=self._ends,
            alternatives=request.alternatives or None,
        )

    def _with_room(self, slots: int) -> Engine:
        """An engine for sequences of that length: the one that is there, or a larger one in its place."""
        if self._engine is None or self._engine.num_slots < slots:
            self._engine = None  # what its cache takes may be needed
            self._engine = Engine(self._session, self._num_rows, max(_FEWEST_SLOTS, 1 << (slots - 1).bit_length()))
        return self._engine


class _Answer:
    """An answer as it is written.

    Args:
        tokenizer: of the model.
        request: what is answered.
        ends: tokens that end an answer and do not belong to its text.
    """

    def __init__(self, tokenizer: Any, request: Chat, ends: frozenset[int]) -> None:
        self.request, self.is_whole = request, False
        self._tokenizer, self._ends = tokenizer, ends
        self._tokens: list[int] = []
        self._considered: list[tuple[tuple[int, float], ...]] = []  # at each token, with log-probabilities

    def take(self, written: Written) -> None:
        """Go on with a token."""
        if written.token is None or written.token in self._ends:
            return
        self._tokens.append(written.token)
        self._considered.append(written.alternatives)
        # Only these end a piece of JSON: most tokens need no look at the whole text.
        if any(closing in self._tokenizer.decode([written.token]) for closing in "]}"):
            self.is_whole = is_complete(self._tokenizer.decode(self._tokens))

    def reply(self, generation: Generation) -> Reply:
        """The whole answer."""
        text, tokens = self._tokenizer.decode(self._tokens), None
        if self.request.alternatives:
            tokens = tuple(self._spelled(place) for place in range(len(self._tokens)))
        is_cut = not self.is_whole and len(self._tokens) == generation.limit
        return Reply(
            text=text, tokens=tokens, usage=Usage(generation.prompt.length, len(self._tokens)), truncated=is_cut
        )

    def _spelled(self, place: int) -> AnswerToken:
        """A token as it continues the text before it, with what else was considered there."""
        before = self._tokenizer.decode(self._tokens[:place])

        def spell(token: int) -> str:
            return str(self._tokenizer.decode([*self._tokens[:place], token]))[len(before) :]

        considered = ((spell(token), bounded(logprob)) for token, logprob in self._considered[place])
        return AnswerToken(spell(self._tokens[place]), tuple(considered))


def bounded(logprob: float) -> float:
    """A log-probability in the range of those that are kept; of a model whose numbers overflowed that of nothing."""
    return max(logprob, LEAST_LOGPROB) if logprob <= 0 else LEAST_LOGPROB
