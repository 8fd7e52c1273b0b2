"""OpenAI's routes: /openai/v1/completions, /chat/completions and /models."""

import time
from collections.abc import Sequence
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import Response, StreamingResponse

from mistudio.plain_text import shortened
from mistudio.steer.requests import GenerationRequest
from model_servers.base.bodies import json_object, read_body
from model_servers.base.leaving import while_connected
from model_servers.base.openapi import body_of
from model_servers.base.problems import Refused, problem_of_fields, wrong
from model_servers.base.recording import HEADER, KEY_NAME, record_of
from model_servers.base.replies import JSONReply
from model_servers.steer.answers import outcomes
from model_servers.steer.openai.choices import ChatShape, CompletionShape, Shape
from model_servers.steer.openai.replies import Reply
from model_servers.steer.openai.requests import ChatRequest, CompletionRequest
from model_servers.steer.parsing import generation_request
from model_servers.steer.served import Served

Body = TypeVar("Body", CompletionRequest, ChatRequest)
_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class OpenAI:
    """OpenAI's API of one model.

    Args:
        served: the predictor.
    """

    bodies: tuple[type[BaseModel], ...] = (CompletionRequest, ChatRequest)

    def __init__(self, served: Served) -> None:
        self._served = served
        self._created = int(time.time())

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(prefix="/openai/v1", tags=["OpenAI"])
        router.post("/completions", openapi_extra=body_of(CompletionRequest))(self.completions)
        router.post("/chat/completions", openapi_extra=body_of(ChatRequest))(self.chat)
        router.get("/models")(self.models)
        router.get("/models/{model:path}")(self.model)
        return router

    async def completions(self, request: Request) -> Response:
        """Text that goes on with a prompt, or with several."""
        return await self._answer(request, CompletionRequest, CompletionShape())

    async def chat(self, request: Request) -> Response:
        """The answer in a chat, by the model's own template."""
        return await self._answer(request, ChatRequest, ChatShape())

    async def models(self) -> Response:
        """The model that is served."""
        return JSONReply({"object": "list", "data": [self._model(self._served.model_name())]})

    async def model(self, model: str) -> Response:
        """One model."""
        self._check_model(model)
        return JSONReply(self._model(model))

    async def _answer(self, request: Request, kind: type[Body], shape: Shape) -> Response:
        name = self._served.model_name()
        body = await read_body(request)
        record = record_of(request.scope)
        run = self._served.new_run(shape.api, {HEADER: record.request_id, KEY_NAME: record.key})
        record.at_end.append(run.cancel)
        parsed: list[Body] = []
        requests = await run.start(lambda: self._requests(body, kind, parsed))
        reply = Reply(shape, name, requests)
        if parsed[0].stream:
            events = reply.events(run, includes_usage=parsed[0].includes_usage)
            return StreamingResponse(events, media_type="text/event-stream", headers=_STREAM_HEADERS)
        return JSONReply(reply.whole(await while_connected(request, outcomes(run, requests))))

    def _requests(self, body: bytes, kind: type[Body], parsed: list[Body]) -> Sequence[GenerationRequest]:
        """The engine's requests, made on a thread of the pool."""
        try:
            found = kind.model_validate(json_object(body))
        except ValidationError as error:
            raise Refused(problem_of_fields(error)) from error
        self._check_model(found.model)
        parsed.append(found)
        return [generation_request(fields, found.renamed()) for fields in found.requests()]

    def _check_model(self, name: str) -> None:
        served = self._served.model_name()
        if name != served:
            message = f"There is no model {shortened(name)}: this server has {served}."
            raise wrong(message, "model", "model_not_found", 404)

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "mistudio"}
