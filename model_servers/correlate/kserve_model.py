"""Look-ups as KServe's protocols have them: instances of V1, tensors of V2, over REST and gRPC.

In V2 a BYTES tensor ``query`` goes in, whose elements are look-ups as JSON, each with ``by``; a BYTES tensor ``reply``
comes out, of as many replies as JSON.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from kserve import InferRequest, InferResponse, Model
from kserve.protocol.infer_type import to_http_parameters

from mistudio.plain_text import shortened
from model_servers.base.bodies import json_object
from model_servers.base.instances import check_number, instances_in
from model_servers.base.problems import wrong
from model_servers.base.tensors import answer_of, texts_in
from model_servers.correlate.parsing import name_of, named_query
from model_servers.correlate.served import LookUp, Served

NAME = "correlate"
MAX_INSTANCES = 128
_INPUT, _OUTPUT = "query", "reply"
_EXAMPLE = '{"by": "text", "text": "Once upon a time"}'


class LookUpModel(Model):  # type: ignore[misc]
    """Answers requests of V1 and V2; an instance is a look-up.

    Args:
        served: the predictor.
    """

    def __init__(self, served: Served) -> None:
        super().__init__(NAME)
        self._served = served

    def get_input_types(self) -> list[dict[str, Any]]:
        """The tensor that is read, for V2's metadata."""
        return [{"name": _INPUT, "datatype": "BYTES", "shape": [-1]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        """The tensor that comes back."""
        return [{"name": _OUTPUT, "datatype": "BYTES", "shape": [-1]}]

    async def predict(
        self, payload: dict[str, Any] | InferRequest, headers: dict[str, str] | None = None
    ) -> dict[str, Any] | InferResponse:
        """Replies to all instances.

        Raises:
            InputError: one asks for what cannot be done.
            Refused: the payload cannot be read.
            Busy: too many look-ups wait already.
        """
        if isinstance(payload, dict):
            look_ups = _look_ups(instances_in(payload, _EXAMPLE), "instances")
            replies = await self._served.answers(look_ups, headers or {})
            return {"predictions": await asyncio.to_thread(lambda: [json.loads(reply) for reply in replies])}
        look_ups = _look_ups(await asyncio.to_thread(_queries_in, payload), _INPUT)
        replies = await self._served.answers(look_ups, headers or {})
        return answer_of(payload, self.name, {_OUTPUT: [reply.decode() for reply in replies]})


def _look_ups(instances: Sequence[dict[str, Any]], name: str) -> list[LookUp]:
    check_number(instances, MAX_INSTANCES, name)
    return [_look_up(each, f"{name}[{number}]") for number, each in enumerate(instances)]


def _look_up(given: dict[str, Any], above: str) -> LookUp:
    return LookUp(name_of(given, above), lambda: named_query(given, above), above)


def _queries_in(request: InferRequest) -> list[dict[str, Any]]:
    names = [tensor.name for tensor in request.inputs]
    if names != [_INPUT]:
        message = f"inputs are {shortened(names)}: give one BYTES tensor, called {_INPUT}."
        raise wrong(message, "inputs")
    parameters = to_http_parameters(request.parameters or {})
    if parameters:
        message = f"parameters has {shortened(sorted(parameters))}: write them into the queries."
        raise wrong(message, "parameters")
    elements = list(texts_in(request.inputs[0]))
    check_number(elements, MAX_INSTANCES, "inputs")
    return [json_object(each.encode(), f"{_INPUT}[{number}]") for number, each in enumerate(elements)]
