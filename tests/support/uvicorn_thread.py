"""An ASGI application on a port of the loopback interface, in a thread, or until Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn


@contextmanager
def running(app: Any, port: int = 0) -> Iterator[str]:
    """The application's URL; it is ended behind the block."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        for _ in range(1200):
            if server.started or not thread.is_alive():
                break
            threading.Event().wait(0.025)
        assert server.started
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def until_told_to_end() -> None:
    """Wait for SIGTERM or Ctrl-C; for the main thread."""
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
