"""A short Markdown page on what a step published, for Kubeflow's dashboard to show."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mistudio.artifacts import Artifact
from mistudio.plain_text import in_markdown

_DIGEST_CHARACTERS = 12
_MOST_CHARACTERS = 200


def summary_page(step: str, artifact: Artifact, *, found: bool, seconds: float) -> str:
    """Where it lies, its figures, what it was made from, and with which settings.

    Args:
        step: that published it.
        artifact: what was published.
        found: it was published before.
        seconds: that the step took.
    """
    manifest = artifact.manifest
    how = "Found published" if found else f"Made in {seconds:,.1f} s"
    inputs = [(role, f"{ref.uri} ({ref.digest[:_DIGEST_CHARACTERS]})") for role, ref in manifest.inputs.items()]
    settings = {**flat(manifest.config), "seed": manifest.seed}
    lines = [
        f"# {in_markdown(step)}: {in_markdown(artifact.uri)}",
        "",
        f"{how}, digest `{artifact.digest[:_DIGEST_CHARACTERS]}`. "
        f"More: `mistudio artifacts show {artifact.uri}` with the store of the run.",
        *_table("figure", manifest.summary.items()),
        *_table("made from", inputs),
        *_table("setting", settings.items()),
    ]
    return "\n".join(lines) + "\n"


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names, without those that are not set."""
    settings: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            settings |= flat(value, f"{prefix}{name}.")
        elif value is not None:
            settings[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return settings


def _table(heading: str, rows: Iterable[tuple[str, object]]) -> list[str]:
    lines = [f"| {in_markdown(name)} | {_cell(value)} |" for name, value in rows]
    return ["", f"| {heading} | |", "| --- | --- |", *lines] if lines else []


def _cell(value: object) -> str:
    text = in_markdown(format(value, ".6g") if isinstance(value, float) else str(value))
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
