"""Texts, chats and token ids that a client wants read at once: the same answers for all protocols."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from mistudio.errors import InputError
from mistudio.monitor.direct_requests import Asked
from mistudio.monitor.live_events import alert_body, short
from mistudio.monitor.records import Alert, Observation, Sample
from mistudio.monitor.watch.watching import TokenValues, Watcher

_MOST_FEATURES = 32  # of an autoencoder, that are told


class DirectReader:
    """Reads what clients ask for, on their threads, one after the other.

    Args:
        watcher: one of its own, beside that of the traffic.
        names: of the watched columns.
        would_alert: what rules would tell of an observation, were it the first they meet.
    """

    def __init__(
        self,
        watcher: Watcher,
        names: tuple[str, ...],
        would_alert: Callable[[Observation], list[Alert]],
    ) -> None:
        self._watcher, self._names, self._would_alert = watcher, names, would_alert
        self._lock = threading.Lock()

    def read(self, asked: Asked, request: str = "") -> dict[str, Any]:
        """What is seen, as JSON has it.

        Raises:
            InputError: it cannot be read.
        """
        exchange = asked.exchange(request)
        with self._lock:
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
        """
        with self._lock:
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
