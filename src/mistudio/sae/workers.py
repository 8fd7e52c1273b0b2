"""Several processes that train the same autoencoders: what they have to exchange.

``accelerate launch`` or ``torchrun`` starts them and tells each its number. They share either the tokens of each
batch or the latents; alone, every exchange here is nothing at all.

Each exchange begins with an agreement on the host. A process that cannot go on takes part in it one last time and
says so: all others then stop too, where they would wait for ever. The same way all learn that memory ran out in one.
What an exchange needs memory for is therefore there before the agreement: after it nothing may fail in one alone.

Shape legend: R processes, T tokens, K candidates.
"""

import atexit
import datetime
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional

from mistudio.errors import MistudioError
from mistudio.sae.parallel import num_processes

# As long as a step of another run may hold the lock on what is to be trained. A process that ends is noticed at once.
_PATIENCE = datetime.timedelta(days=1)


class WorkerFailed(MistudioError):
    """Another process of the same training cannot go on."""


class WorkerOutOfMemory(torch.OutOfMemoryError):
    """Memory ran out in another process: all do the batch again, in smaller parts."""


class Workers:
    """The processes of one training, as one of them sees them.

    Args:
        rank: the number of this process, from 0.
        size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes, logs and publishes."""
        return self.rank == 0

    def share(self, num_rows: int) -> tuple[slice, float]:
        """The rows that this process takes of so many, and the weight of a mean over them in the mean over all.

        Fewer rows than processes go to each: so no process has none, and means stay what they are.
        """
        if num_rows < self.size:
            return slice(None), 1 / self.size
        first, stop = (number * num_rows // self.size for number in (self.rank, self.rank + 1))
        return slice(first, stop), (stop - first) / num_rows

    def block(self, whole: Tensor) -> Tensor:
        """The rows that this process keeps of a tensor that all have."""
        return whole.chunk(self.size)[self.rank] if self.size > 1 else whole

    def agree(self, number: int = 0) -> int:
        """Make sure that all can go on; the sum of a number over the processes.

        Raises:
            WorkerFailed: one cannot.
            WorkerOutOfMemory: one is out of memory.
        """
        if self.size == 1:
            return number
        out_of_memory, total = self._exchange(number)
        if out_of_memory:
            raise WorkerOutOfMemory
        return total

    def say_out_of_memory(self, error: Exception) -> None:
        """Let all others know that memory ran out here, unless it was they who said so."""
        if self.size > 1 and not isinstance(error, WorkerOutOfMemory):
            self._exchange(out_of_memory=True)

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Let all others know of any error inside."""
        try:
            yield
        except WorkerFailed:
            raise
        except Exception as error:
            if self.size > 1:
                with suppress(WorkerFailed):
                    self._exchange(failed=True)
            raise error

    def of_first(self, value: Any) -> Any:
        """What JSON can hold, from the first process to all."""
        if self.size == 1:
            return value
        data = json.dumps(value).encode() if self.is_first else b""
        buffer = torch.zeros(self.agree(len(data)), dtype=torch.uint8)
        if self.is_first:
            buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        distributed.broadcast(buffer, src=0)
        return json.loads(bytes(buffer.tolist()))

    def from_first(self, tensor: Tensor) -> Tensor:
        """The first process's of a tensor that has the same shape in all; the others' own may be overwritten."""
        if self.size == 1:
            return tensor
        tensor = tensor.contiguous()
        self.agree()
        distributed.broadcast(tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor, src=0)
        return tensor

    def sum_all(self, tensors: list[Tensor]) -> None:
        """Turn each tensor into its sum over the processes."""
        self.agree()
        if self.size > 1:
            for tensor in tensors:
                distributed.all_reduce(tensor)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, of which each computes the same loss: gradients pass as they are."""
        if self.size == 1:
            return tensor
        out: Tensor = _Total.apply(tensor, self)  # type: ignore[no-untyped-call]
        return out

    def mean(self, value: Tensor, weight: int) -> Tensor:
        """The mean over the processes of a scalar without gradient, each with its weight."""
        if self.size == 1:
            return value
        weights = self.agree(weight)
        return self.total(value * (weight / weights) if weight else torch.zeros_like(value))

    def least(self, value: Tensor) -> Tensor:
        """The smallest over the processes."""
        if self.size == 1:
            return value
        value = value.clone()
        self.agree()
        distributed.all_reduce(value, distributed.ReduceOp.MIN)
        return value

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, which have the same shape, one after the other along a new dimension."""
        if self.size == 1:
            return tensor[None]
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        self.agree()
        distributed.all_gather(parts, tensor)
        return torch.stack(parts)

    def collect(self, block: Tensor) -> Tensor:
        """The opposite of :meth:`block`, in the first process and on the CPU: a device may not hold the whole."""
        if self.size == 1:
            return block
        own = block.detach().cpu().contiguous()
        whole = own.new_empty(self.size * len(own), *own.shape[1:]) if self.is_first else own
        self.agree()
        distributed.gather(own, list(whole.chunk(self.size)) if self.is_first else None)
        return whole

    def among_largest(self, values_TK: Tensor, k: int) -> Tensor:
        """Which values are among the ``k`` largest of their row over all processes; of equal ones the first.

        Args:
            values_TK: at most ``k`` a row.
            k: how many to keep of each row.
        """
        all_RTK = self.gather(functional.pad(values_TK, (0, k - values_TK.shape[1]), value=-torch.inf))
        cut_T1 = all_RTK.transpose(0, 1).flatten(1).topk(k).values[:, -1:]
        above_T = (all_RTK > cut_T1).sum(dim=(0, 2))
        equal_RT = (all_RTK == cut_T1).sum(dim=2)
        left_T = k - above_T - equal_RT[: self.rank].sum(dim=0)
        equal_TK = values_TK == cut_T1
        return (values_TK > cut_T1) | (equal_TK & (equal_TK.cumsum(dim=1) <= left_T[:, None]))

    def _exchange(self, number: int = 0, *, out_of_memory: bool = False, failed: bool = False) -> tuple[bool, int]:
        """Tell all others whether this process can go on, and hear whether they can."""
        sums = torch.tensor([failed, out_of_memory, number], dtype=torch.int64)
        try:
            distributed.all_reduce(sums)
        except RuntimeError as error:
            message = "Another process of this training has ended; run the same command again to go on."
            raise WorkerFailed(message) from error
        num_failed, num_out_of_memory, total = sums.tolist()
        if num_failed:
            message = "Another process of this training cannot go on; its own message says why."
            raise WorkerFailed(message)
        return num_out_of_memory > 0, total


ALONE = Workers()


def start_workers(device: str) -> tuple[Workers, torch.device]:
    """The processes that were started together with this one, and the device of this one.

    Args:
        device: where to compute. Several processes get a GPU each, whichever is named.
    """
    chosen = torch.device(device)
    if num_processes() == 1:
        return ALONE, chosen
    from accelerate import PartialState

    # Both, so that agreements on the host never wait for the GPU.
    backend = "cuda:nccl,cpu:gloo" if chosen.type == "cuda" else None
    state = PartialState(cpu=chosen.type == "cpu", backend=backend, timeout=_PATIENCE)
    atexit.register(state.destroy_process_group)
    return Workers(state.process_index, state.num_processes), state.device if chosen.type == "cuda" else chosen


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, workers: Workers) -> Tensor:
        total = tensor.clone()
        workers.sum_all([total])
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
