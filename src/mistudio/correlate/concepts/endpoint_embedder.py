"""Texts as a model behind an OpenAI-compatible endpoint has them (``POST /v1/embeddings``).

What is asked, retried, checked and kept is as for judges: see :mod:`mistudio.explain.endpoint`.

Shape legend: N texts, D width of the vectors.
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from mistudio.errors import InputError
from mistudio.explain.llm_config import EndpointConfig

if TYPE_CHECKING:
    pass

_OF_REQUEST = 32  # texts, so that a request stays small


class EndpointEmbedder:
    """Asks an endpoint for vectors; to be used in a ``with`` block, or closed.

    Args:
        config: where it is, and which model (``embedding_model``, or ``model``).
        answers: folder that keeps what was answered; None: nowhere.

    Raises:
        ConfigError: the key in the environment is none.
        StorageError: the answers cannot be opened.
    """

    centred = False

    def __init__(self, config: EndpointConfig, answers: Path | None = None) -> None:
        from mistudio.explain.endpoint import Endpoint

        self.name = f"{config.embeds_with} at an endpoint"
        self.identity = f"endpoint {config.embeds_with}"
        self.at_once = _OF_REQUEST * config.concurrency
        self._endpoint: Endpoint = Endpoint(config, answers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop what is under way and end the thread that asks."""
        self._endpoint.close()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of some texts [N, D].

        Raises:
            InputError: the endpoint gives none, or vectors of several widths.
        """
        from mistudio.explain.judge import Embedding

        parts = [tuple(texts[start : start + _OF_REQUEST]) for start in range(0, len(texts), _OF_REQUEST)]
        vectors: list[tuple[float, ...]] = []
        for reply in self._endpoint.ask(map(Embedding, parts)):
            if reply.vectors is None:
                message = f"The endpoint embedded no text: {reply.failure}. Look at its address and its model."
                raise InputError(message)
            vectors += reply.vectors
        widths = sorted({len(vector) for vector in vectors})
        if len(widths) > 1:
            message = f"The endpoint gave vectors of {widths[0]} and of {widths[-1]} numbers: ask one model alone."
            raise InputError(message)
        return np.array(vectors, dtype=np.float32)
