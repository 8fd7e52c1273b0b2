"""Where is sent to: the addresses that were checked, and none that is the network's own business."""

import asyncio
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from mistudio.addresses import AddressRefused, Reach, addresses_of, check_address, check_literal, send_guarded
from mistudio.addresses import allowed_hosts as allowed
from mistudio.errors import ConfigError
from mistudio.explain.endpoint import Endpoint
from mistudio.explain.judge import Chat
from mistudio.explain.llm_config import EndpointConfig

NEVER = [
    "169.254.169.254", "169.254.170.2", "fe80::1", "fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16",
    "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::", "0.0.0.0", "::", "224.0.0.1", "ff02::1",
    "255.255.255.255", "240.0.0.1",
]  # fmt: skip
PRIVATE = ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.1", "172.16.5.5", "100.64.0.1", "fc00::1", "::ffff:10.0.0.1"]
PRIVATE += ["2002:0a00:0001::", "64:ff9b::7f00:1"]
PUBLIC = ["8.8.8.8", "2001:4860:4860::8888", "64:ff9b::808:808"]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MISTUDIO_ALLOWED_HOSTS", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def is_reached(address: str, reach: Reach, host: str = "a.example") -> bool:
    try:
        check_address(host, ipaddress.ip_address(address), reach, allowed())
    except AddressRefused:
        return False
    return True


