"""V2's tensors for the model of texts.

In: a BYTES tensor ``request`` whose elements are requests as JSON; or a BYTES tensor ``prompt`` of texts, where the
parameters of the request hold what all of them share, with lists and objects, such as ``steering``, written as JSON.
Out: ``text``, the first answer to each, and ``response``, all that is known of it, as JSON.
"""

import math
import struct
from collections.abc import Iterator
from typing import Any

from kserve import InferInput, InferOutput, InferRequest, InferResponse
from kserve.protocol.infer_type import to_http_parameters

from mistudio.guarded_json import RefusedJSON, parse_json
from mistudio.plain_text import shortened
from model_servers.base.bodies import json_object
from model_servers.base.problems import wrong
from model_servers.base.replies import json_bytes

INPUTS = ("prompt", "request")
OUTPUTS = ("text", "response")
_MAX_DIMENSIONS = 8


def instances_of(request: InferRequest) -> list[dict[str, Any]]:
    """Requests of the engine's, flat.

    Raises:
        Refused: the tensors are others, or are not what they say.
    """
    names = [tensor.name for tensor in request.inputs]
    if len(names) != 1 or names[0] not in INPUTS:
        message = f"inputs are {shortened(names)}: give one BYTES tensor, called prompt or request."
        raise wrong(message, "inputs")
    elements = list(_elements(request.inputs[0]))
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
    wanted = [each.name for each in request.request_outputs or ()] or list(OUTPUTS)
    unknown = sorted(set(wanted) - content.keys())
    if unknown:
        message = f"outputs names {shortened(unknown[0])}: there are {' and '.join(OUTPUTS)}."
        raise wrong(message, "outputs")
    return InferResponse(
        response_id=request.id or "",
        model_name=model_name,
        infer_outputs=[InferOutput(name, [len(predictions)], "BYTES", content[name]) for name in wanted],
        use_binary_outputs=request.from_grpc and request.use_binary_outputs,
    )


def _elements(tensor: InferInput) -> Iterator[str]:
    if tensor.datatype != "BYTES":
        message = f"datatype of {tensor.name} is {shortened(tensor.datatype)}: it has to be BYTES."
        raise wrong(message, "inputs[0].datatype")
    elements = tensor.data if tensor._raw_data is None else list(_unpacked(tensor._raw_data))
    is_shape = len(tensor.shape) <= _MAX_DIMENSIONS and all(size >= 0 for size in tensor.shape)
    if not is_shape or math.prod(tensor.shape) != len(elements):
        message = f"shape of {tensor.name} is {shortened(tensor.shape)}, but it has {len(elements)} elements."
        raise wrong(message, "inputs[0].shape")
    for number, element in enumerate(elements):
        try:
            text = element.decode() if isinstance(element, bytes) else element
        except UnicodeDecodeError as error:
            message = f"Element {number} of {tensor.name} is not UTF-8."
            raise wrong(message, "inputs[0].data") from error
        if not isinstance(text, str):
            message = f"Element {number} of {tensor.name} has to be a text, not {shortened(element)}."
            raise wrong(message, "inputs[0].data")
        yield text


def _unpacked(raw: bytes) -> Iterator[bytes]:
    """The elements of a tensor in one piece: four bytes of length before each, the lowest first."""
    place = 0
    while place < len(raw):
        end = place + 4
        size = struct.unpack("<I", raw[place:end])[0] if end <= len(raw) else len(raw)
        if end + size > len(raw):
            message = f"The raw tensor ends within an element, at byte {len(raw):,}."
            raise wrong(message, "raw_input_contents")
        yield raw[end : end + size]
        place = end + size


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
