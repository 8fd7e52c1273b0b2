"""A request on its way through the service: its answers, what is told of them, and to whom."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mistudio.instrument.compiled import CompiledEdits
from mistudio.instrument.edits import Edits
from mistudio.instrument.engine import Generation, Written
from mistudio.instrument.listening import Followed
from mistudio.instrument.sampling import Choosing
from mistudio.instrument.table import Latent
from mistudio.instrument.where import PromptTokens
from mistudio.settings import MOST_SEED
from mistudio.steer.callers import Caller
from mistudio.steer.decoding import TextStream
from mistudio.steer.requests import Delta, Event, Failed, Finished, GenerationRequest, TokenLogprob, Usage

Reason = Literal["stop", "length", "content_filter"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A request that was checked, tokenised, and whose edits are ready.

    Attributes:
        request: as it came.
        prompt: its tokens.
        limit: tokens to generate.
        edits: what is done to the model, ready; None: nothing.
        watched: latents to report.
        changes: what is done to the model, as it was asked for, with what its preset holds.
        warnings: what is doubtful about that.
    """

    request: GenerationRequest
    prompt: PromptTokens
    limit: int
    edits: CompiledEdits | None
    watched: tuple[Latent, ...]
    changes: Edits = Edits()
    warnings: tuple[str, ...] = ()

    @property
    def compares(self) -> bool:
        """Whether the answer without the edits is wanted too."""
        steering = self.request.steering
        return steering is not None and steering.compare

    @property
    def rows(self) -> int:
        """Rows of the engine that it needs."""
        return 2 if self.compares else self.request.n


@dataclass(eq=False)
class Answer:
    """One answer under way."""

    index: int  # -1: the one without edits
    generation: Generation
    stream: TextStream
    reason: Reason | None = None
    detail: str | None = None
    watched: list[tuple[float, ...]] = field(default_factory=list)


class Ticket:
    """A request in the service; whoever holds it may cancel it, from any thread.

    Args:
        prepared: what is asked for.
        tell: is called with each event, on the service's thread: it has to be quick.
        tokenizer: of the model.
        ends: tokens that end a text.
        followed: who else follows what is written; None: nobody.
    """

    def __init__(
        self,
        prepared: Prepared,
        tell: Callable[[Event], None],
        tokenizer: Any,
        ends: frozenset[int],
        followed: Followed | None = None,
    ) -> None:
        self.prepared, self.submitted_at, self.started_at = prepared, time.monotonic(), 0.0
        self.caller = Caller("")
        self._tell, self._tokenizer, self._followed = tell, tokenizer, followed
        self._cancelled, self._is_over = threading.Event(), False
        request = prepared.request
        ends = frozenset() if request.ignore_eos else ends
        # The answers that are compared draw the same numbers.
        seed = request.sampling.seed if request.sampling.seed is not None else _any_seed()
        self.answers = [self._answer(index, prepared.edits, seed, ends) for index in range(request.n)]
        if prepared.compares:
            self.answers.append(self._answer(-1, None, seed, ends))

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._cancelled.is_set()

    @property
    def is_over(self) -> bool:
        """Whether its last event was told."""
        return self._is_over

    def cancel(self) -> None:
        """Say that nobody waits for it: its rows are freed before the next step."""
        self._cancelled.set()

    def tell(self, event: Event) -> None:
        """Pass an event on, unless nobody waits."""
        if not self.is_cancelled:
            self._tell(event)

    def fail(self, error: Exception) -> None:
        """End with an error."""
        if not self._is_over:
            self._is_over = True
            self.leave()
            self.tell(Failed(error))

    def close(self, event: Event) -> None:
        """End with an event."""
        self._is_over = True
        self.leave()
        self.tell(event)

    def leave(self) -> None:
        """Say to whoever else follows that nothing more comes."""
        if self._followed is not None:
            self._followed.ended()

    def take(self, answer: Answer, written: Written) -> bool:
        """Pass on a token; whether the answer is at its end with it."""
        if written.finish == "broken":
            return self.end(answer, "content_filter", "the model's numbers are no longer finite")
        if written.token is None:
            return self.end(answer, "stop", _stopped_by(written))
        is_end = written.finish == "stop"
        text = "" if is_end else answer.stream.add(written.token)
        if answer.stream.stopped_by is None and written.finish is not None:
            text += answer.stream.finish()
        num_own = len(self.prepared.watched)
        watched = written.watched[:num_own] if written.watched is not None and num_own else None
        if watched is not None:
            answer.watched.append(watched)
        why = None
        if answer.index >= 0:
            self.tell(Delta(answer.index, text, (written.token,), self._logprobs(written), _one(watched)))
            if self._followed is not None:
                why = self._followed.wrote(answer.index, text, (written.watched or ())[num_own:])
        if answer.stream.stopped_by is not None:
            return self.end(answer, "stop", None)
        if written.finish is not None:
            return self.end(answer, "length" if written.finish == "length" else "stop", None)
        return why is not None and self.end(answer, "content_filter", why)

    def end(self, answer: Answer, reason: Reason, detail: str | None) -> bool:
        """End an answer; always true."""
        rest = answer.stream.finish()
        answer.reason, answer.detail = reason, detail
        if answer.index >= 0:
            if rest:
                self.tell(Delta(answer.index, rest, ()))
            self.tell(Finished(answer.index, reason, detail, self.prepared.warnings))
        return True

    def usage(self) -> Usage:
        """Tokens so far, of the answers that were asked for."""
        own = [answer.generation for answer in self.answers if answer.index >= 0]
        return Usage(self.prepared.prompt.length, sum(len(generation.tokens) for generation in own))

    def _answer(self, index: int, edits: CompiledEdits | None, seed: int, ends: frozenset[int]) -> Answer:
        prepared, request = self.prepared, self.prepared.request
        sampling = request.sampling
        heard = tuple(self._followed.latents) if self._followed is not None and index >= 0 else ()
        choosing = Choosing(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            seed=f"{seed}/{max(index, 0)}",
            bias=sampling.logit_bias,
        )
        generation = Generation(
            prompt=prepared.prompt,
            limit=prepared.limit,
            edits=edits,
            choosing=choosing,
            ends=ends,
            alternatives=request.logprobs,
            watched=prepared.watched + heard,
        )
        return Answer(index, generation, TextStream(self._tokenizer, request.stop))

    def _logprobs(self, written: Written) -> tuple[TokenLogprob, ...] | None:
        if written.logprob is None or written.token is None:
            return None
        top = tuple(self._told(token, logprob) for token, logprob in written.alternatives)
        return (self._told(written.token, written.logprob, top),)

    def _told(self, token: int, logprob: float, top: Sequence[TokenLogprob] = ()) -> TokenLogprob:
        text = str(self._tokenizer.decode([token]))
        return TokenLogprob(text, token, logprob, tuple(text.encode()), tuple(top))


def _stopped_by(written: Written) -> str | None:
    gate = written.stopped_by
    return None if gate is None else f"feature {gate.latent} above {gate.above:g}"


def _one(watched: tuple[float, ...] | None) -> tuple[tuple[float, ...], ...] | None:
    return None if watched is None else (watched,)


def _any_seed() -> int:
    return int.from_bytes(os.urandom(4)) % (MOST_SEED + 1)
