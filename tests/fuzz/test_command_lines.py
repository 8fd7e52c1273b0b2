"""Every command of the command line with hostile values: refused in one readable paragraph, before any work."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given

from mistudio.artifacts import opening
from mistudio.artifacts.local import LocalStore
from mistudio.artifacts.s3 import store as s3_store
from mistudio.artifacts.s3.limits import Limits
from mistudio.monitor.traffic import recorded_files
from tests.fuzz.command_line import WorkBegins, command_lines, run
from tests.fuzz.examples import counted, examples
from tests.fuzz.expectation import is_readable, names_one
from tests.support.s3_server import free_ports


def _begins(*_given: Any, **_named: Any) -> NoReturn:
    raise WorkBegins


@pytest.fixture(autouse=True, scope="module")
def nothing_begins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder and a store of their own, nothing beyond this machine, and no work."""
    folder = tmp_path_factory.mktemp("fuzz") / "so" / "that" / "dots" / "stay"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "pipe")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MISTUDIO_STORE", str(folder / "store"))
        patch.setenv("MISTUDIO_TRACKING", "off")
        patch.setenv("HOME", str(folder))
        for name in (
            "huggingface_hub.HfApi.model_info",
            "mistudio.corpus.hf.open_dataset",
            "mistudio.runs.local.subprocess.Popen",
            "mistudio.cli.pipelines.os.execv",
            "mistudio.cli.serving.os.execve",
            "mistudio.demo.produce",
            "mistudio.demo.packaged.produce",
            "mistudio.verify.checks.import_module",
        ):
            patch.setattr(name, _begins)
        patch.setattr(opening, "LocalStore", _only_below(tmp_path_factory.getbasetemp()))
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")  # buckets are asked for there alone
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing-secret")
        for module in (s3_store, recorded_files):
            patch.setattr(module, "Limits", lambda: Limits(opening_s=0.0))
        patch.setattr(recorded_files, "_given", _given_below(tmp_path_factory.getbasetemp()))
        yield


def _given_below(top: Path) -> Callable[[str], Path]:
    """Reads recorded traffic below a folder alone, for the same reason."""
    given = recorded_files._given

    def checked(url: str) -> Path:
        path = given(url)
        if not os.path.realpath(path).startswith(f"{os.path.realpath(top)}/"):
            raise WorkBegins
        return path

    return checked


def _only_below(top: Path) -> Callable[..., LocalStore]:
    """Opens stores below a folder alone: hostile paths lead to the root of this machine, too."""

    def opened(root: Path, *mode: Any) -> LocalStore:
        if not os.path.realpath(os.path.expanduser(root)).startswith(f"{os.path.realpath(top)}/"):
            raise WorkBegins
        return LocalStore(root, *mode)

    return opened


@given(command_lines())
@examples(100, 0.3)
def test_a_command_line_ends_well_or_says_why_not(arguments: list[str]) -> None:
    outcome = run(arguments)
    assert outcome.code in (0, 2), outcome
    if outcome.code == 2:
        message = outcome.err.rpartition("Error: ")[2]
        assert is_readable(message) is None, outcome
        assert names_one(message, [*arguments, *(part.partition("=")[2] for part in arguments)]), outcome
    counted("command lines", refused=outcome.code == 2)
