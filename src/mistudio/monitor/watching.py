"""Reading traffic: exchanges through the model, in one pass for all layers, to the values of what is watched.

Shape legend: T tokens of a sample, W watched columns.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mistudio.instrument.served import Served
from mistudio.monitor.records import Exchange, Observation, Sample
from mistudio.monitor.watch_config import WatchConfig
from mistudio.monitor.watch_list import WatchList


@dataclass(frozen=True, eq=False)
class TokenValues:
    """The watched columns on each token of one sample, for a live view.

    Attributes:
        ids: of all tokens, special ones and a template's included [T].
        strings: how each reads.
        is_read_T: which count: neither special ones nor a template's.
        value_TW: of each column.
        reply_from: first token of the answer; None: there is none, or it cannot be told.
        role_T: whose message a token belongs to, of chats; None where it is no message's.
    """

    ids: tuple[int, ...]
    strings: tuple[str, ...]
    is_read_T: NDArray[np.bool_]
    value_TW: NDArray[np.float32]
    reply_from: int | None
    role_T: Sequence[str | None] | None = None


class Watcher:
    """Reads what a watch list names, on one thread at a time.

    Args:
        served: the model and its autoencoders; it is not closed.
        watch_list: what to read.
        config: how.

    Raises:
        NotFound: an autoencoder, a feature or a direction is not there.
        InputError: a direction is of another model.
        ConfigError: the list and the settings do not fit.
    """

    refused: Counter[str]  # samples that could not be read, by reason

    def __init__(self, served: Served, watch_list: WatchList, config: WatchConfig = WatchConfig()) -> None:
        raise NotImplementedError

    def observe(self, exchanges: Sequence[Exchange]) -> list[Observation]:
        """What is seen in each sample, exchange by exchange; what cannot be read is left out and counted.

        One call makes batches of samples of like length; it holds no more than a batch's activations.
        """
        raise NotImplementedError

    def observe_tokens(self, samples: Sequence[Sample]) -> list[TokenValues]:
        """The columns on each token of each sample.

        Raises:
            InputError: a sample cannot be read.
        """
        raise NotImplementedError
