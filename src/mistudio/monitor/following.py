"""Answers of this process, followed as they are written: their features by token, and rules that end them.

What is read is what the model goes on with, after all edits. So only features can be: a direction of the watch list has
no value here, nor has a column that is realigned. The value beside a token was read where that token was predicted:
that of token 0 at the prompt's end.

Shape legend: W watched columns, L those of them that are read here, T tokens.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mistudio.instrument.compiled import Nameable
from mistudio.instrument.served import Served
from mistudio.instrument.table import Latent
from mistudio.monitor.live import Live
from mistudio.monitor.live_events import LiveEvent, token_event
from mistudio.monitor.records import Observation, Origin, Pooled
from mistudio.monitor.rules.rules import Rules
from mistudio.monitor.rules.stop_rules import StopRule, Values, firing, stop_rules, top_mean
from mistudio.monitor.watch.watch_list import WatchList

logger = logging.getLogger(__name__)

MOST_FOLLOWED = 1024  # columns: each takes a number a token
ENDPOINT = "steer"  # what the origin of such answers says
_KEPT_STOPPED = 1024


class Following:
    """Follows all answers; a listener of the service that generates, and what ends generations for actions.

    Args:
        served: the model and its autoencoders.
        watch_list: with its thresholds filled in.
        live: who is told of tokens.
        put: takes what was seen of a whole answer; from any thread, without waiting.
        realigned: names of the columns that are read through a map of the activations.
        tells_words: whether followers are told the words too.

    Attributes:
        latents: what is read of each token.
        num_stopped: answers that a rule ended.
    """

    def __init__(
        self,
        served: Served,
        watch_list: WatchList,
        live: Live,
        put: Callable[[Observation], object],
        *,
        realigned: Collection[str] = (),
        tells_words: bool = False,
    ) -> None:
        self._model, self._watch_list, self._live, self._put = served.name, watch_list, live, put
        self._tells_words = tells_words
        nameable = Nameable(served.session, [one.name for one in served.features])
        named = [
            (number, one)
            for number, one in enumerate(watch_list.watched)
            if one.feature is not None and one.name not in realigned
        ][:MOST_FOLLOWED]
        self._column_L = np.array([number for number, _ in named], dtype=np.int64)
        self.latents: tuple[Latent, ...] = tuple(
            (nameable.number(one.autoencoder), int(one.feature or 0)) for _, one in named
        )
        self._stops: tuple[StopRule, ...] = ()
        self._open: dict[str, FollowedAnswers] = {}
        self._stopped: dict[str, None] = {}  # the last ones that a rule ended
        self._lock = threading.Lock()
        self.num_stopped = 0

    @property
    def models(self) -> frozenset[str]:
        """Names of the models whose generations can be ended."""
        return frozenset([self._model])

    def use(self, rules: Rules) -> None:
        """End answers by these rules from now on."""
        place = {int(column): number for number, column in enumerate(self._column_L)}
        self._stops = stop_rules(rules, self._watch_list, place)

    def follow(self, request: str, key: str | None) -> "FollowedAnswers":
        """Begin to follow a request."""
        origin = Origin(self._model, ENDPOINT, tenant=key or "")
        with self._lock:
            name, number = request, 1
            while name in self._open:  # ids are the clients' choice, and a request may be several of the engine's
                name, number = f"{request}/{number}", number + 1
            followed = FollowedAnswers(self, name, origin)
            self._open[name] = followed
        return followed

    def stop(self, exchange: str) -> bool:
        """End the answers to a request with their next token; whether there are any, or a rule has just ended them."""
        with self._lock:
            followed = self._open.get(exchange)
            if followed is not None:
                followed.why = "a rule of the monitor"
            return followed is not None or exchange in self._stopped

    # For those who are followed

    def firing(self, origin: Origin, values: Values) -> str | None:
        """The rule that ends an answer with its last token."""
        return firing(self._stops, origin, values) if self._stops else None

    def tell(
        self, followed: "FollowedAnswers", index: int, text: str, value_L: NDArray[np.float32], place: int
    ) -> None:
        """Tell of a token."""
        if not self._live.num_followers:
            return
        value_W = np.full(len(self._watch_list.watched), np.nan, dtype=np.float32)
        value_W[self._column_L] = value_L
        self._live.tell(
            token_event(followed.origin, followed.name, index, place, text if self._tells_words else "", value_W)
        )

    def note_stop(self, name: str) -> None:
        """Note that a rule has ended an answer."""
        with self._lock:
            self.num_stopped += 1
            self._stopped[name] = None
            if len(self._stopped) > _KEPT_STOPPED:
                del self._stopped[next(iter(self._stopped))]

    def over(self, followed: "FollowedAnswers", answers: Mapping[int, Values], reasons: Mapping[int, str]) -> None:
        """Hand on what was seen of a request's answers."""
        with self._lock:
            self._open.pop(followed.name, None)
        for index, values in sorted(answers.items()):
            self._put(self._observation(followed, index, values.whole()))
        body = {"answers": len(answers), "stopped": {str(index): why for index, why in reasons.items()}}
        self._live.tell(LiveEvent("end", followed.origin, followed.name, None, body))

    def _observation(self, followed: "FollowedAnswers", index: int, value_TL: NDArray[np.float32]) -> Observation:
        whole = self._pooled(value_TL)
        return Observation(
            exchange=followed.name,
            sample=index,
            time=followed.time,
            origin=followed.origin,
            num_tokens=whole.num_tokens,
            reply_from=0,
            max_W=whole.max_W,
            place_W=whole.place_W,
            top_W=whole.top_W,
            reply=whole,
        )

    def _pooled(self, value_TL: NDArray[np.float32]) -> Pooled:
        """The columns over the tokens of an answer; those that are not read have no value."""
        width = len(self._watch_list.watched)
        max_W, top_W = (np.full(width, np.nan, dtype=np.float32) for _ in range(2))
        place_W = np.full(width, -1, dtype=np.int64)
        if len(value_TL):
            max_W[self._column_L], place_W[self._column_L] = value_TL.max(axis=0), value_TL.argmax(axis=0)
            tops = [
                one.top if one.pool == "top" else 1 for one in map(self._watch_list.watched.__getitem__, self._column_L)
            ]
            top_W[self._column_L] = [top_mean(value_T, top) for value_T, top in zip(value_TL.T, tops, strict=True)]
        return Pooled(len(value_TL), max_W, place_W, top_W)


