"""Actions against a real receiver: what arrives, what is tried again, what is refused, and that nobody waits."""

import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable, Iterator

import pytest

from mistudio.addresses import ALLOWED_ENV
from mistudio.errors import ConfigError
from mistudio.monitor.records import Alert, Origin
from mistudio.monitor.rules.actions import Actions, Fired
from mistudio.monitor.rules.alerts import alert_content, alert_from
from mistudio.monitor.rules.rules import Rules
from tests.support.hook_server import HANG, HookServer

KEY = "a key that nobody guesses, of enough characters"
ALERT = Alert(
    id="0123456789abcdef",
    time=1_700_000_000.5,
    rule="seen",
    kind="threshold",
    severity="critical",
    message="trigger is at 3, over 1.",
    origin=Origin(model="m", tenant="Zoë"),
    exchange="x1",
    watched=("trigger",),
    values={"value": 3.0, "over": 1.0, "place": 7},
)


def rules(*names: str, where: dict[str, object] | None = None, **actions: dict[str, object]) -> Rules:
    rule = {"name": "seen", "kind": "threshold", "watched": "trigger", "actions": names, "where": where or {}}
    return Rules.model_validate({"rules": [rule], "actions": actions})


Make = Callable[..., Actions]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes actions that may reach this machine, as whoever runs the server may allow."""
    monkeypatch.setenv(ALLOWED_ENV, "127.0.0.0/8")
    made: list[Actions] = []

    def build(*names: str, **actions: dict[str, object]) -> Actions:
        made.append(Actions(rules(*names, **actions), first_pause_s=0.01))
        return made[-1]

    yield build
    for actions in made:
        actions.close(0)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_an_alert_arrives_as_json_with_a_signature_that_its_body_bears_out(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTUDIO_SIGNING_KEY", KEY)
    with HookServer() as server:
        actions = make("page", page={"do": "webhook", "url": f"{server.url}/hook?x=1"})
        actions.act(ALERT)
        (delivery,) = server.wait_for(1)
        until(lambda: actions.counts()["page"]["sent"] == 1)
    assert delivery.path == "/hook?x=1"
    assert alert_from(json.loads(delivery.body)) == ALERT
    assert delivery.headers["x-mistudio-alert"] == ALERT.id
    at, given = (part.partition("=")[2] for part in delivery.headers["X-MiStudio-Signature"].split(","))
    content = b"mistudio alert\n" + at.encode() + b"\n" + delivery.body
    assert given == hmac.new(KEY.encode(), content, hashlib.sha256).hexdigest()


def test_without_a_key_nothing_is_signed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MISTUDIO_SIGNING_KEY", raising=False)
    with HookServer() as server:
        make("page", page={"do": "webhook", "url": server.url}).act(ALERT)
        (delivery,) = server.wait_for(1)
    assert "X-MiStudio-Signature" not in delivery.headers


def test_a_cloud_event_has_its_attributes_in_headers(make: Make) -> None:
    with HookServer() as server:
        make("page", page={"do": "cloud_event", "url": server.url, "source": "mi studio/ü"}).act(ALERT)
        (delivery,) = server.wait_for(1)
    attributes = {name[3:]: value for name, value in delivery.headers.items() if name.startswith("ce-")}
    assert attributes == {
        "specversion": "1.0",
        "id": ALERT.id,
        "source": "mi%20studio/%C3%BC",
        "type": "org.mistudio.monitor.alert",
        "subject": "seen",
        "time": "2023-11-14T22:13:20.500000Z",
    }
    assert json.loads(delivery.body) == json.loads(json.dumps(alert_content(ALERT)))


def test_a_receiver_that_fails_twice_gets_it_the_third_time(make: Make) -> None:
    with HookServer(lambda _delivery, before: 500 if before < 2 else 200) as server:
        actions = make("page", page={"do": "webhook", "url": server.url})
        actions.act(ALERT)
        deliveries = server.wait_for(3)
        until(lambda: actions.counts()["page"]["sent"] == 1)
    assert {delivery.headers["x-mistudio-alert"] for delivery in deliveries} == {ALERT.id}
    assert len({delivery.body for delivery in deliveries}) == 1


def test_what_will_not_be_taken_is_not_tried_again(make: Make) -> None:
    with HookServer(lambda _delivery, _before: 404) as server:
        actions = make("page", page={"do": "webhook", "url": server.url})
        actions.act(ALERT)
        until(lambda: actions.counts()["page"]["failed"] == 1)
        assert len(server.deliveries) == 1


def test_a_redirect_into_a_private_network_is_not_followed(make: Make) -> None:
    with HookServer() as inside, HookServer(lambda _delivery, _before: 307) as server:
        server.location = f"{inside.url}/secret"
        actions = make("page", page={"do": "webhook", "url": server.url})
        actions.act(ALERT)
        until(lambda: actions.counts()["page"]["failed"] == 1)
        assert len(server.deliveries) == 1
        assert inside.deliveries == []


def test_a_receiver_that_hangs_holds_up_neither_the_worker_nor_other_receivers(make: Make) -> None:
    with HookServer(lambda _delivery, _before: HANG) as hanging, HookServer() as server:
        slow = {"do": "webhook", "url": hanging.url, "max_waiting": 3, "time_out_s": 100}
        actions = make("slow", "page", slow=slow, page={"do": "webhook", "url": server.url})
        for _ in range(10):
            actions.act(ALERT)
        server.wait_for(10)
        until(lambda: actions.counts()["page"]["sent"] == 10)
        assert actions.counts()["slow"] == {"sent": 0, "failed": 0, "refused": 0, "dropped": 7, "waiting": 3}
        actions.close(0)
    assert actions.counts()["slow"]["dropped"] == 10


def test_a_receiver_that_hangs_is_given_up(make: Make) -> None:
    with HookServer(lambda _delivery, _before: HANG) as server:
        actions = make("page", page={"do": "webhook", "url": server.url, "time_out_s": 0.05, "tries": 2})
        actions.act(ALERT)
        until(lambda: actions.counts()["page"]["failed"] == 1)
        assert len(server.deliveries) == 2


def test_an_address_in_a_private_network_is_refused_when_rules_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOWED_ENV, raising=False)
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1' is in a private network"):
        Actions(rules("page", page={"do": "webhook", "url": "http://127.0.0.1:9/x"}))


def test_a_name_that_leads_into_a_private_network_is_refused_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOWED_ENV, raising=False)
    with HookServer() as server:
        actions = Actions(rules("page", page={"do": "webhook", "url": f"http://localhost:{server.port}"}))
        actions.act(ALERT)
        until(lambda: actions.counts()["page"]["refused"] == 1)
        actions.close(0)
        assert server.deliveries == []


def test_an_address_can_be_a_secret_of_the_environment(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    named = {"do": "webhook", "url_env": "MISTUDIO_WEBHOOK_PAGE"}
    with pytest.raises(ConfigError, match="MISTUDIO_WEBHOOK_PAGE holds no address"):
        make("page", page=named)
    with HookServer() as server:
        monkeypatch.setenv("MISTUDIO_WEBHOOK_PAGE", f"{server.url}/hidden")
        actions = make("page", page=named)
        actions.act(ALERT)
        server.wait_for(1)
        assert "hidden" not in json.dumps(actions.status())


def test_other_rules_take_the_place_of_all_or_of_none(make: Make) -> None:
    with HookServer() as first, HookServer() as second:
        actions = make("page", page={"do": "webhook", "url": first.url})
        with pytest.raises(ConfigError, match="cannot be stopped"):
            actions.replace(rules("end", end={"do": "stop"}, page={"do": "webhook", "url": second.url}))
        actions.act(ALERT)
        first.wait_for(1)
        actions.replace(rules("page", page={"do": "webhook", "url": second.url}))
        actions.act(ALERT)
        second.wait_for(1)
        assert len(first.deliveries) == 1


class Generations:
    """Generations of this process, as a server has them."""

    models = frozenset({"m"})

    def __init__(self) -> None:
        self.stopped: list[str] = []

    def stop(self, exchange: str) -> bool:
        self.stopped.append(exchange)
        return exchange == "x1"


def test_a_generation_of_this_process_is_stopped_and_one_elsewhere_cannot_be() -> None:
    here = Generations()
    actions = Actions(rules("end", where={"model": ["m"]}, end={"do": "stop"}), here)
    actions.act(ALERT)
    assert here.stopped == ["x1"]
    assert actions.counts() == {"end": {"stopped": 1}}
    for stopper, where, says in (
        (here, None, "Name m as where.model"),
        (here, {"model": ["m", "other"]}, "generations of 'other'"),
        (None, {"model": ["m"]}, "serve steer in the same process"),
    ):
        with pytest.raises(ConfigError, match=says):
            Actions(rules("end", where=where, end={"do": "stop"}), stopper)


def test_alerts_are_logged_without_text_of_their_own_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    actions = Actions(rules("log", "counter"))
    with caplog.at_level(logging.INFO, "mistudio.monitor.rules.alerts"):
        actions.act(ALERT)
        actions.act(alert_from({**alert_content(ALERT), "rule": "drift", "kind": "drift", "exchange": "a\nb"}))
    first, second = caplog.records
    assert first.getMessage() == "seen: trigger is at 3, over 1. request 'x1' [model 'm', tenant 'Zoë']"
    assert first.levelno == logging.ERROR
    assert "\n" not in second.getMessage()
    assert actions.fired() == {Fired("seen", "threshold", "critical"): 1, Fired("drift", "drift", "critical"): 1}
