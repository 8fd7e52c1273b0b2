import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest
import torch

from mistudio import parallel
from mistudio.errors import MistudioError
from mistudio.parallel import in_background, in_parallel, num_cores, one_thread, single_threads, two_at_once


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "num_cores", lambda: 2)


@pytest.mark.usefixtures("two_cores")
def test_results_come_in_the_order_of_the_items_from_other_processes() -> None:
    large = list(range(10_000))

    def work(item: int) -> tuple[int, int]:
        time.sleep(0.02 if item == 0 else 0)
        return large[item] ** 2, os.getpid()

    squares, processes = zip(*in_parallel(work, range(40)), strict=True)
    assert list(squares) == [item**2 for item in range(40)]
    assert os.getpid() not in processes


@pytest.mark.usefixtures("two_cores")
def test_few_items_start_no_process() -> None:
    assert list(in_parallel(lambda _: os.getpid(), range(7))) == [os.getpid()] * 7


def test_one_core_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert num_cores() == 1
    assert set(in_parallel(lambda _: os.getpid(), range(40))) == {os.getpid()}


def test_cores_are_those_of_the_processs_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert 1 <= num_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.usefixtures("two_cores")
def test_what_the_work_raises_is_raised_after_the_results_before_it() -> None:
    def work(item: int) -> int:
        if item == 21:
            message = "no such token"
            raise ValueError(message)
        return item

    results = in_parallel(work, range(40))
    assert [next(results) for _ in range(20)] == list(range(20))
    with pytest.raises(ValueError, match="no such token"):
        list(results)


@pytest.mark.usefixtures("two_cores")
def test_a_killed_worker_is_an_error_and_not_a_lost_item() -> None:
    def work(item: int) -> int:
        if item == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    with pytest.raises(MistudioError, match="A worker process was killed"):
        list(in_parallel(work, range(40)))


def test_a_killed_parent_leaves_no_workers(tmp_path: Path) -> None:
    program = (
        "import os, sys, time; from pathlib import Path; from mistudio import parallel;"
        "parallel.num_cores = lambda: 2;"
        "work = lambda item: (Path(sys.argv[1], str(os.getpid())).touch(), time.sleep(60));"
        "list(parallel.in_parallel(work, range(40)))"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    while len(list(tmp_path.iterdir())) < 2:
        assert parent.poll() is None
        time.sleep(0.01)
    workers = [psutil.Process(int(path.name)) for path in tmp_path.iterdir()]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert psutil.wait_procs(workers, timeout=30)[1] == []


@pytest.mark.usefixtures("two_cores")
def test_work_beside_is_done_by_another_process_while_this_one_goes_on(tmp_path: Path) -> None:
    def work() -> int:
        while not (tmp_path / "go").exists():
            time.sleep(0.01)
        return os.getpid()

    with in_background(work) as result:
        (tmp_path / "go").touch()
        assert result() != os.getpid()


@pytest.mark.usefixtures("two_cores")
def test_work_beside_that_is_killed_is_an_error() -> None:
    with (
        pytest.raises(MistudioError, match="A worker process was killed"),
        in_background(lambda: os.kill(os.getpid(), signal.SIGKILL)) as result,
    ):
        result()


def test_on_one_core_the_work_is_done_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with in_background(os.getpid) as result:
        assert result() == os.getpid()


def test_one_thread_lasts_until_its_end_also_after_an_error() -> None:
    threads, inside = torch.get_num_threads(), []

    def fail() -> None:
        with one_thread():
            inside.append(torch.get_num_threads())
            raise KeyError

    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyError):
            fail()
        assert [*inside, torch.get_num_threads()] == [1, 2]
    finally:
        torch.set_num_threads(threads)


def in_new_thread() -> int:
    """What a thread that PyTorch has not seen has: what was last set for the process."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


@pytest.mark.parametrize(("pieces", "each"), [(lambda: single_threads(2), 1), (two_at_once, 2)])
def test_pieces_have_threads_of_their_own_and_the_rest_of_the_process_keeps_its(
    pieces: Callable[[], AbstractContextManager[Executor]], each: int
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with pieces() as pool:
            inside = list(pool.map(lambda _: (torch.get_num_threads(), in_new_thread()), range(3)))
        with one_thread():
            alone = torch.get_num_threads(), in_new_thread()
        assert (set(inside), alone) == ({(each, 4)}, (1, 4))
        assert (torch.get_num_threads(), in_new_thread()) == (4, 4)
    finally:
        torch.set_num_threads(threads)


def test_an_operation_of_a_single_thread_uses_one_core_alone() -> None:
    program = (
        "import os, torch; from mistudio.parallel import single_threads\n"
        "torch.set_num_threads(4); x = torch.ones(1500, 1500); count = lambda: len(os.listdir('/proc/self/task'))\n"
        "def work(_):\n    before = count(); x @ x; x.exp(); (x.bfloat16() @ x.bfloat16()); return count() - before\n"
        "with single_threads(1) as pool:\n    print(max(pool.map(work, range(2))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 0
    told = program.replace("with single_threads(1)", "import concurrent.futures as cf\nwith cf.ThreadPoolExecutor(1)")
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 0


def test_where_threads_cannot_be_told_apart_one_does_the_work_on_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_setters", lambda: None)
    threads = torch.get_num_threads()
    with single_threads(8) as pool:
        assert list(pool.map(lambda number: (number, torch.get_num_threads()), range(2))) == [
            (0, threads),
            (1, threads),
        ]
    with one_thread():
        assert torch.get_num_threads() == threads
