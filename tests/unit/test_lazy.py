"""Names that packages import on demand: all of them are there, and asking for another one imports nothing."""

import subprocess
import sys
from importlib import import_module

import pytest

LAZY = ("activations", "instrument", "sae", "subject", "train")


@pytest.mark.parametrize("package", LAZY)
def test_every_name_of_a_package_is_there(package: str) -> None:
    module = import_module(f"mistudio.{package}")
    assert [name for name in module.__all__ if getattr(module, name, None) is None] == []


def test_asking_for_a_name_that_is_not_there_imports_nothing() -> None:
    code = (
        "import sys\n"
        f"for name in {LAZY!r}:\n"
        "    module = __import__(f'mistudio.{name}', fromlist=['nothing'])\n"
        "    try:\n"
        "        module.nothing\n"
        "    except AttributeError as error:\n"
        "        print(error)\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *refused, has_torch = done.stdout.splitlines()
    assert refused == [f"module 'mistudio.{name}' has no attribute 'nothing'" for name in LAZY]
    assert has_torch == "False"
