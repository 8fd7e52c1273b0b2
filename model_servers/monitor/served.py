"""What the routes and KServe's model need of the predictor."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:  # torch comes with it, which is loaded when the model is
    from mistudio.monitor.service import MonitorService
    from mistudio.monitor.stats import MonitorStats

Made = TypeVar("Made")


class Served(Protocol):
    """A monitor that is served, or will be."""

    def monitor(self) -> "MonitorService":
        """The monitor.

        Raises:
            Refused: it is not loaded yet.
        """

    def stats(self) -> "MonitorStats | None":
        """What the monitor is at; None before it is loaded."""

    async def read(self, work: Callable[["MonitorService"], Made]) -> Made:
        """What ``work`` makes of the monitor, on a thread for what is looked up.

        Raises:
            Refused: it is not loaded yet.
            Busy: too many wait.
        """

    async def run(self, work: Callable[["MonitorService"], Made]) -> Made:
        """The same, on a thread for what goes through the model.

        Raises:
            Refused: it is not loaded yet.
            Busy: too many wait.
        """

    async def take(self, work: Callable[["MonitorService"], Made]) -> Made:
        """The same, on a thread that nothing else uses than the sink.

        Raises:
            Refused: it is not loaded yet.
            Busy: too many wait.
        """
