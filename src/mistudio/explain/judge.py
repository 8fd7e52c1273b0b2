"""What explainers and scorers ask of a language model, and what they get back.

A judge is an OpenAI-compatible endpoint (``endpoint``) or a local Hugging Face model (``llm_local``). Both take the
same three kinds of request and give the same replies, in the order of the requests. A request that cannot be
answered gets a reply that says why: nothing is left out.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

BUDGET_REACHED = "budget reached"
UNUSABLE = "the answer holds no JSON object with an explanation"  # of an answer that came, and was paid for


class Chat(NamedTuple):
    """Something to be answered in words."""

    system: str
    prompt: str
    max_tokens: int
    alternatives: int = 0  # how many other choices, with log-probabilities, to report for each token of the answer


class Likelihood(NamedTuple):
    """How likely ``text`` is after ``prompt``."""

    prompt: str
    text: str


class Embedding(NamedTuple):
    """Vectors that stand for some texts."""

    texts: tuple[str, ...]


Request = Chat | Likelihood | Embedding


class Usage(NamedTuple):
    """Tokens that were paid for."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total(self) -> int:
        """Tokens read and written."""
        return self.prompt_tokens + self.completion_tokens


class AnswerToken(NamedTuple):
    """One token of an answer, and the log-probabilities of what could have stood there, itself included."""

    text: str
    logprobs: tuple[tuple[str, float], ...]


class Reply(NamedTuple):
    """What a judge made of one request; which fields are filled depends on its kind."""

    text: str = ""
    tokens: tuple[AnswerToken, ...] | None = None  # of a chat, where log-probabilities were asked for and exist
    loss: float | None = None  # of a likelihood: nats a token of the text
    vectors: tuple[tuple[float, ...], ...] | None = None  # of an embedding
    usage: Usage = Usage()
    truncated: bool = False
    failure: str | None = None  # why there is no answer


@dataclass
class Spending:
    """What has been asked in a run, and what it takes.

    Attributes:
        answered: answers that were computed.
        found: answers that were remembered.
        retried: requests that were sent again.
        failed: requests that got no answer.
        unusable: answers that came and were not what was asked for.
        unusable_tokens: about as many as they took; they count for the budget of the run.
        answers: different answers in use, whichever run computed them.
        prompt_tokens: tokens read for those.
        completion_tokens: tokens written for them.
        usd: their price.
    """

    answered: int = 0
    found: int = 0
    retried: int = 0
    failed: int = 0
    unusable: int = 0
    unusable_tokens: int = 0
    answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0

    def use(self, usage: Usage, usd_per_million_in: float = 0.0, usd_per_million_out: float = 0.0) -> None:
        """Count an answer that comes into use."""
        self.answers += 1
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        # From the totals, so that the order of answers does not show in the last digit.
        self.usd = (self.prompt_tokens * usd_per_million_in + self.completion_tokens * usd_per_million_out) / 1e6

    def totals(self) -> dict[str, float]:
        """What the answers in use take; the same however often a run was interrupted."""
        return {name: getattr(self, name) for name in ("answers", "prompt_tokens", "completion_tokens", "usd")}


class Judge(Protocol):
    """A language model that answers requests."""

    model: str
    spending: Spending

    def ask(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """One reply a request, in their order; requests are drawn a bounded number ahead of the replies."""

    def forget(self, requests: Iterable[Request]) -> None:
        """Drop what is remembered of the answers to these, so that they are asked for again."""


def with_twice_the_room(chat: Chat) -> Chat:
    """What is asked where the answer was cut off."""
    return chat._replace(max_tokens=2 * chat.max_tokens)


def as_asked(request: Request) -> tuple[Request, ...]:
    """The request in all forms in which it may have been asked."""
    return (request, with_twice_the_room(request)) if isinstance(request, Chat) else (request,)


def texts_of(request: Request) -> tuple[str, ...]:
    """All texts that the request holds."""
    return request.texts if isinstance(request, Embedding) else (request[0], request[1])


def recipe_of(model: str, request: Request, settings: dict[str, Any]) -> str:
    """The sha256 that an answer is remembered by."""
    content = {"model": model, "kind": type(request).__name__, "request": request._asdict(), "settings": settings}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
