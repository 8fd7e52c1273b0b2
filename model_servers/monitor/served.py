"""What the routes and KServe's model need of the predictor."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:  # torch comes with it, which is loaded when the model is
    from mistudio.monitor.service import MonitorService
    from mistudio.monitor.stats import MonitorStats
    from mistudio.monitor.traffic.events import EventsRead
    from mistudio.monitor.traffic.inlet import Inlet

Made = TypeVar("Made")


class Served(Protocol):
    """A monitor that is served, or will be.

    Attributes:
        inlet: where traffic comes in, from before the model is loaded.
    """

    inlet: "Inlet"

    def monitor(self) -> "MonitorService":
        """The monitor.

        Raises:
            Refused: it is not loaded yet.
        """

    def stats(self) -> "MonitorStats | None":
        """What the monitor is at: before it is loaded, what came; None behind its end."""

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

    async def take(self, headers: Mapping[str, str], body: bytes) -> "EventsRead":
        """Take events, on a thread that nothing else uses than the sink.

        Raises:
            EventRefused: the body holds none.
            Busy: too many wait.
        """
