"""What the routes and KServe's model need of the predictor."""

from collections.abc import Mapping
from typing import Protocol

from model_servers.steer.running import Run


class Served(Protocol):
    """A model of texts that is served, or will be."""

    def model_name(self) -> str:
        """Name of the model.

        Raises:
            Refused: it is not loaded yet.
        """

    def new_run(self, api: str, headers: Mapping[str, str]) -> Run:
        """A run of the engine's.

        Args:
            api: by which it came, for the metrics.
            headers: who asks: the id of the request and the name of the key.

        Raises:
            Refused: the model is not loaded yet.
        """
