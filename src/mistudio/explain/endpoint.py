"""A judge behind an OpenAI-compatible endpoint: KServe's LLM runtime, vLLM, Ollama, llama.cpp or a hosted one.

Requests run a bounded number at a time on a thread of their own. What fails in passing (429, 5xx, time-outs,
connections that break, bodies that are no JSON) is sent again, with exponentially growing, jittered waits and never
before the time that the endpoint names. An answer that was cut off is asked for once more with twice the room. Each
answer is checked, loses the key if it repeats it, and is remembered before it is used, so a run that was killed asks
only for what is missing, and pays once. What the endpoint says of itself (tokens, waits, sizes) is believed within
bounds.
"""

import asyncio
import json
import logging
import math
import threading
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import openai

from mistudio.addresses import AddressRefused
from mistudio.errors import ConfigError, InputError
from mistudio.explain.judge import (
    BUDGET_REACHED,
    Chat,
    Embedding,
    Likelihood,
    Reply,
    Request,
    Spending,
    Usage,
    as_asked,
    recipe_of,
    texts_of,
    with_twice_the_room,
)
from mistudio.explain.llm_cache import AnswerCache
from mistudio.explain.llm_checks import Malformed, check_reply, on_one_line
from mistudio.explain.llm_config import KEY_VARIABLES, EndpointConfig
from mistudio.explain.llm_http import BoundedClient, TooLarge, largest_body
from mistudio.explain.llm_wire import arguments_of, estimated_tokens, largest_answer, read_answer, with_own_count
from mistudio.redaction import Secret, redact

logger = logging.getLogger(__name__)

_NO_KEY = "none"  # the client insists on one; endpoints of one's own need none
_WINDOW = 4  # requests drawn ahead, as a multiple of those that run
_REFUSALS = (401, 403, 404)  # of the whole endpoint or model, not of one request
_PASSING = (408, 409, 425, 429)
_SHOWN_CHARACTERS = 300
_TELLING_CHARACTERS = 12  # of a line: shorter ones may stand in any message
_LONGEST_WAIT_S = 1e9  # that is told


