"""A judge behind an OpenAI-compatible endpoint: KServe's LLM runtime, vLLM, Ollama, llama.cpp or a hosted one.

Requests run a bounded number at a time on a thread of their own. What fails in passing (429, 5xx, time-outs,
connections that break, bodies that are no JSON) is sent again, with exponentially growing, jittered waits and never
before the time that the endpoint names. An answer that was cut off is asked for once more with twice the room. Each
answer is remembered before it is used, so a run that was killed asks only for what is missing, and pays once.
"""

import asyncio
import logging
import math
import os
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

from mistudio.errors import InputError
from mistudio.explain.judge import (
    BUDGET_REACHED,
    Chat,
    Embedding,
    Likelihood,
    Reply,
    Request,
    Spending,
    Usage,
    recipe_of,
)
from mistudio.explain.llm_cache import AnswerCache
from mistudio.explain.llm_config import KEY_VARIABLES, EndpointConfig
from mistudio.explain.llm_wire import arguments_of, estimated_tokens, read_answer

logger = logging.getLogger(__name__)

_NO_KEY = "none"  # the client insists on one; endpoints of one's own need none
_WINDOW = 4  # requests drawn ahead, as a multiple of those that run
_REFUSALS = (401, 403, 404)  # of the whole endpoint or model, not of one request
_PASSING = (408, 409, 425, 429)
_SHOWN_CHARACTERS = 300


class Endpoint:
    """Answers requests through an endpoint; to be used in a ``with`` block, which ends its thread."""

    def __init__(self, config: EndpointConfig, answers: Path | None = None) -> None:
        """Get ready to ask; nothing is sent yet. Answers are kept in the folder ``answers``, if one is given."""
        self.config, self.model, self.spending = config, config.model, Spending()
        self._cache = AnswerCache(answers)
        self._key = next((value for name in KEY_VARIABLES if (value := os.environ.get(name))), _NO_KEY)
        self._client = openai.AsyncOpenAI(
            api_key=self._key, base_url=config.base_url, timeout=config.timeout_s, max_retries=0
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
            request = request._replace(max_tokens=2 * request.max_tokens)
            reply = await self._answer(request)
            if reply.truncated:
                return reply._replace(failure=f"the answer was cut off at {request.max_tokens} tokens")
        return reply

    async def _answer(self, request: Request) -> Reply:
        recipe = recipe_of(self._model_for(request), request, self.config.sampling())
        if recipe in self._asking:
            found: Reply | None = await self._asking[recipe]
        else:
            found = self._cache.get(recipe)
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
            committed = self.spending.prompt_tokens + self.spending.completion_tokens + self._reserved
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
                trouble = self._clean(error.message)
                if not _may_pass(error.status_code):
                    return self._refused(error.status_code, trouble)
                named = _named_wait_s(error)
            except (openai.APIConnectionError, openai.APIResponseValidationError, TimeoutError, ValueError) as error:
                trouble, named = self._clean(f"{type(error).__name__}: {error.__cause__ or error}"), None
            else:
                self._unanswered = 0
                return reply
            if named is not None and named > self.config.max_wait_s:
                trouble = f"{trouble} (it asks to wait {named:.0f} s, longer than max_wait_s)"
                break
            await self._wait(attempt, named, trouble)
        return self._given_up(trouble)

    async def _exchange(self, request: Request) -> Reply:
        model, config = self._model_for(request), self.config
        arguments = arguments_of(request, model, config.limit_field, config.sampling())
        create: Any = {
            Chat: self._client.chat.completions.create,
            Likelihood: self._client.completions.create,
            Embedding: self._client.embeddings.create,
        }[type(request)]
        return read_answer(request, await create(**arguments))

    async def _wait(self, attempt: int, named_s: float | None, trouble: str) -> None:
        """Wait before the next attempt; a time that the endpoint names holds for all requests."""
        if attempt >= self.config.retries:
            return
        grown_s = min(self.config.backoff_s * 2**attempt, self.config.max_wait_s)
        wait_s = grown_s * float(self._draw.uniform(0.5, 1.0))
        if named_s is not None:
            self._not_before = max(self._not_before, self._loop.time() + named_s)
            wait_s = named_s + wait_s / 10
        logger.info("%s: %s; trying again in %.1f s", self.model, trouble, wait_s)
        await asyncio.sleep(wait_s)

    def _refused(self, status: int, trouble: str) -> Reply:
        if status not in _REFUSALS:
            return Reply(failure=trouble)
        message = (
            f"The endpoint {self.config.base_url} refuses model {self.model!r}: {trouble}. Check the address, the name "
            f"of the model and the key in the environment variable {KEY_VARIABLES[0]}."
        )
        raise InputError(message)

    def _given_up(self, trouble: str) -> Reply:
        self._unanswered += 1
        if self._unanswered < self.config.give_up_after:
            return Reply(failure=trouble)
        message = (
            f"The endpoint {self.config.base_url} answered none of the last {self._unanswered} requests; the last "
            f"trouble: {trouble}. What was answered is kept: run again when it is back, and only the rest is asked."
        )
        raise InputError(message)

    def _clean(self, message: str) -> str:
        """An error message short enough to show, and without the key, which some endpoints repeat."""
        secret = message if self._key == _NO_KEY else message.replace(self._key, "***")
        return " ".join(secret.split())[:_SHOWN_CHARACTERS].rstrip(".")


def _may_pass(status: int) -> bool:
    return status in _PASSING or status >= 500


def _named_wait_s(error: openai.APIStatusError) -> float | None:
    """The seconds that the endpoint asks to wait (Retry-After: a number, or a date), if it does."""
    headers = error.response.headers
    named = headers.get("retry-after", "")
    with suppress(ValueError):
        wait_s = float(headers["retry-after-ms"]) / 1000 if "retry-after-ms" in headers else float(named)
        return None if math.isnan(wait_s) else max(wait_s, 0.0)
    with suppress(TypeError, ValueError, KeyError):
        wait = parsedate_to_datetime(named) - parsedate_to_datetime(headers["date"])
        return max(wait.total_seconds(), 0.0)
    return None
