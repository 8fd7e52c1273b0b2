"""Whole answers, put together from events; and the parts of an answer as JSON that all protocols share."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mistudio.steer.requests import Comparison, Delta, Done, Finished, GenerationRequest, TokenLogprob, Usage
from model_servers.steer.running import Run

LEAST_LOGPROB = -9999.0  # JSON has no infinity; OpenAI writes this


@dataclass
class Answer:
    """One of the answers to a request, as far as it has come."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    watched: list[tuple[float, ...]] = field(default_factory=list)
    finished: Finished | None = None

    def add(self, delta: Delta) -> None:
        """Go on."""
        self.text += delta.text
        self.logprobs += delta.logprobs or ()
        self.watched += delta.watched or ()


@dataclass
class Outcome:
    """All answers to one request."""

    answers: list[Answer]
    usage: Usage = Usage(0, 0)
    comparison: Comparison | None = None


async def outcomes(run: Run, requests: Sequence[GenerationRequest]) -> list[Outcome]:
    """Wait for all answers.

    Raises:
        Exception: what made a request fail.
    """
    found = [Outcome([Answer() for _ in range(request.n)]) for request in requests]
    async for part, event in run.events(at_once=False):
        outcome = found[part]
        if isinstance(event, Delta):
            outcome.answers[event.index].add(event)
        elif isinstance(event, Finished):
            outcome.answers[event.index].finished = event
        elif isinstance(event, Done):
            outcome.usage, outcome.comparison = event.usage, event.comparison
    return found


def usage_of(usages: Sequence[Usage]) -> dict[str, int]:
    """Tokens of all requests, as OpenAI writes them."""
    prompt = sum(usage.prompt_tokens for usage in usages)
    completion = sum(usage.completion_tokens for usage in usages)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def steering_of(
    request: GenerationRequest,
    watched: Sequence[Sequence[float]],
    comparison: Comparison | None,
    finished: Finished | None = None,
) -> dict[str, Any]:
    """What a choice says of steering; empty where nothing of that was asked for."""
    content: dict[str, Any] = {}
    if request.steering is not None and request.steering.watch:
        content["watched"] = _json(watched)
    if comparison is not None:
        content["comparison"] = _json(asdict(comparison))
    if finished is not None and finished.warnings:
        content["warnings"] = list(finished.warnings)
    return {"steering": content} if content else {}


def _json(value: Any) -> Any:
    """The value with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def finite(logprob: float) -> float:
    """A log-probability that JSON has."""
    return max(logprob, LEAST_LOGPROB)
