"""A plain server of OpenAI's API over transformers, which knows nothing of miStudio: a model that is watched.

Completions and chats, whole or streamed, with ``n``, ``temperature`` and ``max_tokens``. One request at a time.

``python -m tests.support.plain_openai FOLDER`` serves a model in Hugging Face format.
"""

import argparse
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.uvicorn_thread import running, until_told_to_end

_MAX_TOKENS = 16


class PlainOpenAI:
    """The server, as an application.

    Args:
        folder: of the model.
        name: that the model is called.
    """

    def __init__(self, folder: Path, name: str = "plain") -> None:
        self._name = name
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self._one_at_a_time = threading.Lock()
        self.app = Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    async def _models(self, _request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": self._name, "object": "model"}]})

    async def _completions(self, request: Request) -> Response:
        body = await request.json()
        given = body["prompt"] if isinstance(body.get("prompt"), list) else [body.get("prompt")]
        prompts = [given] if given and isinstance(given[0], int) else given
        if not prompts or not all(prompts):
            return JSONResponse({"error": {"message": "prompt is missing", "type": "invalid_request_error"}}, 400)
        rows = [each if isinstance(each, list) else self._tokenizer(each)["input_ids"] for each in prompts]
        return await self._answer(body, rows, is_chat=False)

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        laid_out = "".join(f"{each['role']}: {each['content']}\n" for each in body["messages"]) + "assistant:"
        return await self._answer(body, [self._tokenizer(laid_out)["input_ids"]], is_chat=True)

    async def _answer(self, body: dict[str, Any], rows: list[list[int]], *, is_chat: bool) -> Response:
        texts = await run_in_threadpool(self._write, body, rows)
        head = {"id": f"cmpl-{time.time_ns()}", "created": int(time.time()), "model": self._name}
        if not body.get("stream"):
            choices = [
                {"index": number, "finish_reason": "length", "logprobs": None, **_whole("".join(text), is_chat=is_chat)}
                for number, text in enumerate(texts)
            ]
            kind = "chat.completion" if is_chat else "text_completion"
            return JSONResponse({**head, "object": kind, "choices": choices})
        kind = "chat.completion.chunk" if is_chat else "text_completion"
        return StreamingResponse(
            _chunks({**head, "object": kind}, texts, is_chat=is_chat), media_type="text/event-stream"
        )

    def _write(self, body: dict[str, Any], rows: list[list[int]]) -> list[list[str]]:
        """The pieces of each answer."""
        count = int(body.get("max_tokens") or body.get("max_completion_tokens") or _MAX_TOKENS)
        temperature = float(body.get("temperature", 1.0))
        settings = {"do_sample": temperature > 0} | ({"temperature": temperature} if temperature > 0 else {})
        with self._one_at_a_time, torch.no_grad():
            return [self._pieces(row, count, settings) for row in rows for _ in range(int(body.get("n") or 1))]

    def _pieces(self, row: list[int], count: int, settings: dict[str, Any]) -> list[str]:
        ids_1T = torch.tensor([row])
        whole_1T = self._model.generate(
            ids_1T, attention_mask=torch.ones_like(ids_1T), max_new_tokens=count, pad_token_id=0, **settings
        )
        texts = [
            self._tokenizer.decode(whole_1T[0, len(row) : end], skip_special_tokens=True)
            for end in range(len(row), whole_1T.shape[1] + 1)
        ]
        return [after[len(before) :] for before, after in zip(texts, texts[1:], strict=False)]


def _whole(text: str, *, is_chat: bool) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}


def _chunks(head: dict[str, Any], texts: list[list[str]], *, is_chat: bool) -> Iterator[str]:
    for number, pieces in enumerate(texts):
        for piece in pieces:
            part = {"delta": {"content": piece}} if is_chat else {"text": piece}
            yield f"data: {json.dumps({**head, 'choices': [{'index': number, 'finish_reason': None, **part}]})}\n\n"
        end = {"delta": {}} if is_chat else {"text": ""}
        yield f"data: {json.dumps({**head, 'choices': [{'index': number, 'finish_reason': 'length', **end}]})}\n\n"
    yield "data: [DONE]\n\n"


@contextmanager
def plain_openai(folder: Path, name: str = "plain", port: int = 0) -> Iterator[str]:
    """A server in a thread; its URL."""
    with running(PlainOpenAI(folder, name).app, port) as url:
        yield url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with a model in Hugging Face format")
    parser.add_argument("--name", default="plain", help="that the model is called")
    parser.add_argument("--port", type=int, default=8001, help="to listen at")
    options = parser.parse_args()
    with plain_openai(options.folder, options.name, options.port) as url:
        print(f"{options.name} is served at {url}/v1", flush=True)
        until_told_to_end()


if __name__ == "__main__":
    main()
