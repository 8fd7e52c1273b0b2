"""Secrets: none in the manifests, neither in secrets nor in what containers are given."""

import base64
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from checks.pods import containers_of, pods_of
from checks.rendering import MANIFESTS, Document, everything

_SECRET = re.compile(r"secret|passw|token|api.?key|access_key|signing|credential|private", re.IGNORECASE)
_KNOWN = frozenset({"AWS_ACCESS_KEY_ID"})  # a name of a key, with a value of no worth in the examples
_LOOKS_LIKE = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|gh[pousr]_[A-Za-z0-9]{30,}|hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9]{20,}"
)


def look() -> tuple[str, Sequence[str]]:
    """All that is rendered with the examples, and all files."""
    documents = everything()
    files = [path for path in MANIFESTS.rglob("*") if path.is_file() and path.parent.name != "secrets"]
    problems = [f"{place}: {problem}" for place, document in documents for problem in problems_of(document)]
    problems += [f"{path.relative_to(MANIFESTS)}: {problem}" for path in files for problem in problems_in(path)]
    return f"{len(documents)} objects, {len(files)} files", problems


def problems_of(document: Document) -> Iterator[str]:
    """Values that are secret, in a rendered document."""
    if document["kind"] == "Secret":
        plain = {name: base64.b64decode(value).decode() for name, value in (document.get("data") or {}).items()}
        given = {**plain, **(document.get("stringData") or {})}
        yield from (f"{name} has a value" for name, value in given.items() if value and is_secret(name))
    for pod in pods_of("", document):
        for container in containers_of(pod.spec):
            for variable in container.get("env") or ():
                value = str(variable.get("value", ""))
                if is_secret(variable["name"]) and value and not value.startswith("$("):
                    yield f"{container['name']} has a value for {variable['name']}"


def problems_in(path: Path) -> Iterator[str]:
    """Values that look like secrets, in a file; and values of secrets in an example."""
    text = path.read_text()
    if found := _LOOKS_LIKE.search(text):
        yield f"holds what looks like a secret: {found[0][:8]}..."
    if path.parent.name == "secrets.example":
        for line in text.splitlines():
            name, _, value = line.partition("=")
            if value and (is_secret(name) or name == "admin"):
                yield f"has a value for {name}"


def is_secret(name: str) -> bool:
    """Whether the name of a variable or of a key promises a secret."""
    return bool(_SECRET.search(name)) and name not in _KNOWN and not name.endswith(("_FILE", "_URL", "_URI"))
