import ctypes
import subprocess
import sys

import pytest

from mistudio.heap import keep_freed_memory

_FAULTS = """
import resource, sys
import numpy as np
from mistudio.heap import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for turn in range(12):
    if turn == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(8 << 20)  # 64 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(what: str) -> int:
    return int(subprocess.run([sys.executable, "-c", _FAULTS, what], capture_output=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted where glibc is expected")
def test_freed_memory_is_used_again_without_new_pages() -> None:
    # With huge pages there are few faults in either case.
    assert faults("keep") < faults("plain") / 2


def test_what_the_user_set_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_name: None) -> None:
        pytest.fail("the C library was asked")

    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    monkeypatch.setattr(ctypes, "CDLL", refused)
    keep_freed_memory()
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    with pytest.raises(pytest.fail.Exception):
        keep_freed_memory()
