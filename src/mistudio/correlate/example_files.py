"""Examples of a query as files of examples, so that a direction made of them has the recipe of one made of files."""

import json
from collections.abc import Sequence

from mistudio.directions.example_files import File, Files
from mistudio.instrument.messages import Message


def as_files(positive: Sequence[str | Sequence[Message]], negative: Sequence[str | Sequence[Message]]) -> Files:
    """The examples of both classes, as JSON Lines."""
    return Files(positive=_file("positive", positive), negative=_file("negative", negative))


def _file(name: str, examples: Sequence[str | Sequence[Message]]) -> File:
    content = "".join(json.dumps(_line(each), ensure_ascii=False) + "\n" for each in examples).encode()
    return File(f"{name} examples", content, f"query:{name}")


def _line(example: str | Sequence[Message]) -> object:
    if isinstance(example, str):
        return example
    return {"messages": [{"role": one.role, "content": one.content} for one in example]}
