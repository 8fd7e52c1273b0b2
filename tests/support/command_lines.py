"""Commands that a page shows, held against the programs: that there is such a command with such options."""

import re
import shlex
from pathlib import Path
from typing import Any

import typer

_BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")


def shown_in(page: Path, program: str) -> list[str]:
    """The commands of a program that a page shows, in blocks and in its text."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in _BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    inline = _INLINE.findall(_BLOCK.sub("", text))
    return [each.strip() for each in (*lines, *inline) if re.match(rf"{program}( |$)", each.strip())]


def refusal(root: Any, line: str) -> str:
    """What is wrong with a command line of a click program; empty: nothing. Values are not looked at."""
    command, words = root, shlex.split(line)[1:]
    while words and hasattr(command, "commands"):
        if words[0] not in command.commands:
            return f"there is no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    known |= {"--help"}
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
    return f"it has no option {unknown[0]}" if unknown else ""


def mistudio_program() -> Any:
    """The commands of ``mistudio``."""
    from mistudio.cli import app

    return typer.main.get_command(app)
