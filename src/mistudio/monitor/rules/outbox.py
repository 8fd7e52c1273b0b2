"""Alerts on their way to one address: a bounded queue, tries with growing pauses, and counts of what became of them.

What answers 408, 429 or 5xx, or not at all, is asked again; each alert has an id, by which a receiver knows one that it
has had. A redirect is not followed: it could lead into the machine's own network. Where ``MISTUDIO_SIGNING_KEY`` is set
each request is signed::

    X-MiStudio-Signature: t=<seconds since 1970>,v1=<hex>

with the HMAC-SHA256 of ``mistudio alert``, a line break, t, a line break, and the body.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx

from mistudio.addresses import AddressRefused, Reach, check_literal, send_guarded
from mistudio.artifacts import SIGNING_KEY_ENV
from mistudio.artifacts.signing import signing_key
from mistudio.errors import ConfigError
from mistudio.monitor.records import Alert
from mistudio.monitor.rules.alerts import alert_content
from mistudio.monitor.rules.rules import CloudEventAction, WebhookAction
from mistudio.redaction import Secret

if TYPE_CHECKING:
    from tenacity import AsyncRetrying

logger = logging.getLogger(__name__)

SENT, FAILED, REFUSED, DROPPED = "sent", "failed", "refused", "dropped"
SIGNATURE_HEADER = "X-MiStudio-Signature"
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_MOST_PAUSE_S = 30.0


class _TryAgain(Exception):  # noqa: N818 - says what to do
    """What was sent did not arrive, and may do so the next time."""


class _NotTaken(Exception):  # noqa: N818
    """What was sent was not taken, and will not be."""


def address_of(action: WebhookAction | CloudEventAction, name: str, reach: Reach) -> str:
    """Where an action sends to.

    Raises:
        ConfigError: the variable that holds it is empty, or it is no address that anything is sent to.
    """
    url = action.url or Secret.from_environment([str(action.url_env)]).reveal()
    if not url:
        message = f"Action {name}: {action.url_env} holds no address. Set it, or give url."
        raise ConfigError(message)
    try:
        parsed = httpx.URL(url)
        is_address = parsed.scheme in ("http", "https") and bool(parsed.host)
    except (httpx.InvalidURL, ValueError):
        is_address = False
    if not is_address:
        message = f"Action {name}: the address is not one of HTTP. Write one like https://alerts.example.org/hook."
        raise ConfigError(message)
    check_literal(parsed.host, reach)
    return url


class Outbox:
    """What waits to be sent to one address, and sends it, one after the other.

    Args:
        name: of the action.
        action: where to and how.
        url: of it.
        reach: how far it may lead.
        first_pause_s: seconds before the second try.
    """

    def __init__(
        self, name: str, action: WebhookAction | CloudEventAction, url: str, reach: Reach, first_pause_s: float
    ) -> None:
        self.name, self.action = name, action
        self._url, self._reach, self._pause_s = url, reach, first_pause_s
        self._key = Secret.from_environment([SIGNING_KEY_ENV]) if signing_key() else Secret()
        self._waiting: asyncio.Queue[Alert] = asyncio.Queue()
        self._lock, self._num_waiting, self._counts = threading.Lock(), 0, Counter[str]()
        self._task: asyncio.Task[None] | None = None

    @property
    def shown(self) -> str:
        """Where it sends to, without what may be a secret."""
        return httpx.URL(self._url).host

    def put(self, alert: Alert, loop: asyncio.AbstractEventLoop) -> None:
        """Queue an alert, from any thread; where the queue is full it is dropped and counted."""
        with self._lock:
            if self._num_waiting >= self.action.max_waiting:
                self._counts[DROPPED] += 1
                return
            self._num_waiting += 1
        loop.call_soon_threadsafe(self._waiting.put_nowait, alert)

    def counts(self) -> dict[str, int]:
        """Alerts by what became of them, and how many wait."""
        with self._lock:
            return {
                **{name: self._counts[name] for name in (SENT, FAILED, REFUSED, DROPPED)},
                "waiting": self._num_waiting,
            }

    def start(self, client: httpx.AsyncClient) -> None:
        """Begin to send; on the loop that it sends on."""
        self._task = asyncio.get_running_loop().create_task(self._run(client))

    async def stop(self) -> None:
        """Send no more; what waits is dropped and counted. On the same loop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with self._lock:
            self._counts[DROPPED] += self._num_waiting
            self._num_waiting = 0

    async def _run(self, client: httpx.AsyncClient) -> None:
        while True:
            outcome = await self._sent(client, await self._waiting.get())
            with self._lock:
                self._counts[outcome] += 1
                self._num_waiting -= 1

    async def _sent(self, client: httpx.AsyncClient, alert: Alert) -> str:
        """What became of an alert; nothing that a receiver does ends the sending of others."""
        try:
            await self._again()(self._try, client, alert)
        except AddressRefused as error:
            logger.warning("Action %s: alert %s is not sent: %s", self.name, alert.id, error)
            return REFUSED
        except (_TryAgain, _NotTaken, httpx.HTTPError, OSError, TimeoutError, ConfigError) as error:
            why = str(error) or type(error).__name__
            logger.warning("Action %s: alert %s was not taken by %s: %.200s", self.name, alert.id, self.shown, why)
            return FAILED
        except Exception:
            logger.exception("Action %s: alert %s could not be sent", self.name, alert.id)
            return FAILED
        return SENT

    def _again(self) -> "AsyncRetrying":
        # Who only looks at rules needs no such library.
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random

        return AsyncRetrying(
            stop=stop_after_attempt(self.action.tries),
            wait=wait_exponential(multiplier=self._pause_s, max=_MOST_PAUSE_S) + wait_random(0, self._pause_s),
            retry=retry_if_exception_type((_TryAgain, httpx.HTTPError, OSError, TimeoutError)),
            reraise=True,
        )

    async def _try(self, client: httpx.AsyncClient, alert: Alert) -> None:
        body = json.dumps(alert_content(alert)).encode()
        headers = {"content-type": "application/json", "x-mistudio-alert": alert.id, **self._attributes(alert)}
        if self._key:
            headers[SIGNATURE_HEADER] = signature(self._key, int(time.time()), body)
        request = client.build_request("POST", self._url, content=body, headers=headers)
        send: Callable[[Any], Awaitable[Any]] = lambda one: client.send(one, stream=True, follow_redirects=False)  # noqa: E731
        async with asyncio.timeout(self.action.time_out_s):
            response: httpx.Response = await send_guarded(send, request, self._reach)
            await response.aclose()  # what it says is not read: its length is anybody's guess
        if response.is_success:
            return
        if response.is_redirect:
            message = "it answers with a redirect, which is not followed"
            raise _NotTaken(message)
        message = f"it answers {response.status_code}"
        raise _TryAgain(message) if response.status_code in _AGAIN else _NotTaken(message)

    def _attributes(self, alert: Alert) -> dict[str, str]:
        """Attributes of a CloudEvent in binary mode (CloudEvents 1.0, HTTP binding)."""
        if not isinstance(self.action, CloudEventAction):
            return {}
        at = datetime.fromtimestamp(alert.time, UTC).isoformat().replace("+00:00", "Z")
        found = {
            "id": alert.id,
            "source": self.action.source,
            "type": self.action.type,
            "subject": alert.rule,
            "time": at,
        }
        return {f"ce-{name}": _in_header(value) for name, value in {"specversion": "1.0", **found}.items()}


def signature(key: Secret, time_s: int, body: bytes) -> str:
    """The value of the header that signs a request."""
    content = b"mistudio alert\n" + str(time_s).encode() + b"\n" + body
    return f"t={time_s},v1={hmac.new(key.reveal().encode(), content, hashlib.sha256).hexdigest()}"


def _in_header(value: str) -> str:
    """As CloudEvents has it: what is not plain ASCII, spaces, quotes and percent signs become percent-encoded UTF-8."""
    plain = (chr(byte) if 0x21 <= byte <= 0x7E and byte not in b'"%' else f"%{byte:02X}" for byte in value.encode())
    return "".join(plain)
