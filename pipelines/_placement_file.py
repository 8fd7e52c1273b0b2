"""Reads a placement file within bounds: what others wrote may be too large, nested too deep, or say a thing twice."""

from pathlib import Path
from typing import Any

import yaml

from mistudio.errors import ConfigError
from mistudio.guarded_yaml import has_more_than, load_yaml
from mistudio.plain_text import shortened

_MOST_FILE_BYTES = 1 << 20
_MOST_VALUES = 20_000  # of a file, with what its aliases repeat


def read_file(path: Path) -> dict[str, Any]:
    """The fields that a file says, not checked yet.

    Raises:
        ConfigError: it cannot be read, or is no placement.
    """
    try:
        if path.stat().st_size > _MOST_FILE_BYTES:
            message = f"The placement {path} is larger than {_MOST_FILE_BYTES:,} bytes: it is another file."
            raise ConfigError(message)
        content = load_yaml(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        message = f"The placement {path} cannot be read: it is nested too deep."
        raise ConfigError(message) from error
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: of a date that is none, among others
        message = f"The placement {path} cannot be read: {' '.join(str(error).split())}."
        raise ConfigError(message) from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        message = f"The placement {path} is {shortened(content)}: write fields, such as find_parts: 8."
        raise ConfigError(message)
    if has_more_than(content, _MOST_VALUES):
        message = f"The placement {path} has more than {_MOST_VALUES:,} values, with what its aliases repeat."
        raise ConfigError(message)
    return content
