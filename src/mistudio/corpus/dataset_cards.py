"""What the card of a dataset may say of where its files are: in the dataset, and nowhere else.

The library ``datasets`` takes the places of files from the YAML at the head of ``README.md``, or from
``.huggingface.yaml``, and opens what they name: a path of this machine or an address of its network as well. So a
dataset that somebody else wrote could have files of this machine read as its documents, or make it ask other services.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError

from mistudio.errors import CorpusError
from mistudio.plain_text import shortened

CARDS = ("README.md", ".huggingface.yaml")
_FRONT = re.compile(rb"\A\s*---\r?\n(.*?)^---\s*$", re.DOTALL | re.MULTILINE)
_PLACES = ("data_files", "data_dir")
_MOST_BYTES = 4 << 20
_MOST_PLACES = 100_000  # YAML can mean one list by many names


def check_folder_card(folder: Path) -> None:
    """Refuse a local dataset that names files outside of its folder.

    Raises:
        CorpusError: it does, or what it says cannot be read.
    """

    def read(name: str) -> bytes | None:
        path = folder / name
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return file.read(_MOST_BYTES + 1)

    _check(read, str(folder))


def check_hub_card(dataset: str, revision: str) -> None:
    """Refuse a dataset of the hub that names files outside of itself.

    Raises:
        CorpusError: it does, or what it says cannot be read.
        Exception: the hub does not answer; of several types, as its client has them.
    """

    def read(name: str) -> bytes | None:
        try:
            path = HfApi().hf_hub_download(dataset, name, repo_type="dataset", revision=revision)
        except EntryNotFoundError:
            return None
        with Path(path).open("rb") as file:
            return file.read(_MOST_BYTES + 1)

    _check(read, dataset)


def _check(read: Callable[[str], bytes | None], dataset: str) -> None:
    for name in CARDS:
        content = read(name)
        if content is None:
            continue
        for number, place in enumerate(_places(_settings(content, name, dataset))):
            if number >= _MOST_PLACES or not _is_inside(place):
                what = f"more than {_MOST_PLACES:,} files" if number >= _MOST_PLACES else shortened(place)
                message = (
                    f"The dataset {shortened(dataset)} names {what} in its {name}, and a dataset is read from its own "
                    "files alone. Take that out of data_files, or read the file itself as a corpus."
                )
                raise CorpusError(message)


def _settings(content: bytes, name: str, dataset: str) -> Any:
    """The YAML of a card; None where it has none.

    Raises:
        CorpusError: it cannot be read.
    """
    import yaml

    found = _FRONT.search(content) if name.endswith(".md") else None
    text = found[1] if found else b"" if name.endswith(".md") else content
    try:
        if len(content) > _MOST_BYTES:
            message = f"it has more than {_MOST_BYTES:,} bytes"
            raise ValueError(message)
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        message = f"{name} of the dataset {shortened(dataset)} cannot be read: {type(error).__name__}."
        raise CorpusError(message) from error


def _places(settings: Any) -> Iterator[str]:
    """All texts below the settings that say where files are."""
    configs = settings.get("configs") if isinstance(settings, dict) else None
    for config in configs if isinstance(configs, list) else []:
        pending = [config.get(name) for name in _PLACES] if isinstance(config, dict) else []
        while pending:
            value = pending.pop()
            if isinstance(value, str):
                yield value
            elif isinstance(value, dict | list):
                members = list(value.values()) if isinstance(value, dict) else value
                pending += members[:_MOST_PLACES]
                yield ""  # counts, so that what holds itself comes to an end


def _is_inside(place: str) -> bool:
    """Whether a pattern of files stays below where it begins."""
    parts = place.replace("\\", "/").split("/")
    return "::" not in place and ":/" not in place and not place.startswith(("/", "~", "\\")) and ".." not in parts
