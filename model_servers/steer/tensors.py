"""V2's tensors for the model of texts.

In: a BYTES tensor ``request`` whose elements are requests as JSON; or a BYTES tensor ``prompt`` of texts, where the
parameters of the request hold what all of them share, with lists and objects, such as ``steering``, written as JSON.
Out: ``text``, the first answer to each, and ``response``, all that is known of it, as JSON.
"""

from typing import Any

from kserve import InferRequest, InferResponse
from kserve.protocol.infer_type import to_http_parameters

from mistudio.guarded_json import RefusedJSON, parse_json
from mistudio.plain_text import shortened
from model_servers.base.bodies import json_object
from model_servers.base.problems import wrong
from model_servers.base.replies import json_bytes
from model_servers.base.tensors import answer_of, texts_in

INPUTS = ("prompt", "request")
OUTPUTS = ("text", "response")


def instances_of(request: InferRequest) -> list[dict[str, Any]]:
    """Requests of the engine's, flat.

    Raises:
        Refused: the tensors are others, or are not what they say.
    """
    names = [tensor.name for tensor in request.inputs]
    if len(names) != 1 or names[0] not in INPUTS:
        message = f"inputs are {shortened(names)}: give one BYTES tensor, called prompt or request."
        raise wrong(message, "inputs")
    elements = list(texts_in(request.inputs[0]))
    parameters = to_http_parameters(request.parameters or {})
    if names[0] == "request":
        if parameters:
            message = f"parameters has {shortened(sorted(parameters))}: write them into the requests."
            raise wrong(message, "parameters")
        return [json_object(each.encode(), f"request[{number}]") for number, each in enumerate(elements)]
    shared = {name: _plain(name, value) for name, value in parameters.items()}
    if {"prompt", "messages"} & shared.keys():
        message = "parameters has the prompt: it is a tensor."
        raise wrong(message, "parameters")
    return [{**shared, "prompt": each} for each in elements]


def tensors_of(request: InferRequest, model_name: str, predictions: list[dict[str, Any]]) -> InferResponse:
    """The answers; those tensors alone that were asked for, where some were.

    Raises:
        Refused: one was asked for that there is not.
    """
    content = {
        "text": [each["choices"][0]["text"] for each in predictions],
        "response": [json_bytes(each).decode() for each in predictions],
    }
    return answer_of(request, model_name, content)


def _plain(name: str, value: Any) -> Any:
    """A parameter's value: numbers are themselves, and texts are JSON, but for a stop that is none."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except RefusedJSON as error:
        if name == "stop":
            return [value]
        message = f"parameters.{name} is not JSON: {shortened(value)}: {error}."
        raise wrong(message, f"parameters.{name}") from error
