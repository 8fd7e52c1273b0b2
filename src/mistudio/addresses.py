"""Where this machine may send something because a setting or a request says so.

An address that others give can lead into the machine's own network: to the metadata service of a cloud, which hands out
credentials, or to services that trust whoever reaches them. A name can lead to one place when it is checked and to
another when it is used. So what is sent goes to the very addresses that were checked (:func:`send_guarded`), and no
redirect is followed.

The metadata services, and addresses that are no single machine's, are never reached. Beyond that there are two kinds:

* ``Reach.TRUSTED``: of an address that whoever runs the process gives on purpose, such as a judge in the same cluster:
  private networks and this machine are reached.
* ``Reach.PUBLIC``: of an address that anybody can give: only what the internet reaches.

``MISTUDIO_ALLOWED_HOSTS`` narrows both: names (``judge.example.org``, ``*.svc.cluster.local``) and networks
(``10.0.0.0/8``) with commas between them, and nothing else is reached. What it names is reached for ``PUBLIC`` too.
"""

import asyncio
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum
from typing import Any, NamedTuple
from urllib.request import getproxies, proxy_bypass

from mistudio.errors import ConfigError
from mistudio.plain_text import shortened

ALLOWED_ENV = "MISTUDIO_ALLOWED_HOSTS"
_PORTS = {"http": 80, "https": 443}
# Link-local ones are told by their kind; these look like any other address of a private network, or of the internet.
_METADATA = frozenset(
    map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16", "fd20:ce::254"))
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

IP = ipaddress.IPv4Address | ipaddress.IPv6Address


class Reach(Enum):
    """How far an address may lead."""

    TRUSTED = "trusted"
    PUBLIC = "public"


class AddressRefused(ConfigError):
    """An address leads where nothing is sent."""


class Allowed(NamedTuple):
    """What ``MISTUDIO_ALLOWED_HOSTS`` names."""

    names: tuple[str, ...] = ()
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()

    def __bool__(self) -> bool:
        """Whether it names anything, so that nothing else is reached."""
        return bool(self.names or self.networks)

    def has(self, host: str, address: IP) -> bool:
        """Whether a host that leads to an address is named."""
        host = host.lower().rstrip(".")
        by_name = any(host == name or (name[:2] == "*." and host.endswith(name[1:])) for name in self.names)
        return by_name or any(address in network for network in self.networks)


def allowed_hosts() -> Allowed:
    """What the environment allows; nothing named: no narrowing.

    Raises:
        ConfigError: it names a network that is none.
    """
    names, networks = [], []
    for each in filter(None, (part.strip().lower() for part in os.environ.get(ALLOWED_ENV, "").split(","))):
        try:
            networks.append(ipaddress.ip_network(each))
        except ValueError as error:
            if "/" in each:
                message = f"{ALLOWED_ENV} names {shortened(each)}, which is no network: write one like 10.0.0.0/8."
                raise ConfigError(message) from error
            names.append(each.rstrip("."))
    return Allowed(tuple(names), tuple(networks))


def check_address(host: str, address: IP, reach: Reach, allowed: Allowed) -> None:
    """Refuse an address that a host leads to.

    Raises:
        AddressRefused: nothing is sent there.
    """
    for each in _stands_for(address):
        why = _why_not(each, reach, is_named=allowed.has(host, each))
        if why is None and allowed and not allowed.has(host, each):
            why = f"is not named by {ALLOWED_ENV}"
        if why is not None:
            leads = "" if str(address) == host else f" leads to {address}"
            message = (
                f"{shortened(host)}{leads} {why}: nothing is sent there. Give another address, or have whoever runs "
                f"this name the host in {ALLOWED_ENV}, if it is not one that is never reached."
            )
            raise AddressRefused(message)


def check_literal(host: str, reach: Reach) -> None:
    """Refuse a host that is an address as it stands; one that is a name is looked up when it is used.

    Raises:
        AddressRefused: nothing is sent there.
    """
    address = literal(host)
    if address is not None:
        check_address(host, address, reach, allowed_hosts())


def literal(host: str) -> IP | None:
    """The address that a host is, also in hex, octal or as one number, as who looks names up takes it; None: a name."""
    text = host.strip("[]").partition("%")[0].rstrip(".")
    with suppress(ValueError):
        return ipaddress.ip_address(text)
    with suppress(OSError, ValueError):
        return ipaddress.IPv4Address(socket.inet_aton(text))
    return None


async def addresses_of(host: str, port: int, reach: Reach) -> list[str]:
    """The addresses that a host leads to now, in the order in which they are to be tried; each is checked.

    Raises:
        AddressRefused: one of them is not to be reached.
        OSError: the host leads nowhere.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    texts = list(dict.fromkeys(str(each[4][0]) for each in found))
    allowed = allowed_hosts()
    for text in texts:
        check_address(host, ipaddress.ip_address(text.partition("%")[0]), reach, allowed)
    return texts


async def send_guarded(send: Callable[[Any], Awaitable[Any]], request: Any, reach: Reach) -> Any:
    """Send a request of httpx, or of a library made like it, to the addresses that were checked.

    The request keeps the host's name for its ``Host`` header and its certificate. A proxy of the environment is trusted
    to look names up: then only a host that is an address is checked.

    Args:
        send: sends the request, without following redirects.
        request: to be sent.
        reach: how far it may go.

    Raises:
        AddressRefused: the host leads where nothing is sent.
        OSError: it leads nowhere.
        Exception: what ``send`` raises; a connection that is refused by one address is tried at the next.
    """
    url = request.url
    host, port = url.host, url.port or _PORTS.get(url.scheme, 0)
    if getproxies().get(url.scheme) and not proxy_bypass(host):
        check_literal(host, reach)
        return await send(request)
    addresses = await addresses_of(host, port, reach)
    request.extensions = {**request.extensions, "sni_hostname": host}
    try:
        for number, address in enumerate(addresses, start=1):
            request.url = url.copy_with(host=address)
            try:
                return await send(request)
            except Exception as error:
                if type(error).__name__ != "ConnectError" or number == len(addresses):
                    raise
    finally:
        request.url = url
    message = f"{shortened(host)} leads nowhere"
    raise OSError(message)


def _why_not(address: IP, reach: Reach, *, is_named: bool) -> str | None:
    if address.is_link_local or address in _METADATA:
        return "is an address of a cloud's metadata service, or of one network card alone"
    if address.is_multicast or address.is_unspecified or (address.is_reserved and not address.is_loopback):
        return "is no address of one machine"
    if reach is Reach.PUBLIC and not address.is_global and not is_named:
        return "is in a private network"
    return None


def _stands_for(address: IP) -> list[IP]:
    """The address, and the IPv4 addresses that it carries; only the latter where it is but another way to write one."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _NAT64:
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    carried: list[IP | None] = [address.sixtofour, *(address.teredo or ())]
    return [address, *(each for each in carried if each is not None)]
