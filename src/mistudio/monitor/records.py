"""What the parts of the monitor hand to each other: traffic, what was seen in it, and what is to be told.

::

    a logger's events, Parquet batches, requests      --> Exchange      (events, sources)
    Exchange     --watch--> Observation                                 (watching)
    Observation  --rules, drift--> Alert                                (rules, drift)
    Observation, Alert --> history                                      (history)

Shape legend: W watched columns, A active features of a sample.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.instrument.messages import Message


@dataclass(frozen=True)
class Origin:
    """Where traffic came from; an empty text is one that nobody told.

    Attributes:
        model: name of the watched model, as requests call it.
        endpoint: the part of its service that answered: predictor, canary, and the like.
        namespace: of the service.
        tenant: who asked, where a header or a field tells.
    """

    model: str = ""
    endpoint: str = ""
    namespace: str = ""
    tenant: str = ""


@dataclass(frozen=True)
class Sample:
    """One text that the watched model had before it: a prompt, and one of the answers to it.

    Attributes:
        content: plain text, a chat, or token ids.
        reply_from: where the answer begins: character of a text, message of a chat, token of ids. None: there is none.
    """

    content: str | tuple[Message, ...] | tuple[int, ...]
    reply_from: int | None = None


@dataclass(frozen=True)
class Exchange:
    """A request to a watched model, with its answers where they came.

    Attributes:
        id: of the request; one exchange has one.
        time: when it arrived, in seconds since 1970.
        origin: where it came from.
        samples: a prompt alone, or with each of its answers.
        is_whole: whether an answer came; without one a time-out let it go.
    """

    id: str
    time: float
    origin: Origin
    samples: tuple[Sample, ...]
    is_whole: bool = True


class Fired(NamedTuple):
    """The features of one autoencoder that fired in a sample, where all of it is encoded."""

    feature_A: NDArray[np.int64]  # ascending
    count_A: NDArray[np.int64]  # tokens that each fired on
    max_A: NDArray[np.float32]


class Pooled(NamedTuple):
    """The watched columns over some tokens of a sample."""

    num_tokens: int
    max_W: NDArray[np.float32]  # largest value
    place_W: NDArray[np.int64]  # token at which it is; -1 where there are no tokens, or it is 0: nothing fired
    top_W: NDArray[np.float32]  # mean of the m largest values, of columns that are pooled so; of others the largest


@dataclass(frozen=True, eq=False)
class Observation:
    """What was seen in one sample.

    Attributes:
        exchange: id of its request.
        sample: which of its samples, from 0.
        time: of the exchange.
        origin: of the exchange.
        num_tokens: that were read; special ones around a text are left out.
        reply_from: first token of the answer; None: there is none, or it cannot be told.
        max_W: largest value over tokens of each watched column.
        place_W: token at which it is, special ones counted; -1 where there are no tokens, or it is 0: nothing fired.
        top_W: mean of the m largest values over tokens, of columns that are pooled so; of others the largest.
        fired: by URI of an autoencoder that is encoded in full.
        strings: of the tokens, only where keeping text is switched on.
        prompt: the columns over the prompt alone; None: there is no answer, or parts are not told apart.
        reply: the columns over the answer alone; likewise.
    """

    exchange: str
    sample: int
    time: float
    origin: Origin
    num_tokens: int
    reply_from: int | None
    max_W: NDArray[np.float32]
    place_W: NDArray[np.int64]
    top_W: NDArray[np.float32]
    fired: Mapping[str, Fired] = field(default_factory=dict)
    strings: tuple[str, ...] | None = None
    prompt: Pooled | None = None
    reply: Pooled | None = None

    @property
    def whole(self) -> Pooled:
        """The columns over all tokens."""
        return Pooled(self.num_tokens, self.max_W, self.place_W, self.top_W)

    def over(self, part: str) -> Pooled | None:
        """The columns over ``all``, ``prompt`` or ``reply``; without an answer all of it is the prompt."""
        if part == "reply":
            return self.reply
        return self.prompt if part == "prompt" and self.prompt is not None else self.whole


@dataclass(frozen=True)
class Alert:
    """What a rule or a test of drift has to tell.

    Attributes:
        id: unlike that of any other alert.
        time: when, in seconds since 1970; of the traffic, so that a replay gives the same.
        rule: name of the rule, or of the test of drift.
        kind: ``threshold``, ``rate``, ``set`` or ``drift``.
        severity: ``info``, ``warning`` or ``critical``.
        message: for people: what, how much, against what.
        origin: of what fired; fields that the rule does not tell apart are empty.
        exchange: the request that it fired at.
        watched: names of the watched columns that it is about, or features as ``uri#number``.
        values: figures by name.
        is_end: whether what was told before is over.
    """

    id: str
    time: float
    rule: str
    kind: str
    severity: str
    message: str
    origin: Origin = Origin()
    exchange: str = ""
    watched: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    is_end: bool = False
