import os
import sys
import threading

import pytest

from mistudio.monitor.priority import go_last


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux knows threads by themselves")
def test_the_calling_thread_goes_last_and_no_other() -> None:
    found: list[int] = []

    def work() -> None:
        go_last()
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert found == [10]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
