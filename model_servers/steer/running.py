"""Requests at the engine, as the event loop sees them.

Checks, tokenising and submitting happen on a pool's thread, events come from the engine's: the loop only waits.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, NamedTuple

from mistudio.steer.requests import Done, Event, Failed, GenerationRequest
from model_servers.steer.metrics import Watch

if TYPE_CHECKING:  # torch comes with it, which is loaded when the model is
    from mistudio.steer.service import SteerService
    from mistudio.steer.tickets import Ticket

Make = Callable[[], Sequence[GenerationRequest]]


class PartEvent(NamedTuple):
    """An event of one of the requests that were made of a client's."""

    part: int
    event: Event


class Run:
    """What a client asked for: one request of the engine, or several.

    Args:
        service: that generates.
        pool: whose threads check and tokenise.
        watch: what counts it.
    """

    def __init__(self, service: "SteerService", pool: Executor, watch: Watch) -> None:
        self._service = service
        self._pool = pool
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[PartEvent] = asyncio.Queue()
        self._tickets: list[Ticket] = []
        self._num_left = 0
        self._is_cancelled = False

    async def start(self, make: Make) -> Sequence[GenerationRequest]:
        """Make the requests, and submit all of them or none.

        Raises:
            InputError: one asks for what cannot be done.
            Unavailable: the engine is at as much as it takes, or about to end.
        """
        submitting = self._loop.run_in_executor(self._pool, self._submit, make)
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

    async def events(self) -> AsyncIterator[PartEvent]:
        """All events, those of one part in their order.

        Raises:
            Exception: what made a part fail.
        """
        while self._num_left:
            found = await self._events.get()
            if isinstance(found.event, Failed):
                raise found.event.error
            self._watch.see(found.event)
            self._num_left -= isinstance(found.event, Done)
            if not self._num_left:
                self._watch.done()
            yield found

    def _submit(self, make: Make) -> Sequence[GenerationRequest]:
        requests = make()
        prepared = [self._service.prepare(request) for request in requests]
        try:
            for part, each in enumerate(prepared):
                self._tickets.append(self._service.submit(each, self._receiver(part)))
        except Exception:
            self.cancel()
            raise
        if self._is_cancelled:  # while it was submitted
            self.cancel()
        return requests

    def _receiver(self, part: int) -> Callable[[Event], None]:
        def receive(event: Event) -> None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._events.put_nowait, PartEvent(part, event))

        return receive


def _seen(submitting: "asyncio.Future[Sequence[GenerationRequest]]") -> None:
    """Nobody waits for it: what it raised is no loss."""
    if not submitting.cancelled():
        submitting.exception()
