"""Requests at the engine, as the event loop sees them.

Checks, tokenising and submitting happen on a pool's thread, events come from the engine's: the loop only waits.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, NamedTuple

from mistudio.steer.requests import Done, Event, Failed, GenerationRequest
from model_servers.steer.metrics import Watch

if TYPE_CHECKING:  # torch comes with it, which is loaded when the model is
    from mistudio.steer.callers import Caller
    from mistudio.steer.service import SteerService
    from mistudio.steer.tickets import Ticket

Make = Callable[[], Sequence[GenerationRequest]]


class PartEvent(NamedTuple):
    """An event of one of the requests that were made of a client's."""

    part: int
    event: Event


class Mailbox:
    """Brings events from the engine's thread to the event loop: all of a step by one call, whatever runs they are of.

    Args:
        loop: where the runs are.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[tuple[Run, PartEvent]] = deque()
        self._is_announced = False

    def put(self, run: "Run", event: PartEvent) -> None:
        """From any thread."""
        self._waiting.append((run, event))
        if not self._is_announced and not self._loop.is_closed():
            self._is_announced = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_announced = False  # before all is taken: what is put meanwhile is announced again
        while self._waiting:
            run, event = self._waiting.popleft()
            run.receive(event)


class Run:
    """What a client asked for: one request of the engine, or several.

    Args:
        service: that generates.
        pool: whose threads check and tokenise.
        mailbox: that brings its events.
        watch: what counts it.
        caller: who asks.
    """

    def __init__(
        self,
        service: "SteerService",
        pool: Executor,
        mailbox: Mailbox,
        watch: Watch,
        caller: "Caller",
    ) -> None:
        self._caller = caller
        self._service, self._pool, self._mailbox, self._watch = service, pool, mailbox, watch
        self._events: deque[PartEvent] = deque()
        self._has_events = asyncio.Event()
        self._tells_each = False
        self._tickets: list[Ticket] = []
        self._num_left = 0
        self._is_cancelled = False

    async def start(self, make: Make) -> Sequence[GenerationRequest]:
        """Make the requests, and submit all of them or none.

        Raises:
            InputError: one asks for what cannot be done.
            Unavailable: the engine is at as much as it takes, or about to end.
        """
        submitting = asyncio.get_running_loop().run_in_executor(self._pool, self._submit, make)
        try:
            requests = await asyncio.shield(submitting)
        except asyncio.CancelledError:
            self.cancel()
            submitting.add_done_callback(_seen)
            raise
        self._num_left = len(requests)
        return requests

    def cancel(self) -> None:
        """Free what the requests hold; nothing where they are done."""
        if self._num_left and not self._is_cancelled:
            self._watch.left()
        self._is_cancelled = True
        for ticket in self._tickets:
            ticket.cancel()

    async def events(self, *, at_once: bool = True) -> AsyncIterator[PartEvent]:
        """All events, those of one part in their order.

        Args:
            at_once: each as it comes, and not all that there are when a part is at its end.

        Raises:
            Exception: what made a part fail.
        """
        self._tells_each = at_once
        while self._num_left:
            while not self._events:
                self._has_events.clear()
                await self._has_events.wait()
            part, event = self._events.popleft()
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Done):
                self._num_left -= 1
            if not self._num_left:
                self._watch.done()
            yield PartEvent(part, event)

    def receive(self, event: PartEvent) -> None:
        """An event that came; on the event loop."""
        self._watch.see(event.event)
        self._events.append(event)
        if self._tells_each or isinstance(event.event, Done | Failed):
            self._has_events.set()

    def _submit(self, make: Make) -> Sequence[GenerationRequest]:
        requests = make()
        prepared = [self._service.prepare(request) for request in requests]
        try:
            for part, each in enumerate(prepared):
                self._tickets.append(self._service.submit(each, self._receiver(part), self._caller))
        except Exception:
            self.cancel()
            raise
        if self._is_cancelled:  # while it was submitted
            self.cancel()
        return requests

    def _receiver(self, part: int) -> Callable[[Event], None]:
        def receive(event: Event) -> None:
            self._mailbox.put(self, PartEvent(part, event))

        return receive


def _seen(submitting: "asyncio.Future[Sequence[GenerationRequest]]") -> None:
    """Nobody waits for it: what it raised is no loss."""
    if not submitting.cancelled():
        submitting.exception()