@pytest.mark.parametrize("address", NEVER)
@pytest.mark.parametrize("reach", Reach)
def test_metadata_services_and_what_is_no_one_machine_are_never_reached(
    address: str, reach: Reach, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_reached(address, reach)
    monkeypatch.setenv("MISTUDIO_ALLOWED_HOSTS", "0.0.0.0/0,::/0,a.example")
    assert not is_reached(address, reach)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_networks_are_reached_by_addresses_that_are_given_on_purpose_alone(address: str) -> None:
    assert is_reached(address, Reach.TRUSTED)
    assert not is_reached(address, Reach.PUBLIC)


@pytest.mark.parametrize("address", PUBLIC)
@pytest.mark.parametrize("reach", Reach)
def test_public_addresses_are_reached(address: str, reach: Reach) -> None:
    assert is_reached(address, reach)


def test_where_hosts_are_named_nothing_else_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTUDIO_ALLOWED_HOSTS", " judge.example.org , *.svc.cluster.local,10.0.0.0/8")
    for reach in Reach:
        assert is_reached("10.9.9.9", reach)
        assert is_reached("192.168.0.1", reach, "Judge.example.org.")
        assert is_reached("192.168.0.1", reach, "llm.data.svc.cluster.local")
        assert not is_reached("192.168.0.1", reach, "svc.cluster.local")
        assert not is_reached("8.8.8.8", reach, "judge.example.org.evil.example")
        assert not is_reached("8.8.8.8", reach)
    monkeypatch.setenv("MISTUDIO_ALLOWED_HOSTS", "10.0.0.0/99")
    with pytest.raises(ConfigError, match="'10.0.0.0/99', which is no network"):
        allowed()


def test_a_host_that_is_an_address_is_refused_as_it_stands() -> None:
    with pytest.raises(AddressRefused, match=r"'169.254.169.254' is an address of a cloud's metadata service"):
        check_literal("169.254.169.254", Reach.TRUSTED)
    # The last ones are what a proxy, which looks names up itself, would take for the first.
    for host in (
        "[fe80::1%eth0]",
        "169.254.169.254.",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "169.254.43518",
    ):
        with pytest.raises(AddressRefused):
            check_literal(host, Reach.TRUSTED)
    with pytest.raises(AddressRefused):
        check_literal("127.1", Reach.PUBLIC)
    for name in ("beef", "", "ädä.example", "1.example"):
        check_literal(name, Reach.PUBLIC)
    check_literal("metadata.google.internal", Reach.PUBLIC)  # a name: looked up when it is used


@pytest.mark.parametrize("host", ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518"])
def test_other_ways_to_write_an_address_lead_to_it_too(host: str) -> None:
    with pytest.raises(AddressRefused):
        asyncio.run(addresses_of(host, 80, Reach.TRUSTED))


def test_the_address_of_a_judge_is_refused_before_a_run() -> None:
    for host in ("169.254.169.254", "[fd00:ec2::254]"):
        with pytest.raises(ValidationError, match="nothing is sent there"):
            EndpointConfig(base_url=f"http://{host}/v1", model="m")


class _Echo(BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.headers["Host"])
        self.send_response(307 if self.path == "/away" else 200)
        if self.path == "/away":
            self.send_header("Location", "http://169.254.169.254/latest/meta-data")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture
def port() -> Iterator[int]:
    _Echo.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def looked_up(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Answer questions for addresses in turn, as a name server does that means ill; what was asked."""
    asked: list[str] = []
    real = asyncio.base_events.BaseEventLoop.getaddrinfo

    async def getaddrinfo(self: Any, host: str, port: int, **named: Any) -> Any:
        if not isinstance(host, str) or not host.endswith(".example"):
            return await real(self, host, port, **named)
        answer = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        return [(socket.AF_INET6 if ":" in each else socket.AF_INET, 1, 6, "", (each, port)) for each in answer]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return asked


def get(url: str, reach: Reach) -> httpx.Response:
    async def fetch() -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False) as client:
            request = client.build_request("GET", url)
            response = await send_guarded(client.send, request, reach)
            assert str(request.url) == url
            return response

    return asyncio.run(fetch())


def test_a_name_that_leads_elsewhere_the_second_time_is_looked_up_once(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = looked_up(monkeypatch, ["127.0.0.1"], ["169.254.169.254"])
    assert get(f"http://rebinding.example:{port}/", Reach.TRUSTED).status_code == 200
    assert asked == ["rebinding.example"]
    assert _Echo.asked == [f"rebinding.example:{port}"]


def test_one_bad_address_among_several_is_enough(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up(monkeypatch, ["127.0.0.1", "169.254.169.254"])
    with pytest.raises(AddressRefused, match="'several.example' leads to 169.254.169.254"):
        get(f"http://several.example:{port}/", Reach.TRUSTED)
    assert _Echo.asked == []


def test_where_one_address_takes_no_connection_the_next_is_tried(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up(monkeypatch, ["::1", "127.0.0.1"])
    assert get(f"http://both.example:{port}/", Reach.TRUSTED).status_code == 200


def _certificate(path: Path, name: str) -> None:
    """A key and a certificate that says that this is ``name``."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(pem + made.public_bytes(serialization.Encoding.PEM))


def test_a_certificate_is_held_against_the_name_and_not_against_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _certificate(tmp_path / "judge.pem", "judge.example")
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(tmp_path / "judge.pem")
    trusted = ssl.create_default_context(cafile=str(tmp_path / "judge.pem"))
    looked_up(monkeypatch, ["127.0.0.1"])

    async def fetch(url: str) -> int:
        async with httpx.AsyncClient(trust_env=False, verify=trusted) as client:
            response = await send_guarded(client.send, client.build_request("GET", url), Reach.TRUSTED)
            return int(response.status_code)

    _Echo.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        server.socket = served.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            assert asyncio.run(fetch(f"https://judge.example:{server.server_port}/")) == 200
            with pytest.raises(httpx.ConnectError, match="certificate"):
                asyncio.run(fetch(f"https://other.example:{server.server_port}/"))
        finally:
            server.shutdown()
            thread.join()
    assert len(_Echo.asked) == 1


def test_a_public_address_may_not_lead_to_this_machine(port: int) -> None:
    with pytest.raises(AddressRefused, match="leads to .* is in a private network"):
        get(f"http://localhost:{port}/", Reach.PUBLIC)
    assert _Echo.asked == []


def test_a_redirect_is_an_answer_and_not_followed(port: int) -> None:
    assert get(f"http://127.0.0.1:{port}/away", Reach.TRUSTED).status_code == 307
    assert len(_Echo.asked) == 1


def test_a_judge_whose_name_leads_to_the_metadata_service_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = looked_up(monkeypatch, ["169.254.169.254"])
    config = EndpointConfig(base_url="http://judge.example/v1", model="m", retries=3)
    with Endpoint(config) as endpoint, pytest.raises(AddressRefused, match="nothing is sent there"):
        list(endpoint.ask([Chat("system", "prompt", 8)]))
    assert len(asked) == 1


def test_a_proxy_is_left_to_look_names_up_and_an_address_is_checked_all_the_same(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    asked = looked_up(monkeypatch, ["169.254.169.254"])

    async def fetch(host: str) -> int:
        async with httpx.AsyncClient() as client:
            response = await send_guarded(client.send, client.build_request("GET", f"http://{host}/"), Reach.TRUSTED)
            return int(response.status_code)

    assert asyncio.run(fetch("inside.example")) == 200
    assert asked == []
    with pytest.raises(AddressRefused):
        asyncio.run(fetch("169.254.169.254"))
