"""OpenAI's answers, whole and as server-sent events."""

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from mistudio.steer.requests import GenerationRequest
from model_servers.base.problems import content_of, problem_of
from model_servers.base.replies import json_bytes
from model_servers.steer.answers import Outcome, steering_of, usage_of
from model_servers.steer.openai.choices import Choice, Shape, ending
from model_servers.steer.openai.streaming import StreamedChoices
from model_servers.steer.running import Run

_PATH = "/openai"


class Reply:
    """The answer to one request of a client's, which may be several of the engine's.

    Args:
        shape: of the endpoint.
        model: name of the model.
        requests: the engine's; choices of the first come first.
    """

    def __init__(self, shape: Shape, model: str, requests: Sequence[GenerationRequest]) -> None:
        self._shape = shape
        self._requests = requests
        self._head = {"id": f"{shape.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._chunk_head = json_bytes({**self._head, "object": shape.chunk_name})[:-1] + b',"choices":'

    def whole(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """The answer in one piece."""
        choices: list[Choice] = []
        for request, outcome in zip(self._requests, outcomes, strict=True):
            for number, answer in enumerate(outcome.answers):
                comparison = outcome.comparison if number == 0 else None
                own = self._shape.choice(answer, request) | ending(answer.finished)
                choices.append(
                    {"index": len(choices), **own, **steering_of(request, answer.watched, comparison, answer.finished)}
                )
        usage = usage_of([outcome.usage for outcome in outcomes])
        return {**self._head, "object": self._shape.object_name, "choices": choices, "usage": usage}

    async def events(self, run: Run, *, includes_usage: bool) -> AsyncIterator[bytes]:
        """The answer as it comes; what goes wrong on the way is an event too, and the last one."""
        streamed = StreamedChoices(self._shape, self._requests)
        no_usage = b',"usage":null' if includes_usage else b""
        try:
            for choice in streamed.openings():
                yield self._event([choice], no_usage)
            async for part, event in run.events():
                for choice in streamed.of(part, event):
                    yield self._event([choice], no_usage)
            if includes_usage:
                yield self._event([], b',"usage":' + json_bytes(usage_of(streamed.usages)))
            yield b"data: [DONE]\n\n"
        except Exception as error:
            yield _sent(content_of(problem_of(error), _PATH))
        finally:
            run.cancel()

    def _event(self, choices: list[Choice], usage: bytes) -> bytes:
        """A chunk; all of it but the choices is the same each time, and written once."""
        return b"".join((b"data: ", self._chunk_head, json_bytes(choices), usage, b"}\n\n"))


def _sent(content: dict[str, Any]) -> bytes:
    return b"data: " + json_bytes(content) + b"\n\n"