class Endpoint:
    """Answers requests through an endpoint; to be used in a ``with`` block, which ends its thread."""

    def __init__(self, config: EndpointConfig, answers: Path | None = None) -> None:
        """Get ready to ask; nothing is sent yet. Answers are kept in the folder ``answers``, if one is given.

        Raises:
            ConfigError: the key in the environment is none.
            StorageError: the answers cannot be opened.
        """
        self.config, self.model, self.spending = config, config.model, Spending()
        self._key = _key_of_environment()
        self._cache = AnswerCache(answers)
        self._client = openai.AsyncOpenAI(
            api_key=self._key.reveal() or _NO_KEY,
            base_url=config.base_url,
            timeout=config.timeout_s,
            max_retries=0,
            http_client=BoundedClient(),
        )
        self._slots = asyncio.Semaphore(config.concurrency)
        self._asking: dict[str, asyncio.Task[Reply]] = {}
        self._used: set[str] = set()
        self._draw = np.random.default_rng(config.seed)
        self._reserved = self._unanswered = 0
        self._spent_up = False
        self._not_before = 0.0  # the loop's time before which the endpoint wants to be left alone
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop what is under way and end the thread."""
        if self._loop.is_closed():
            return
        self._submit(self._stop()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._cache.close()

    def ask(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """One reply a request, in their order.

        Raises:
            InputError: the endpoint refuses key or model, or stopped answering.
            StorageError: answers cannot be kept.
        """
        waiting: deque[Future[Reply]] = deque()
        try:
            for request in requests:
                waiting.append(self._submit(self._settle(self._as_sent(request))))
                if len(waiting) >= _WINDOW * self.config.concurrency:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def forget(self, requests: Iterable[Request]) -> None:
        """Drop what is remembered of the answers to these, so that they are asked for again."""
        self._submit(self._forget(list(requests))).result()

    async def _forget(self, requests: list[Request]) -> None:
        for asked in requests:
            for sent in as_asked(self._as_sent(asked)):
                self._cache.drop(recipe_of(self._model_for(sent), sent, self.config.sampling()))

    def _submit(self, work: Coroutine[Any, Any, Any]) -> "Future[Any]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _stop(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()

    def _as_sent(self, request: Request) -> Request:
        """The request with the room that the settings allow, and without what the endpoint refuses."""
        if not isinstance(request, Chat):
            return request
        limit = min(request.max_tokens, self.config.max_output_tokens) + self.config.thinking_tokens
        return request._replace(max_tokens=limit, alternatives=request.alternatives if self.config.logprobs else 0)

    async def _settle(self, request: Request) -> Reply:
        """The answer, or the one to the same request with twice the room."""
        reply = await self._answer(request)
        if reply.truncated and isinstance(request, Chat):
            request = with_twice_the_room(request)
            reply = await self._answer(request)
            if reply.truncated:
                return reply._replace(failure=f"the answer was cut off at {request.max_tokens} tokens")
        return reply

    async def _answer(self, request: Request) -> Reply:
        recipe = recipe_of(self._model_for(request), request, self.config.sampling())
        if recipe in self._asking:
            found: Reply | None = await self._asking[recipe]
        else:
            found = self._cache.get(recipe, lambda reply: self._checked(request, reply))
        if found is not None:
            if found.failure is None:
                self.spending.found += 1
                self._use(recipe, found.usage)
            return found
        task = self._asking[recipe] = asyncio.ensure_future(self._fetch(recipe, request))
        task.add_done_callback(lambda _task: self._asking.pop(recipe, None))
        return await task

    def _model_for(self, request: Request) -> str:
        return self.config.embeds_with if isinstance(request, Embedding) else self.model

    async def _fetch(self, recipe: str, request: Request) -> Reply:
        """Pay for an answer and keep it."""
        async with self._slots:
            reserve = estimated_tokens(request)
            if not self._can_afford(reserve):
                self.spending.failed += 1
                return Reply(failure=f"{BUDGET_REACHED} ({self.config.token_budget:,} tokens)")
            self._reserved += reserve
            try:
                reply = await self._send(request)
            finally:
                self._reserved -= reserve
        if reply.failure is None:
            self.spending.answered += 1
            self._use(recipe, reply.usage)
            self._cache.put(recipe, reply)
        else:
            self.spending.failed += 1
        return reply

    def _can_afford(self, reserve: int) -> bool:
        """Whether the answer fits into the budget; once one did not, none does, so that the end is a clean one."""
        if self.config.token_budget is not None:
            spent = self.spending.prompt_tokens + self.spending.completion_tokens + self.spending.unusable_tokens
            committed = spent + self._reserved
            self._spent_up = self._spent_up or committed + reserve > self.config.token_budget
        return not self._spent_up

    def _use(self, recipe: str, usage: Usage) -> None:
        """Count an answer, once."""
        if recipe not in self._used:
            self._used.add(recipe)
            self.spending.use(usage, self.config.usd_per_million_in, self.config.usd_per_million_out)

    async def _send(self, request: Request) -> Reply:
        """Send a request until it is answered, refused, or out of retries."""
        trouble = ""
        for attempt in range(self.config.retries + 1):
            if attempt:
                self.spending.retried += 1
            await asyncio.sleep(self._not_before - self._loop.time())
            try:
                async with asyncio.timeout(self.config.timeout_s):
                    reply = await self._exchange(request)
            except openai.APIStatusError as error:
                trouble = self._clean(error.message, request)
                if not _may_pass(error.status_code):
                    return self._refused(error, request, trouble)
                named, kind = _named_wait_s(error), f"status {error.status_code}"
            except TooLarge as error:
                self._count_unusable(request)
                trouble = str(error)
                break
            except (openai.APIConnectionError, openai.APIResponseValidationError, TimeoutError, ValueError) as error:
                if isinstance(error, Malformed):
                    self._count_unusable(request)
                trouble, named = self._clean(f"{type(error).__name__}: {_reason(error)}", request), None
                kind = type(error).__name__
            else:
                self._unanswered = 0
                return reply
            if named is not None and named > self.config.max_wait_s:
                trouble = f"{trouble} (it asks to wait {min(named, _LONGEST_WAIT_S):.0f} s, longer than max_wait_s)"
                break
            await self._wait(attempt, named, kind)
        return self._given_up(trouble)

    def _count_unusable(self, request: Request) -> None:
        """Count an answer that came and cannot be used: it was paid for all the same."""
        self.spending.unusable += 1
        self.spending.unusable_tokens += estimated_tokens(request)

    def _checked(self, request: Request, reply: Reply) -> Reply:
        """An answer as it may be used and written down: with plausible numbers, and without the key."""
        reply = check_reply(request, with_own_count(request, reply))
        if not self._key.is_long or self._key.reveal() not in reply.text:
            return reply
        # The log-probabilities stand beside its tokens, in which the key is spelled.
        return reply._replace(text=self._key.hide_in(reply.text), tokens=None)

    async def _exchange(self, request: Request) -> Reply:
        model, config = self._model_for(request), self.config
        arguments = arguments_of(request, model, config.limit_field, config.sampling())
        create: Any = {
            Chat: self._client.chat.completions.with_raw_response.create,
            Likelihood: self._client.completions.with_raw_response.create,
            Embedding: self._client.embeddings.with_raw_response.create,
        }[type(request)]
        with largest_body(largest_answer(request)):
            response = await create(**arguments)
        return self._checked(request, read_answer(request, response.content))

    async def _wait(self, attempt: int, named_s: float | None, kind: str) -> None:
        """Wait before the next attempt; a time that the endpoint names holds for all requests.

        Of the trouble only its kind goes to the log: the endpoint's own words may repeat what it was asked.
        """
        if attempt >= self.config.retries:
            return
        grown_s = min(self.config.backoff_s * 2**attempt, self.config.max_wait_s)
        wait_s = grown_s * float(self._draw.uniform(0.5, 1.0))
        if named_s is not None:
            self._not_before = max(self._not_before, self._loop.time() + named_s)
            wait_s = max(wait_s, named_s + wait_s / 10)
        logger.info("%s: %s; trying again in %.1f s", self.model, kind, wait_s)
        await asyncio.sleep(wait_s)

    def _refused(self, error: openai.APIStatusError, request: Request, trouble: str) -> Reply:
        if error.response.has_redirect_location:
            place = self._clean(error.response.headers["location"], request)
            message = (
                f"The endpoint {self.config.base_url} points to another address, {place}. Nothing is sent there "
                "unasked: if it is the right one, give it as the address."
            )
            raise InputError(message) from None
        if error.status_code not in _REFUSALS:
            return Reply(failure=trouble)
        message = (
            f"The endpoint {self.config.base_url} refuses model {self.model!r}: {trouble}. Check the address, the name "
            f"of the model and the key in the environment variable {KEY_VARIABLES[0]}."
        )
        raise InputError(message) from None  # the endpoint's own words are not shown

    def _given_up(self, trouble: str) -> Reply:
        self._unanswered += 1
        if self._unanswered < self.config.give_up_after:
            return Reply(failure=trouble)
        message = (
            f"The endpoint {self.config.base_url} answered none of the last {self._unanswered} requests; the last "
            f"trouble: {trouble}. What was answered is kept: run again when it is back, and only the rest is asked."
        )
        raise InputError(message)

    def _clean(self, message: str, request: Request) -> str:
        """An error message short enough to show, without the key and the texts, which some endpoints repeat."""
        for text in texts_of(request):
            for line in text.splitlines():
                if len(line) >= _TELLING_CHARACTERS:
                    message = message.replace(line, "...").replace(json.dumps(line)[1:-1], "...")
        return on_one_line(redact(self._key.hide_in(message)))[:_SHOWN_CHARACTERS].rstrip(".")


def _key_of_environment() -> Secret:
    """The key to send; empty where there is none.

    Raises:
        ConfigError: it cannot be one.
    """
    key = Secret.from_environment(KEY_VARIABLES)
    if not key.is_sendable:
        message = (
            f"The key in the environment ({' or '.join(KEY_VARIABLES)}) has white space or other than ASCII characters "
            "inside. A key is one word: look at where it comes from."
        )
        raise ConfigError(message)
    return key


def _reason(error: Exception) -> Exception:
    """What lies below an error of the client.

    Raises:
        AddressRefused: the address leads where nothing is sent, which no retry changes.
    """
    reason = error.__cause__ if isinstance(error, openai.APIError) else None
    if isinstance(reason, AddressRefused):
        raise reason from None
    return reason if isinstance(reason, Exception) else error


def _may_pass(status: int) -> bool:
    return status in _PASSING or status >= 500


def _named_wait_s(error: openai.APIStatusError) -> float | None:
    """The seconds that the endpoint asks to wait (Retry-After: a number, or a date), if it does."""
    headers = error.response.headers
    named = headers.get("retry-after", "")
    with suppress(ValueError):
        wait_s = float(headers["retry-after-ms"]) / 1000 if "retry-after-ms" in headers else float(named)
        return None if math.isnan(wait_s) else max(wait_s, 0.0)
    with suppress(TypeError, ValueError, KeyError, OverflowError):
        wait = parsedate_to_datetime(named) - parsedate_to_datetime(headers["date"])
        return max(wait.total_seconds(), 0.0)
    return None
