"""Settings of a server: where it listens, who may ask, how much at once, and for how long."""

import ipaddress
import socket
from pathlib import Path
from typing import Literal

from pydantic import Field

from mistudio.errors import ConfigError
from mistudio.plain_text import shortened
from mistudio.settings import Settings


class ServerSettings(Settings):
    """Settings that do not depend on what is served."""

    host: str = Field("127.0.0.1", min_length=1, description="address to listen at")
    port: int = Field(8080, ge=0, le=65535, description="HTTP port; 0: a free one, which the log names")
    grpc_port: int | None = Field(None, ge=0, le=65535, description="gRPC port; 0: a free one; None: no gRPC")
    keys_file: Path | None = Field(
        None, description="file of bearer keys, a line name:secret each; MISTUDIO_API_KEYS may hold such lines too"
    )
    allow_no_keys: bool = Field(False, description="listen beyond this machine although no key is asked for")
    requests_per_minute: float | None = Field(
        None, gt=0, le=1_000_000, description="requests that a key may make, on average; None: no limit"
    )
    burst: int = Field(60, ge=1, le=1_000_000, description="requests that a key may make at once, of those")
    public_metrics: bool = Field(True, description="/metrics needs no key")
    max_requests: int = Field(
        512, ge=1, le=100_000, description="requests that are read or answered at once; more are refused with 429"
    )
    max_streams: int = Field(
        64, ge=0, le=100_000, description="streams (server-sent events, WebSockets) that are open at once, beside those"
    )
    max_sinks: int = Field(
        64, ge=1, le=100_000, description="events of other servers that are read at once, beside those"
    )
    max_sink_bytes: int = Field(8 << 20, ge=1024, le=1 << 30, description="bytes of an event, or of a batch of them")
    sink_keys: tuple[str, ...] = Field(
        (), max_length=1000, description="names of keys that may send events and nothing else"
    )
    open_sink: bool = Field(
        False, description="events need no key: for a network in which only the watched servers reach this one"
    )
    max_queue: int = Field(
        256, ge=0, le=100_000, description="requests that wait for a predictor; more are refused with 429"
    )
    max_body_bytes: int = Field(1 << 20, ge=1024, le=1 << 30, description="bytes of a request's body")
    request_timeout_s: float = Field(
        600.0,
        gt=0,
        le=86_400,
        description="seconds for a request, reading it included; for a stream to begin, and for each piece of it",
    )
    drain_timeout_s: float = Field(
        30.0, ge=0, le=86_400, description="seconds that requests have to finish when the server is told to end"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what is logged")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens at ``host``.

    Raises:
        ConfigError: there is no such address.
    """
    return all(ipaddress.ip_address(address).is_loopback for address in _addresses(host))


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens, so that a port in use shows before anything is loaded.

    Raises:
        ConfigError: nothing can listen there.
    """
    address = _addresses(host)[0]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        made = socket.create_server((address, port), family=family, backlog=1024)
    except OSError as error:
        message = f"Nothing can listen at {shortened(host)}, port {port}: {error.strerror}. Give another --port."
        raise ConfigError(message) from error
    # Connections inherit it; asyncio sets it for its own sockets alone. Without it the body of an answer waits for the
    # client to have acknowledged the head, which takes Linux 40 ms.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _addresses(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        message = f"host {shortened(host)} is no address of this machine: give one, such as 127.0.0.1 or 0.0.0.0."
        raise ConfigError(message) from error
    return [str(each[4][0]).partition("%")[0] for each in found]
