"""What the routes and KServe's model need of the predictor."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from mistudio.correlate.queries import Query


class LookUp(NamedTuple):
    """A look-up that was asked for.

    Attributes:
        name: which it is.
        read: makes the query, on a thread that looks up; raises ``Refused`` where it cannot be read.
        above: the client's field that holds it, where there may be others beside it.
    """

    name: str
    read: Callable[[], Query]
    above: str = ""


class Served(Protocol):
    """Look-ups that are served, or will be."""

    async def answers(self, look_ups: Sequence[LookUp], headers: Mapping[str, str]) -> list[bytes]:
        """Replies to look-ups as JSON, one after another.

        Args:
            look_ups: all of one client's request.
            headers: who asks: the id of the request and the name of the key.

        Raises:
            Refused: the model is not loaded yet, or one asks for what may not be done.
            InputError: one asks for what cannot be done.
            Busy: too many wait already.
        """
