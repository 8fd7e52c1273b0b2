"""The engine's events as parts of OpenAI's choices."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mistudio.steer.requests import Comparison, Delta, Done, Event, Finished, GenerationRequest, Usage
from model_servers.steer.answers import steering_of
from model_servers.steer.openai.choices import Choice, Shape, ending


@dataclass
class _Open:
    """A choice that goes on."""

    index: int
    request: GenerationRequest
    num_characters: int = 0
    finished: Finished | None = None

    @property
    def is_compared(self) -> bool:
        return self.request.steering is not None and self.request.steering.compare


class StreamedChoices:
    """All choices of an answer, as they come.

    A choice that is compared ends when the comparison is there, which is in its last part.

    Attributes:
        usages: tokens of the requests that are done.
    """

    def __init__(self, shape: Shape, requests: Sequence[GenerationRequest]) -> None:
        self._shape = shape
        self._open: list[list[_Open]] = []
        self.usages: list[Usage] = []
        index = 0
        for request in requests:
            self._open.append([_Open(index + number, request) for number in range(request.n)])
            index += request.n

    def openings(self) -> Iterator[Choice]:
        """What comes before the first event."""
        opening = self._shape.opening()
        if opening is not None:
            yield from ({"index": each.index, **opening, **ending(None)} for part in self._open for each in part)

    def of(self, part: int, event: Event) -> Iterator[Choice]:
        """The parts of choices that an event becomes."""
        if isinstance(event, Delta):
            yield from self._delta(self._open[part][event.index], event)
        elif isinstance(event, Finished):
            choice = self._open[part][event.index]
            choice.finished = event
            if not choice.is_compared:
                yield self._closing(choice, None)
        elif isinstance(event, Done):
            self.usages.append(event.usage)
            for number, choice in enumerate(self._open[part]):
                if choice.is_compared:
                    yield self._closing(choice, event.comparison if number == 0 else None)

    def _delta(self, choice: _Open, delta: Delta) -> Iterator[Choice]:
        steering = steering_of(choice.request, delta.watched or (), None)
        if delta.text or delta.logprobs or delta.watched:
            own = self._shape.delta(delta, choice.request, choice.num_characters)
            yield {"index": choice.index, **own, **ending(None), **steering}
        choice.num_characters += len(delta.text)

    def _closing(self, choice: _Open, comparison: Comparison | None) -> Choice:
        steering = steering_of(choice.request, (), comparison, choice.finished)
        return {"index": choice.index, **self._shape.closing(), **ending(choice.finished), **steering}
