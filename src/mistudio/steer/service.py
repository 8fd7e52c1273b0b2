"""The service that generates: requests from any thread, one thread that runs the model.

::

    with SteerService(nameable, name="demo") as service:
        for event in service.events(service.prepare(request)):
            ...

Requests wait in order for rows of the engine. Between two steps of those under way new ones are let in, as many as
there are rows and as their prompts may take time. A request whose holder has gone frees its rows before the next step.
"""

import logging
import queue
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Self

from mistudio.errors import Busy, Draining, MistudioError, Unavailable
from mistudio.instrument.compiled import Nameable
from mistudio.instrument.engine import Generation, Written
from mistudio.instrument.listening import Listener
from mistudio.instrument.prompts import PromptReader
from mistudio.steer.audit import AuditLog
from mistudio.steer.audit_chain import Outcome
from mistudio.steer.callers import Caller
from mistudio.steer.comparing import compare, plain_logprobs
from mistudio.steer.config import ServiceConfig
from mistudio.steer.guard import collapse
from mistudio.steer.preparing import Preparer
from mistudio.steer.preset_use import NamedEdits
from mistudio.steer.recording import Recorder
from mistudio.steer.requests import Done, Event, Failed, GenerationRequest
from mistudio.steer.service_parts import ServiceStats, new_engine
from mistudio.steer.tickets import Answer, Prepared, Ticket

logger = logging.getLogger(__name__)

_IDLE_S = 0.5


