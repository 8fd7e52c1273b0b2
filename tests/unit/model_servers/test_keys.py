"""Keys: read from lines, known by name, and asked for wherever others could reach the server."""

from pathlib import Path

import pytest

from mistudio.errors import ConfigError
from model_servers.base.keys import ENVIRONMENT, Keys, read_keys
from model_servers.base.settings import ServerSettings, is_loopback, listening_socket

SECRET = "correct-horse-battery"
OTHER = "staple-of-sixteen-and-more"


def keys_from(text: str, host: str = "127.0.0.1", **settings: object) -> Keys:
    return read_keys(ServerSettings(host=host, **settings), {ENVIRONMENT: text})


def test_a_key_is_known_by_its_whole_secret_alone() -> None:
    keys = keys_from(f"alice:{SECRET},bob:{OTHER}")
    assert keys.name_of(SECRET) == "alice"
    assert keys.name_of(OTHER) == "bob"
    assert [keys.name_of(each) for each in ("", SECRET[:-1], f"{SECRET}x", "alice", "\udcff")] == [None] * 5


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (f"Bearer {SECRET}", "alice"),
        (f"bearer  {SECRET} ", "alice"),
        (f"Basic {SECRET}", None),
        (SECRET, None),
        ("Bearer", None),
        ("", None),
    ],
)
def test_a_key_comes_as_a_bearer_token(header: str, name: str | None) -> None:
    assert keys_from(f"alice:{SECRET}").named_by(header) == name


def test_keys_come_from_a_file_and_the_environment_together(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# who may ask\n\nalice : {SECRET} \n")
    keys = keys_from(f"bob:{OTHER}", keys_file=path)
    assert [name for name, _ in keys.digests] == ["alice", "bob"]


def test_secrets_are_not_kept() -> None:
    assert SECRET not in repr(keys_from(f"alice:{SECRET}"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("alice", "Line 1 of the keys"),
        (f"a b:{SECRET}", "Line 1 of the keys"),
        (f"none:{SECRET}", "Line 1 of the keys"),
        ("alice:short", "key alice"),
        ("alice:two words of some length", "key alice"),
        (f"alice:{SECRET},alice:{OTHER}", "twice"),
        (f"alice:{SECRET},bob:{SECRET}", "twice"),
    ],
)
def test_a_line_that_is_no_key_is_refused_without_repeating_a_secret(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        keys_from(text)
    assert SECRET not in str(caught.value)


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("absent", "binary"):
        with pytest.raises(ConfigError, match=f"--keys-file .*{name}"):
            keys_from("", keys_file=tmp_path / name)


def test_beyond_this_machine_a_key_is_asked_for_unless_told_otherwise() -> None:
    with pytest.raises(ConfigError, match="MISTUDIO_API_KEYS"):
        keys_from("", host="0.0.0.0")
    assert not keys_from("", host="0.0.0.0", allow_no_keys=True)
    assert keys_from(f"alice:{SECRET}", host="0.0.0.0")
    assert not keys_from("", host="localhost")


def test_which_addresses_only_this_machine_reaches() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "::")] == [True] * 3 + [
        False
    ] * 2
    with pytest.raises(ConfigError, match="no address"):
        is_loopback("300.0.0.1.invalid.")


def test_a_port_in_use_is_named_at_once() -> None:
    with listening_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}"):
            listening_socket("127.0.0.1", port)
