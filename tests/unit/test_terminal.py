"""Data is shown as data: no markup, no commands to a terminal, nothing that cannot be encoded."""

import io
import json
import logging
import sys
from collections.abc import Callable

import pytest
from rich.table import Table
from rich.tree import Tree

from mistudio import cli
from mistudio.cli.display import RunView
from mistudio.errors import InputError
from mistudio.events import Finished, Message, Progress
from mistudio.progress import progress
from mistudio.terminal import LineHandler, console, echo, plain

HOSTILE = {
    "[/INST]": "[/INST]",
    "[red]x": "[red]x",
    "[link=file:///etc/passwd]y[/link]": "[link=file:///etc/passwd]y[/link]",
    ":warning: z": ":warning: z",
    "\x1b]0;title\x07": "\\x1b]0;title\\x07",
    "\x1b[2Jgone": "\\x1b[2Jgone",
    "\x9b2J": "\\u009b2J",
    "over\rwritten": "over\\x0dwritten",
    "\u202eback": "\\u202eback",
    "half \ud800": "half \\ud800",
}


class Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


def by_console(text: str) -> None:
    console(stderr=True, soft_wrap=True).print(text)


def by_table(text: str) -> None:
    table = Table("name", title="t")
    table.columns[0].no_wrap = True
    table.add_row(text)
    console(stderr=True, width=200).print(table)


def by_tree(text: str) -> None:
    tree = Tree(text)
    tree.add("leaf")
    console(stderr=True, width=200).print(tree)


def by_echo(text: str) -> None:
    echo(text, err=True)


def by_log(text: str) -> None:
    LineHandler().handle(logging.LogRecord("mistudio", logging.INFO, "", 0, "%s", (text,), None))


def by_bar(text: str) -> None:
    with progress(text, 10) as bar:
        bar.advance(10, note="note")


def by_note(text: str) -> None:
    with progress("work", 10) as bar:
        bar.advance(10, note=text)


def by_message_of_a_run(text: str) -> None:
    with RunView() as view:
        view.take(Message.model_construct(text=text, pid=1, step="train", about=""))


def by_progress_of_a_run(text: str) -> None:
    with RunView() as view:
        view.take(
            Progress.model_construct(
                what="w", done=5, total=10, unit="", note=text, pid=1, step="train", about="", finished=False
            )
        )


def by_end_of_a_step(text: str) -> None:
    with RunView() as view:
        view.take(
            Finished.model_construct(
                uri="sae/1", digest="", found=True, seconds=1.0, summary={}, pid=1, step="train", about=text
            )
        )


WAYS: list[Callable[[str], None]] = [
    by_console,
    by_table,
    by_tree,
    by_echo,
    by_log,
    by_bar,
    by_note,
    by_message_of_a_run,
    by_progress_of_a_run,
    by_end_of_a_step,
]


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_hostile_texts_are_shown_as_they_are(
    way: Callable[[str], None], is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way in (by_bar, by_note) and not is_terminal:
        pytest.skip("goes to the log")
    monkeypatch.delenv("MISTUDIO_EVENTS", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    for text, shown in HOSTILE.items():
        out = Terminal() if is_terminal else io.StringIO()
        monkeypatch.setattr(sys, "stderr", out)
        way(text)
        assert shown in out.getvalue(), repr(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_an_error_is_shown_as_it_is_by_the_command(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise InputError(f"no {text}")

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(cli, "_show_what_is_logged", lambda: None)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"Error: no {HOSTILE[text]}\n"


def test_usual_text_and_json_stay_what_they_are() -> None:
    text = "naïve café 日本\u3000語 e\u0301 \U0001f469\u200d\U0001f680\tand\nmore"
    assert plain(text) == text
    assert json.loads(plain(json.dumps(list(HOSTILE), ensure_ascii=False))) == list(HOSTILE)
