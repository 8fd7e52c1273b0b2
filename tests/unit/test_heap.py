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


def printed(script: str, *arguments: str) -> int:
    return int(subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted where glibc is expected")
def test_freed_memory_is_used_again_without_new_pages() -> None:
    # With huge pages there are few faults in either case.
    assert printed(_FAULTS, "keep") < printed(_FAULTS, "plain") / 2


def test_what_the_user_set_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_name: None) -> None:
        pytest.fail("the C library was asked")

    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    monkeypatch.setattr(ctypes, "CDLL", refused)
    keep_freed_memory()
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    with pytest.raises(pytest.fail.Exception):
        keep_freed_memory()


_NOT_ASKED = """
import ctypes
from mistudio.heap import release_freed_memory

def refused(name):
    raise SystemExit("the C library was asked")

ctypes.CDLL = refused
release_freed_memory()
print(1)
"""
_RELEASED = """
from pathlib import Path
import numpy as np
from mistudio.heap import keep_freed_memory, release_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

keep_freed_memory()
np.ones(32 << 20)  # 256 MiB
kept = resident()
release_freed_memory()
print(kept - resident())
"""
_THREADS = """
import ctypes, re, sys, threading
from pathlib import Path
from mistudio.heap import keep_freed_memory

keep_freed_memory(one_heap=sys.argv[1] == "one")
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_size_t
places = []
threads = [threading.Thread(target=lambda: places.append(libc.malloc(ctypes.c_size_t(1 << 20)))) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
first, last = re.search(r"^(\\w+)-(\\w+) .*\\[heap\\]$", Path("/proc/self/maps").read_text(), re.MULTILINE).groups()
print(sum(int(first, 16) <= place < int(last, 16) for place in places))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read where glibc is expected")
def test_what_is_kept_is_given_back_when_asked() -> None:
    assert printed(_RELEASED) > 200


def test_a_process_whose_entry_point_asked_for_nothing_is_left_as_it_is() -> None:
    assert printed(_NOT_ASKED) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the heap is found where glibc is expected")
def test_threads_share_one_heap_where_that_is_asked() -> None:
    assert printed(_THREADS, "one") == 2
    assert printed(_THREADS, "own") == 0
