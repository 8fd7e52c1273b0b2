"""Texts that are read at once, as KServe's protocols have them: instances of V1, tensors of V2, over REST and gRPC.

In V2 a BYTES tensor goes in: ``text``, of plain texts, or ``request``, whose elements are as the instances of V1, as
JSON. A BYTES tensor ``observation`` comes out, of as many observations as JSON.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kserve import InferRequest, InferResponse, Model
from kserve.protocol.infer_type import to_http_parameters

from mistudio.plain_text import shortened
from model_servers.base.bodies import json_object
from model_servers.base.instances import check_number, instances_in
from model_servers.base.problems import wrong
from model_servers.base.recording import HEADER
from model_servers.base.replies import json_bytes
from model_servers.base.tensors import answer_of, texts_in
from model_servers.monitor.parsing import read_fields
from model_servers.monitor.served import Served

if TYPE_CHECKING:
    from mistudio.monitor.direct_requests import Asked

NAME = "monitor"
MAX_INSTANCES = 64
INPUTS, OUTPUT = ("text", "request"), "observation"
_EXAMPLE = '{"text": "Once upon a time"}'


class WatchModel(Model):  # type: ignore[misc]
    """Answers requests of V1 and V2; an instance is a text, a chat or token ids.

    Args:
        served: the predictor.
    """

    def __init__(self, served: Served) -> None:
        super().__init__(NAME)
        self._served = served

    def get_input_types(self) -> list[dict[str, Any]]:
        """Tensors that are read, for V2's metadata: one of them a request."""
        return [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in INPUTS]

    def get_output_types(self) -> list[dict[str, Any]]:
        """The tensor that comes back."""
        return [{"name": OUTPUT, "datatype": "BYTES", "shape": [-1]}]

    async def predict(
        self, payload: dict[str, Any] | InferRequest, headers: dict[str, str] | None = None
    ) -> dict[str, Any] | InferResponse:
        """What is seen in all instances.

        Raises:
            InputError: one cannot be read.
            Refused: the payload cannot be read.
            Busy: too many wait already.
        """
        request = (headers or {}).get(HEADER, "")
        if isinstance(payload, dict):
            instances = instances_in(payload, _EXAMPLE)
            return {"predictions": await self._seen(instances, "instances", request)}
        instances = await asyncio.to_thread(_instances_of, payload)
        found = await self._seen(instances, "request", request)
        return answer_of(payload, self.name, {OUTPUT: [json_bytes(each).decode() for each in found]})

    async def _seen(self, instances: Sequence[dict[str, Any]], name: str, request: str) -> list[dict[str, Any]]:
        check_number(instances, MAX_INSTANCES, name)
        asked = await asyncio.to_thread(_asked, instances, name)
        ids = [request if len(asked) == 1 else f"{request}/{number}" for number in range(len(asked))]
        return await self._served.run(
            lambda monitor: [monitor.observe(each, given) for each, given in zip(asked, ids, strict=True)]
        )


def _asked(instances: Sequence[dict[str, Any]], name: str) -> "list[Asked]":
    from mistudio.monitor.direct_requests import Asked

    return [read_fields(Asked, each, f"{name}[{number}]") for number, each in enumerate(instances)]


def _instances_of(request: InferRequest) -> list[dict[str, Any]]:
    names = [tensor.name for tensor in request.inputs]
    if len(names) != 1 or names[0] not in INPUTS:
        message = f"inputs are {shortened(names)}: give one BYTES tensor, called text or request."
        raise wrong(message, "inputs")
    parameters = to_http_parameters(request.parameters or {})
    if parameters:
        message = f"parameters has {shortened(sorted(parameters))}: write them into the requests."
        raise wrong(message, "parameters")
    elements = list(texts_in(request.inputs[0]))
    check_number(elements, MAX_INSTANCES, "inputs")
    if names[0] == "text":
        return [{"text": each} for each in elements]
    return [json_object(each.encode(), f"request[{number}]") for number, each in enumerate(elements)]
