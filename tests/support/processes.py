"""Several processes that know of each other, as ``torchrun`` starts them, for tests of what they do together.

A server that has the slow imports behind it forks them.
"""

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Self

import torch

_PATIENCE_S = 300


class Team:
    """Processes that wait for functions to run.

    Args:
        size: how many there are.
    """

    def __init__(self, size: int = 2) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["accelerate", "mistudio.train", "torch._dynamo"])
        port = _free_port()
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(size):
            pipe, other = context.Pipe()
            self.pipes.append(pipe)
            self.processes.append(context.Process(target=_serve, args=(other, rank, size, port), daemon=True))
            self.processes[-1].start()
            other.close()

    def run(self, function: Callable[..., Any], *args: Any, **settings: Any) -> list[Any]:
        """What the function returns in each process, or the exception that it ends with; None from a dead one."""
        for pipe in self.pipes:
            pipe.send((function, args, settings))
        return [self._result(pipe) for pipe in self.pipes]

    def _result(self, pipe: Connection) -> Any:
        if not pipe.poll(_PATIENCE_S):
            message = f"No answer in {_PATIENCE_S} s: the processes wait for each other."
            raise TimeoutError(message)
        try:
            return pipe.recv()
        except EOFError:
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
        for process, pipe in zip(self.processes, self.pipes, strict=True):
            process.join()
            pipe.close()


def _serve(pipe: Connection, rank: int, size: int, port: int) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    torch.set_num_threads(1)
    while True:
        function, args, settings = pipe.recv()
        try:
            answer = function(*args, **settings)
        except Exception as error:
            answer = error
        pipe.send(answer)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