class SteerService:
    """Answers requests with a session's model; start it, or use it in a ``with`` block.

    Args:
        nameable: the session, and what edits can name in it.
        name: of the model, as requests call it.
        config: how much is done at once.
        chat_template: to be used in place of the tokenizer's own.
        presets: finds the edits of a preset by its name; None: there are none.
        audit: where every request that changes the model is written down; None: nowhere.
        listener: who else follows all answers as they are written; None: nobody.

    Raises:
        SubjectError: the model is an encoder.
    """

    def __init__(
        self,
        nameable: Nameable,
        name: str,
        config: ServiceConfig | None = None,
        chat_template: str | None = None,
        presets: Callable[[str], NamedEdits] | None = None,
        audit: AuditLog | None = None,
        listener: Listener | None = None,
    ) -> None:
        self._listener = listener
        self.nameable, self.name, self.config = nameable, name, config or ServiceConfig()
        self._recorder = Recorder(audit, name) if audit is not None else None
        subject = nameable.session.subject
        self.reader = PromptReader(subject, chat_template)
        self._tokenizer, self._ends = subject.tokenizer, subject.ending_ids
        self.engine = new_engine(nameable.session, self.config)
        self._preparer = Preparer(nameable, self.reader, self.config, self.engine.num_slots, presets)
        self._waiting: deque[Ticket] = deque()
        self._starting: list[Ticket] = []  # no longer waiting, and not yet running
        self._running: dict[Generation, tuple[Ticket, Answer]] = {}
        self._changed = threading.Condition(threading.RLock())
        self._counts: Counter[str] = Counter()
        self._is_draining, self._is_closed = False, False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def max_tokens(self) -> int:
        """Tokens of a prompt and its answer."""
        return self.engine.num_slots

    @property
    def is_running(self) -> bool:
        """Whether requests are answered."""
        return self._thread is not None and self._thread.is_alive() and not self._is_closed

    def start(self) -> None:
        """Begin to answer."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="steer", daemon=True)
            self._thread.start()

    def prepare(self, request: GenerationRequest) -> Prepared:
        """Check a request, and get ready all that it needs: see :class:`~mistudio.steer.preparing.Preparer`."""
        prepared = self._preparer.prepare(request)
        self.engine.check(Generation(prepared.prompt, prepared.limit))
        return prepared

    def submit(self, prepared: Prepared, tell: Callable[[Event], None], caller: Caller | None = None) -> Ticket:
        """Let a request wait for its rows.

        Args:
            prepared: what is asked for.
            tell: is called with each event, on the service's thread; the last is ``Done`` or ``Failed``.
            caller: who asks, for the log of interventions; None: nobody in particular.

        Raises:
            Busy: too many wait already.
            Draining: the service is about to end.
            Unavailable: the log of interventions cannot be written.
        """
        caller = caller or Caller(f"local-{uuid.uuid4().hex}")
        followed = self._listener.follow(caller.request, caller.key) if self._listener is not None else None
        ticket = Ticket(prepared, tell, self._tokenizer, self._ends, followed)
        ticket.caller = caller
        try:
            self._take(ticket)
        except Unavailable:
            ticket.leave()
            raise
        return ticket

    def _take(self, ticket: Ticket) -> None:
        """Put a request into the queue, once it is written down that it changes the model."""
        prepared = ticket.prepared
        self._check_room(prepared)
        is_recorded = self._recorder is not None and prepared.edits is not None
        if self._recorder is not None and is_recorded:
            self._recorder.admitted(prepared, ticket.caller)
        try:
            self._queue(ticket)
        except Unavailable:
            if self._recorder is not None and is_recorded:
                self._recorder.ended(prepared, ticket.caller, "refused", None)
            raise

    def _check_room(self, prepared: Prepared) -> None:
        """Refuse a request that there is no room for."""
        with self._changed:
            if self._is_draining or self._is_closed:
                message = "The server is shutting down: send the request to another one, or later."
                raise Draining(message)
            waiting = sum(not other.is_cancelled for other in self._waiting)
            must_wait = bool(waiting) or self._in_use + prepared.rows > self.config.rows
            if must_wait and waiting >= self.config.queue:
                message = f"{waiting} requests are waiting already, as many as may: send it again a little later."
                raise Busy(message, self._retry_after())

    def _queue(self, ticket: Ticket) -> None:
        with self._changed:
            self._check_room(ticket.prepared)
            self._waiting.append(ticket)
            self._counts["requests"] += 1
            self._changed.notify_all()

    def events(self, prepared: Prepared) -> Iterator[Event]:
        """Submit a request, and give its events as they come; leaving early cancels it.

        Raises:
            Unavailable: it was not taken.
        """
        told: queue.SimpleQueue[Event] = queue.SimpleQueue()
        ticket = self.submit(prepared, told.put)
        try:
            while True:
                event = told.get()
                yield event
                if isinstance(event, Done | Failed):
                    return
        finally:
            ticket.cancel()

    def stats(self) -> ServiceStats:
        """What is going on."""
        counts = self._counts
        return ServiceStats(
            rows=self.config.rows,
            rows_in_use=self._in_use,
            waiting=len(self._waiting),
            **{
                name: counts[name]
                for name in (
                    "requests",
                    "cancelled",
                    "failed",
                    "collapsed",
                    "prompt_tokens",
                    "generated_tokens",
                    "steered_tokens",
                    "steps",
                )
            },
        )

    def drain(self, timeout_s: float) -> bool:
        """Take no more requests, and wait until those that were taken are answered; whether they all are."""
        with self._changed:
            self._is_draining = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not (self._waiting or self._starting or self._running), timeout_s)

    def close(self) -> None:
        """End; what is under way fails."""
        with self._changed:
            self._is_draining = self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._recorder is not None:
            self._recorder.close()

    def _retry_after(self) -> float:
        """Seconds until a row may be free: what a request has taken on average."""
        done = max(self._counts["answered"], 1)
        return min(max(self._counts["busy_ms"] / 1000 / done, 1.0), 60.0)

    @property
    def _in_use(self) -> int:
        return len(self._running)

    # The thread that runs the model

    def _work(self) -> None:
        with self.engine:
            while not self._is_closed:
                try:
                    self._turn()
                except Exception as error:
                    logger.exception("The service failed in a step: what was under way is lost")
                    self._fail_all(error)
        self._fail_all(Draining("The server was shut down before the answer was complete."))

    def _turn(self) -> None:
        """Let go of those that left, let new ones in, and go on with all by a token."""
        self._forget_cancelled()
        arrived = self._arrived()
        if arrived:
            self._admit(arrived)
            self._starting = []
        if self._running:
            self._counts["steps"] += 1
            self._pass_on(self.engine.step())
        with self._changed:
            self._changed.notify_all()
            if not self._running and not self._waiting and not self._is_closed:
                self._changed.wait(_IDLE_S)

    def _forget_cancelled(self) -> None:
        for generation, (ticket, _) in list(self._running.items()):
            if ticket.is_cancelled:
                self.engine.stop(generation)
                self._leave(generation)
        with self._changed:
            gone = [ticket for ticket in self._waiting if ticket.is_cancelled]
            for ticket in gone:
                self._waiting.remove(ticket)
        for ticket in gone:
            self._gone(ticket)

    def _leave(self, generation: Generation) -> None:
        ticket, _ = self._running.pop(generation)
        if not any(other is ticket for other, _ in self._running.values()) and not ticket.is_over:
            self._gone(ticket)

    def _gone(self, ticket: Ticket) -> None:
        """Note that nobody waits for a request any more."""
        self._counts["cancelled"] += 1
        ticket.leave()
        self._record(ticket, "cancelled")

    def _arrived(self) -> list[Ticket]:
        """The next requests, as far as there are rows and their prompts may take time."""
        arrived: list[Ticket] = []
        free, tokens = self.engine.free_rows, 0
        with self._changed:
            while self._waiting and self._waiting[0].prepared.rows <= free:
                length = self._waiting[0].prepared.prompt.length
                if (self._running or arrived) and tokens + length > self.config.prompt_tokens_between_steps and tokens:
                    break
                ticket = self._waiting.popleft()
                free, tokens = free - ticket.prepared.rows, tokens + length
                arrived.append(ticket)
            self._starting = list(arrived)
        return arrived

    def _admit(self, tickets: Sequence[Ticket]) -> None:
        """Start the answers of some requests together; where that fails, one by one, to see whose fault it is."""
        answers = {answer.generation: (ticket, answer) for ticket in tickets for answer in ticket.answers}
        try:
            written = self.engine.start(list(answers))
        except Exception as error:
            if len(tickets) > 1:
                for ticket in tickets:
                    self._admit([ticket])
                return
            if not isinstance(error, MistudioError):
                logger.exception("A request could not be started")
            self._lose(tickets[0], error)
            return
        self._running |= answers
        now = time.monotonic()
        for ticket in tickets:
            ticket.started_at = now
            self._counts["prompt_tokens"] += ticket.prepared.prompt.length
        self._pass_on(written)

    def _pass_on(self, written: Iterable[Written]) -> None:
        for one in written:
            ticket, answer = self._running[one.generation]
            self._counts["generated_tokens"] += one.token is not None
            self._counts["steered_tokens"] += one.token is not None and one.generation.edits is not None
            if ticket.take(answer, one) or self._has_collapsed(ticket, answer):
                self.engine.stop(one.generation)
                del self._running[one.generation]
                if all(each.reason is not None for each in ticket.answers):
                    self._finish(ticket)

    def _has_collapsed(self, ticket: Ticket, answer: Answer) -> bool:
        """Whether the guard ends a steered answer."""
        if answer.generation.edits is None or not answer.generation.edits.terms:
            return False
        guard, tokens = self.config.guard, answer.generation.tokens
        plain: list[float] | None = None
        if guard.needs_plain and len(tokens) % guard.perplexity_window == 0:
            plain = plain_logprobs(self.engine, ticket.prepared.prompt, tokens)
        why = collapse(tokens, guard, plain)
        if why is None:
            return False
        self._counts["collapsed"] += 1
        return ticket.end(answer, "content_filter", why)

    def _finish(self, ticket: Ticket) -> None:
        """The last event of a request."""
        comparison = None
        if ticket.prepared.compares and not ticket.is_cancelled:
            steered, plain = ticket.answers
            try:
                comparison = compare(self.engine, ticket.prepared, steered, plain, self._tokenizer)
            except Exception as error:
                if not isinstance(error, MistudioError):
                    logger.exception("Two answers could not be compared")
                self._lose(ticket, error)
                return
        self._counts["answered"] += 1
        self._counts["busy_ms"] += int((time.monotonic() - ticket.started_at) * 1000)
        first = ticket.answers[0]
        self._record(ticket, first.reason or "stop", first.detail)
        ticket.close(Done(ticket.usage(), comparison))

    def _fail_all(self, error: Exception) -> None:
        """Nothing of what was under way or waiting is answered."""
        with self._changed:
            tickets = [*dict.fromkeys([*self._starting, *(ticket for ticket, _ in self._running.values())])]
            self._starting = []
            if isinstance(error, Unavailable):
                tickets += self._waiting
                self._waiting.clear()
            for generation in list(self._running):
                self.engine.stop(generation)
            self._running.clear()
            self._changed.notify_all()
        for ticket in tickets:
            self._lose(ticket, error)

    def _lose(self, ticket: Ticket, error: Exception) -> None:
        """End a request that cannot be answered."""
        self._counts["failed"] += 1
        self._record(ticket, "failed", type(error).__name__)
        ticket.fail(error)

    def _record(self, ticket: Ticket, outcome: Outcome, detail: str | None = None) -> None:
        """Write down what came of a request that changes the model."""
        if self._recorder is not None and ticket.prepared.edits is not None:
            self._recorder.ended(ticket.prepared, ticket.caller, outcome, detail)
