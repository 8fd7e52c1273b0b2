"""Who may ask, and how often: the same for HTTP and gRPC."""

import ipaddress

from model_servers.base.keys import NOBODY, Keys
from model_servers.base.problems import Problem, Refused, too_busy
from model_servers.base.rates import Rates
from model_servers.base.settings import ServerSettings, is_loopback

_PROBES = ("/v2/health/live", "/v2/health/ready")


class Access:
    """What lets a request pass.

    Args:
        keys: bearer keys; empty: whoever reaches the server may ask.
        settings: limits, and the address that the server listens at.
    """

    def __init__(self, keys: Keys, settings: ServerSettings) -> None:
        self._keys = keys
        self._rates = Rates(settings.requests_per_minute, settings.burst)
        self._public = {*_PROBES, *(["/metrics"] if settings.public_metrics else [])}
        self._is_local = is_loopback(settings.host)

    def is_public(self, path: str) -> bool:
        """Whether a path is answered without a key, and counts for no limit: what probes and Prometheus read."""
        return path in self._public or (path.startswith("/v2/models/") and path.endswith("/ready"))

    def name_of(self, authorization: str) -> str:
        """The name of the key that asks, of whose rate this request is one.

        Raises:
            Refused: there is no such key, or it asks too often.
        """
        name = self._keys.bearer(authorization) if self._keys else NOBODY
        if name is None:
            what = "is not known" if authorization else "is missing"
            message = f"The key {what}: send the header Authorization: Bearer KEY."
            raise Refused(Problem(401, message, "invalid_api_key"))
        wait_s = self._rates.wait_s(name)
        if wait_s:
            message = f"Key {name} asks more often than it may: try again in {max(1, round(wait_s))} seconds."
            raise too_busy(message, wait_s, "rate_limit_exceeded")
        return name

    def check_host(self, host: str) -> None:
        """Refuse a page of another site whose name was made to lead to this machine, where no key would stop it.

        Raises:
            Refused: no key is asked for, the server listens at this machine alone, and the request names another.
        """
        if not self._keys and self._is_local and not _names_this_machine(host):
            message = "Host names another machine than this: ask by 127.0.0.1 or localhost, or start with keys."
            raise Refused(Problem(403, message, "wrong_host"))


def _names_this_machine(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() in ("localhost", "")
