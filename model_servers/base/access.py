"""Who may ask, and how often: the same for HTTP and gRPC."""

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from mistudio.errors import ConfigError
from mistudio.plain_text import shortened
from model_servers.base.keys import NOBODY, Keys
from model_servers.base.lanes import Lane
from model_servers.base.problems import Problem, Refused, too_busy
from model_servers.base.rates import Rates
from model_servers.base.settings import ServerSettings, is_loopback

_PROBES = ("/v2/health/live", "/v2/health/ready")


class Access:
    """What lets a request pass.

    Args:
        keys: bearer keys; empty: whoever reaches the server may ask.
        settings: limits, and the address that the server listens at.

    Raises:
        ConfigError: the settings name a key that there is not.
    """

    def __init__(self, keys: Keys, settings: ServerSettings) -> None:
        self._keys = keys
        self._rates = Rates(settings.requests_per_minute, settings.burst)
        self._public = {*_PROBES, *(["/metrics"] if settings.public_metrics else [])}
        self._is_local = is_loopback(settings.host)
        self._sink_keys = frozenset(settings.sink_keys)
        self._check_names(self._sink_keys)
        self._open_sink = settings.open_sink

    def is_public(self, path: str) -> bool:
        """Whether a path is answered without a key, and counts for no limit: what probes and Prometheus read."""
        return path in self._public or (path.startswith("/v2/models/") and path.endswith("/ready"))

    def name_of(self, authorization: str, lane: Lane = Lane.REQUEST, offered: Iterable[str] = ()) -> str:
        """The name of the key that asks, of whose rate this request is one; what goes to a sink has no rate.

        Args:
            authorization: the header.
            lane: what is asked for.
            offered: secrets that were sent in another way.

        Raises:
            Refused: there is no such key, it may not do this, or it asks too often.
        """
        is_open = not self._keys or (lane is Lane.SINK and self._open_sink and not authorization)
        name = NOBODY if is_open else self._known(authorization, offered)
        if name in self._sink_keys and lane is not Lane.SINK:
            message = f"Key {name} may send events, and nothing else: use another key."
            raise Refused(Problem(403, message, "key_not_allowed"))
        if lane is not Lane.SINK:
            self.spend(name)
        return name

    def spend(self, name: str) -> None:
        """Count one more request of a key.

        Raises:
            Refused: it asks too often.
        """
        wait_s = self._rates.wait_s(name)
        if wait_s:
            message = f"Key {name} asks more often than it may: try again in {max(1, round(wait_s))} seconds."
            raise too_busy(message, wait_s, "rate_limit_exceeded")

    def check_origin(self, origin: str, host: str) -> None:
        """Refuse a page of another site: browsers let it open a WebSocket to anywhere, and say whose page it is.

        Raises:
            Refused: the page came from another host than it asks.
        """
        if origin and not _is_same(origin, host):
            message = "Origin is another site than Host: only pages of this site, and programs, may open a stream."
            raise Refused(Problem(403, message, "wrong_origin"))

    def check_host(self, host: str) -> None:
        """Refuse a page of another site whose name was made to lead to this machine, where no key would stop it.

        Raises:
            Refused: no key is asked for, the server listens at this machine alone, and the request names another.
        """
        if not self._keys and self._is_local and not _names_this_machine(host):
            message = "Host names another machine than this: ask by 127.0.0.1 or localhost, or start with keys."
            raise Refused(Problem(403, message, "wrong_host"))

    def _known(self, authorization: str, offered: Iterable[str]) -> str:
        found = [self._keys.named_by(authorization), *map(self._keys.name_of, offered)]
        name = next((each for each in found if each is not None), None)
        if name is None:
            what = "is not known" if authorization or offered else "is missing"
            message = f"The key {what}: send the header Authorization: Bearer KEY."
            raise Refused(Problem(401, message, "invalid_api_key"))
        return name

    def _check_names(self, sink_keys: frozenset[str]) -> None:
        unknown = sorted(sink_keys - self._keys.names)
        if unknown:
            message = f"--sink-keys names {shortened(unknown[0])}, but there is no key of that name: give it one."
            raise ConfigError(message)


def _is_same(origin: str, host: str) -> bool:
    """Whether a page of ``origin``, such as https://studio.example, asks the host that it came from."""
    try:
        page = urlsplit(origin)
        asked = urlsplit(f"{page.scheme}://{host}")
        default = {"http": 80, "https": 443}.get(page.scheme)
        return bool(page.hostname) and (page.hostname, page.port or default) == (asked.hostname, asked.port or default)
    except ValueError:
        return False


def _names_this_machine(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() in ("localhost", "")
