import subprocess
import sys

import pytest

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


def faults(what: str, monkeypatch: pytest.MonkeyPatch, **environment: str) -> int:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return int(subprocess.run([sys.executable, "-c", _FAULTS, what], capture_output=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted where glibc is expected")
def test_freed_memory_is_used_again_without_new_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_each_time = faults("plain", monkeypatch)
    assert faults("keep", monkeypatch) < asked_each_time / 10


def test_what_the_user_set_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, set_by_user = faults("plain", monkeypatch), faults("keep", monkeypatch, MALLOC_ARENA_MAX="2")
    assert set_by_user > plain / 2