class FollowedAnswers:
    """The answers to one request; see :class:`~mistudio.instrument.listening.Followed`.

    Args:
        following: all that is followed.
        name: of the request, unlike that of any other under way.
        origin: of it.

    Attributes:
        time: when it came, in seconds since 1970.
        why: why its answers have to end with their next token; None: they need not.
    """

    def __init__(self, following: Following, name: str, origin: Origin) -> None:
        self._following, self.name, self.origin, self.time = following, name, origin, time.time()
        self.why: str | None = None
        self._answers: defaultdict[int, Values] = defaultdict(lambda: Values(len(following.latents)))
        self._reasons: dict[int, str] = {}
        self._is_over = False

    @property
    def latents(self) -> Sequence[Latent]:
        """What is read of each token."""
        return self._following.latents

    def wrote(self, index: int, text: str, values: Sequence[float]) -> str | None:
        """A token was written; why the answer has to end with it."""
        try:
            return self._wrote(index, text, values)
        except Exception:
            logger.exception("A token that was written could not be followed")
            return None

    def ended(self) -> None:
        """Nothing more will be written."""
        if self._is_over:
            return
        self._is_over = True
        try:
            self._following.over(self, self._answers, self._reasons)
        except Exception:
            logger.exception("What was seen of an answer could not be handed on")

    def _wrote(self, index: int, text: str, values: Sequence[float]) -> str | None:
        value_L, found = np.asarray(values, dtype=np.float32), self._answers[index]
        found.add(value_L)
        self._following.tell(self, index, text, value_L, len(found) - 1)
        rule = self._following.firing(self.origin, found)
        if rule is not None:
            self._following.note_stop(self.name)
        why = self.why if rule is None else f"rule {rule} of the monitor"
        if why is not None:
            self._reasons[index] = why
        return why
