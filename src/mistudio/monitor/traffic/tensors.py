"""Tensors of the open inference protocol (V2) as texts and token ids.

In JSON ``data`` is flat or nested by the shape. With the binary extension it follows the body's JSON, tensor by tensor,
in as many bytes as the parameter ``binary_data_size`` says; an element of BYTES has its length before it, in four
bytes, the lowest first. (kserve/open-inference-protocol, and Triton's extension_binary_data.)
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mistudio.monitor.traffic.contents import as_ids, as_text
from mistudio.monitor.traffic.unread import Problems, Unread

_INTEGERS: dict[Any, np.dtype[Any]] = {
    "INT64": np.dtype("<i8"),
    "INT32": np.dtype("<i4"),
    "INT16": np.dtype("<i2"),
    "UINT32": np.dtype("<u4"),
    "UINT16": np.dtype("<u2"),
}
_MASK = "attention_mask"
_LENGTH_BYTES = 4
_MAX_DIMENSIONS = 8

Tensor = Mapping[str, Any]


def with_data(tensors: Any, rest: bytes) -> list[dict[str, Any]]:
    """The tensors of a body, with the data of binary ones in place; what is no tensor is left out."""
    found, place = [], 0
    for each in tensors if isinstance(tensors, list) else ():
        if not isinstance(each, dict) or not isinstance(each.get("name"), str):
            continue
        parameters = each.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if "data" not in each and type(size) is int and 0 <= size <= len(rest) - place:
            found.append({**each, "data": _unpacked(each.get("datatype"), rest[place : place + size])})
            place += size
        else:
            found.append(each)
    return found


def texts_of(tensor: Tensor, problems: Problems) -> list[str]:
    """The elements of a tensor of texts; others are counted."""
    texts = []
    for each in _flat(tensor.get("data")):
        if isinstance(each, str):
            texts.append(as_text(each))
        else:
            problems[Unread.NO_TEXT] += 1
    return texts


def rows_of(tensor: Tensor, all_tensors: list[dict[str, Any]], problems: Problems) -> list[tuple[int, ...]]:
    """The rows of a tensor of token ids, without the padding that an attention mask beside it tells."""
    rows = _rows(tensor)
    masks = next((_rows(each) for each in all_tensors if each["name"] == _MASK), None)
    if masks is not None and [len(mask) for mask in masks] == [len(row) for row in rows]:
        rows = [
            [token for token, is_kept in zip(row, mask, strict=True) if is_kept]
            for row, mask in zip(rows, masks, strict=True)
        ]
    return [ids for row in rows if (ids := as_ids(row, problems)) is not None]


def is_of_texts(tensor: Tensor) -> bool:
    """Whether a tensor's elements are texts."""
    return tensor.get("datatype") == "BYTES"


def is_of_integers(tensor: Tensor) -> bool:
    """Whether its elements are whole numbers."""
    return tensor.get("datatype") in _INTEGERS


def _rows(tensor: Tensor) -> list[list[Any]]:
    flat = list(_flat(tensor.get("data")))
    shape = tensor.get("shape")
    length = shape[-1] if isinstance(shape, list) and shape else len(flat)
    if type(length) is not int or length <= 0 or len(flat) % length:
        return [flat] if flat else []
    return [flat[start : start + length] for start in range(0, len(flat), length)]


def _flat(data: Any, depth: int = 0) -> Iterator[Any]:
    for each in data if isinstance(data, list) else ():
        if isinstance(each, list) and depth < _MAX_DIMENSIONS:
            yield from _flat(each, depth + 1)
        else:
            yield each


def _unpacked(datatype: Any, raw: bytes) -> list[Any]:
    if datatype in _INTEGERS:
        dtype = _INTEGERS[datatype]
        values: list[Any] = np.frombuffer(raw[: len(raw) - len(raw) % dtype.itemsize], dtype).tolist()
        return values
    return list(_elements(raw)) if datatype == "BYTES" else []


def _elements(raw: bytes) -> Iterator[str]:
    place = 0
    while place + _LENGTH_BYTES <= len(raw):
        start = place + _LENGTH_BYTES
        place = start + int.from_bytes(raw[place:start], "little")
        yield raw[start:place].decode(errors="replace")
