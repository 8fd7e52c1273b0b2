"""KServe's routes for inference, V1 and V2: bodies read within bounds, then KServe's data plane and the model."""

from asyncio import to_thread
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from kserve import InferRequest, InferResponse
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.rest.v2_datamodels import InferenceRequest, InferenceResponse
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from model_servers.base.bodies import json_object, read_body
from model_servers.base.health import Health
from model_servers.base.leaving import while_connected
from model_servers.base.openapi import body_of, json_body, reference
from model_servers.base.problems import Refused, problem_of_fields, wrong
from model_servers.base.recording import HEADER, KEY_NAME, record_of
from model_servers.base.replies import JSONReply

_BINARY = "inference-header-content-length"


class Inferring:
    """Inference by KServe's protocols.

    Args:
        dataplane: KServe's, with the models that are loaded.
        health: what says whether a model is there.
        instances: what an instance of V1 may be, for the OpenAPI document.
    """

    def __init__(self, dataplane: DataPlane, health: Health, instances: Sequence[type[BaseModel]]) -> None:
        self._dataplane = dataplane
        self._health = health
        self._instances = [reference(each) for each in instances]

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(tags=["inference"])
        instances = {"type": "array", "items": {"anyOf": self._instances}, "minItems": 1}
        v1 = {
            "type": "object",
            "properties": {"instances": instances},
            "required": ["instances"],
            "additionalProperties": False,
        }
        router.post("/v1/models/{model_name}:predict", openapi_extra=json_body(v1))(self.predict)
        router.post("/v2/models/{model_name}/infer", openapi_extra=body_of(InferenceRequest))(self.infer)
        return router

    async def predict(self, model_name: str, request: Request) -> Response:
        """Predictions for instances, by V1."""
        self._check(model_name)
        payload = await to_thread(json_object, await read_body(request))
        return JSONReply(await self._result(model_name, payload, request))

    async def infer(self, model_name: str, request: Request) -> Response:
        """Output tensors for input tensors, by V2."""
        self._check(model_name)
        if _BINARY in request.headers:
            message = "Tensors behind the JSON are not read: put them into it as data, or use gRPC."
            raise wrong(message, code="unsupported_media_type", status=415)
        parsed = await to_thread(_infer_request, await read_body(request), model_name)
        result = await self._result(model_name, parsed, request)
        if not isinstance(result, InferResponse):
            return JSONReply(result)
        body, _ = result.to_rest()
        return JSONReply(InferenceResponse.model_validate(body).model_dump(mode="json", exclude_none=True))

    async def _result(self, name: str, payload: dict[str, Any] | InferRequest, request: Request) -> Any:
        record = record_of(request.scope)
        headers = {HEADER: record.request_id, KEY_NAME: record.key}
        work = self._dataplane.infer(model_name=name, request=payload, headers=headers)
        result, _ = await while_connected(request, work)
        return result

    def _check(self, model_name: str) -> None:
        self._health.check_ready()
        self._health.check_model(model_name)


def _infer_request(body: bytes, model_name: str) -> InferRequest:
    try:
        parsed = InferenceRequest.model_validate(json_object(body))
    except ValidationError as error:
        raise Refused(problem_of_fields(error)) from error
    return InferRequest.from_inference_request(parsed, model_name)
