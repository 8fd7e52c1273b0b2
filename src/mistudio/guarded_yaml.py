"""YAML that others wrote, read within bounds: nothing is said twice, and aliases repeat no more than is asked for."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import yaml

from mistudio.plain_text import shortened


def load_yaml(content: str | bytes) -> Any:
    """What a text of YAML says.

    Raises:
        ValueError: of a date that is none, among others.
        yaml.YAMLError: it is no YAML, or says something twice.
        RecursionError: it is nested too deep.
    """
    return yaml.load(content, Loader=_Loader)  # noqa: S506  # nosec B506 - a safe one


def has_more_than(content: object, most: int) -> bool:
    """Whether something holds more than so many values, with what its aliases repeat."""
    return sum(1 for _ in islice(values_in(content), most + 1)) > most


def values_in(content: object) -> Iterator[object]:
    """All that a file says, one after the other; without end where it holds itself."""
    left = [content]
    while left:
        value = left.pop()
        yield value
        left += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads YAML as it has to be: of two values of one name neither is silently dropped."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"{shortened(key.value)} is there twice"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
            seen.add(str(key.value))
        return node
