"""Tensors of V2 that hold texts, as predictors read and write them: BYTES, whose elements are UTF-8."""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence

from kserve import InferInput, InferOutput, InferRequest, InferResponse

from mistudio.plain_text import shortened
from model_servers.base.problems import wrong

_MAX_DIMENSIONS = 8


def texts_in(tensor: InferInput) -> Iterator[str]:
    """The elements of a request's only tensor.

    Raises:
        Refused: it is of another type, or is not what it says.
    """
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


def answer_of(request: InferRequest, model_name: str, content: Mapping[str, Sequence[str]]) -> InferResponse:
    """Tensors of texts, by name; those alone that were asked for, where some were.

    Raises:
        Refused: one was asked for that there is not.
    """
    wanted = [each.name for each in request.request_outputs or ()] or list(content)
    unknown = sorted(set(wanted) - content.keys())
    if unknown:
        message = f"outputs names {shortened(unknown[0])}: there are {' and '.join(content)}."
        raise wrong(message, "outputs")
    outputs = [InferOutput(name, [len(content[name])], "BYTES", list(content[name])) for name in wanted]
    return InferResponse(
        response_id=request.id or "",
        model_name=model_name,
        infer_outputs=outputs,
        use_binary_outputs=request.from_grpc and request.use_binary_outputs,
    )


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
