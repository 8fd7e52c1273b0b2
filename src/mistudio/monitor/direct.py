"""Texts, chats and token ids that a client wants read at once, and what comes back: the same for all protocols."""

import threading
import time
import uuid
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from mistudio.errors import Busy, InputError
from mistudio.instrument.messages import Message
from mistudio.monitor.live_events import alert_body, short
from mistudio.monitor.records import Alert, Exchange, Observation, Origin, Sample
from mistudio.monitor.watching import TokenValues, Watcher
from mistudio.settings import Settings

MOST_CHARACTERS, MOST_IDS = 1 << 22, 1 << 20
_MOST_FEATURES = 32  # of an autoencoder, that are told
_RETRY_S = 1.0
Name = Annotated[str, Field(max_length=200)]


class Asked(Settings):
    """One text to be read: give text, ids or messages."""

    text: str | None = Field(None, max_length=MOST_CHARACTERS, description="plain text")
    ids: tuple[Annotated[int, Field(ge=0, le=1 << 40)], ...] | None = Field(
        None, min_length=1, max_length=MOST_IDS, description="token ids, as they are"
    )
    messages: tuple[Message, ...] | None = Field(None, min_length=1, max_length=1024, description="a chat")
    reply_from: int | None = Field(
        None,
        ge=0,
        le=1 << 40,
        description="where the answer begins: character of a text, token of ids, message of a chat",
    )
    tokens: bool = Field(False, description="tell the values of each token too")
    record: bool = Field(
        False, description="let it count as traffic too: for rules, drift, history and those who follow"
    )
    model: Name = Field("", description="of what model it is traffic")
    endpoint: Name = Field("", description="of what endpoint")
    tenant: Name = Field("", description="of what tenant")

    @model_validator(mode="after")
    def _is_one(self) -> "Asked":
        if sum(each is not None for each in (self.text, self.ids, self.messages)) != 1:
            message = "give text, ids or messages, one of the three"
            raise ValueError(message)
        length = len(self.text or self.ids or self.messages or ())
        if self.reply_from is not None and self.reply_from > length:
            message = f"reply_from ({self.reply_from}) is beyond the end, which is at {length}"
            raise ValueError(message)
        return self

    def exchange(self, request: str = "") -> Exchange:
        """It as traffic."""
        content = self.text if self.text is not None else self.ids if self.ids is not None else self.messages
        assert content is not None  # noqa: S101 - what pydantic checked
        origin = Origin(self.model, self.endpoint, tenant=self.tenant)
        return Exchange(
            request or uuid.uuid4().hex,
            time.time(),
            origin,
            (Sample(content, self.reply_from),),
            self.reply_from is not None,
        )


class DirectReader:
    """Reads what clients ask for, on their threads, one after the other.

    Args:
        watcher: one of its own, beside that of the traffic.
        names: of the watched columns.
        would_alert: what rules would tell of an observation, were it the first they meet.
        num_waiting: that may wait.
    """

    def __init__(
        self,
        watcher: Watcher,
        names: tuple[str, ...],
        would_alert: Callable[[Observation], list[Alert]],
        num_waiting: int,
    ) -> None:
        self._watcher, self._names, self._would_alert = watcher, names, would_alert
        self._room = threading.BoundedSemaphore(num_waiting)
        self._lock = threading.Lock()

    def read(self, asked: Asked, request: str = "") -> dict[str, Any]:
        """What is seen, as JSON has it.

        Raises:
            InputError: it cannot be read.
            Busy: too many wait.
        """
        exchange = asked.exchange(request)
        with _Place(self._room), self._lock:
            found = self._watcher.observe([exchange])
            tokens = self._watcher.observe_tokens(exchange.samples) if asked.tokens or not found else []
        if not found:  # else reading its tokens has said why not
            message = "Nothing of it can be read: it is longer than what is read, or has no tokens."
            raise InputError(message)
        alerts = [alert_body(alert) for alert in self._would_alert(found[0])]
        body = {**self._seen(found[0]), "alerts": alerts}
        return {**body, "by_token": self.by_token(tokens[0])} if asked.tokens else body

    def tokens(self, sample: Sample) -> TokenValues:
        """The columns on each token.

        Raises:
            InputError: it cannot be read.
            Busy: too many wait.
        """
        with _Place(self._room), self._lock:
            return self._watcher.observe_tokens([sample])[0]

    def by_token(self, found: TokenValues) -> dict[str, Any]:
        """Values by token as JSON has them."""
        values = {
            name: [short(value) for value in found.value_TW[:, column].tolist()]
            for column, name in enumerate(self._names)
        }
        body = {"ids": list(found.ids), "strings": list(found.strings), "is_read": found.is_read_T.tolist()}
        roles = {} if found.role_T is None else {"roles": list(found.role_T)}
        return {**body, **roles, "values": values}

    def _seen(self, one: Observation) -> dict[str, Any]:
        watched = {
            name: {"max": short(float(largest)), "token": int(place), "top": short(float(top))}
            for name, largest, place, top in zip(self._names, one.max_W, one.place_W, one.top_W, strict=True)
        }
        features = {}
        for uri, fired in one.fired.items():
            order = np.argsort(-fired.max_A, kind="stable")[:_MOST_FEATURES]
            features[uri] = [
                {
                    "feature": int(fired.feature_A[at]),
                    "tokens": int(fired.count_A[at]),
                    "max": short(float(fired.max_A[at])),
                }
                for at in order.tolist()
            ]
        return {"tokens": one.num_tokens, "reply_from": one.reply_from, "watched": watched, "features": features}


class _Place:
    """A place among those who wait."""

    def __init__(self, room: threading.BoundedSemaphore) -> None:
        self._room = room

    def __enter__(self) -> None:
        if not self._room.acquire(blocking=False):
            message = "As many requests wait to be read as may: try again in a moment."
            raise Busy(message, _RETRY_S)

    def __exit__(self, *_error: object) -> None:
        self._room.release()
