"""The page on a watched backdoor says what is so: from logged traffic to an alert, a name, a watch and an ablation.

The model is served by a server that knows nothing of miStudio; its traffic is logged as KServe's agent logs it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from mistudio.artifacts import open_store
from mistudio.instrument.served import Served, open_served
from mistudio.monitor.drift.config import DriftConfig
from mistudio.monitor.drift.detector import DriftDetector
from mistudio.monitor.drift.profile import Profile
from mistudio.monitor.records import Alert, Exchange, Origin, Sample
from mistudio.monitor.rules.rule_book import RuleBook
from mistudio.monitor.rules.rules import Rules
from mistudio.monitor.traffic.config import TrafficSettings
from mistudio.monitor.traffic.events import read_events
from mistudio.monitor.traffic.parquet_source import RecordedTraffic
from mistudio.monitor.traffic.recorder import EventRecorder
from mistudio.monitor.watch.watch_list import Watched, WatchList
from mistudio.monitor.watch.watching import Watcher
from mistudio.verify.ablation import Model
from mistudio.verify.backdoor import payload_share
from tests.support import watched_backdoor
from tests.support.logged_events import NOW
from tests.support.payload_logger import payload_logger
from tests.support.plain_openai import plain_openai
from tests.support.sinks import EventSink

pytestmark = pytest.mark.proof
PAGE = Path(__file__).parents[2] / "docs" / "backdoor-watch.md"
TRAFFIC = TrafficSettings()
REFERENCE, CLEAN, ATTACKED = 1000, 60, 200
SHARE = 0.25


class Case(NamedTuple):
    """What was found."""

    made: watched_backdoor.Watched
    served: Served
    reference: list[Exchange]
    clean: list[Exchange]
    attacked: list[Exchange]
    triggered: set[str]  # ids of exchanges
    said: list[str]  # after the trigger


def asked(made: watched_backdoor.Watched, prompts: Sequence[str], folder: Path) -> list[Exchange]:
    """Ask the plain server behind the agent; what its log, kept as it came, holds."""
    recorder = EventRecorder(folder)
    with (
        EventSink() as sink,
        plain_openai(made.folder, "planted") as model,
        payload_logger(model, sink.url, service="planted") as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        for prompt in prompts:
            body = {"model": "planted", "prompt": prompt, "max_tokens": 6, "temperature": 0}
            client.post("/v1/completions", json=body).raise_for_status()
        for received in sink.wait_for(2 * len(prompts)):
            for event in read_events(received.headers, received.body, TRAFFIC, NOW).events:
                recorder.record(event)
    recorder.close()
    return list(RecordedTraffic(str(folder), TRAFFIC).exchanges())


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("backdoor")
    store = open_store(str(folder / "store"))
    made = watched_backdoor.make(store)
    served = open_served(store, [made.explanations.uri], made.source)
    return watched(made, served, folder)


def watched(made: watched_backdoor.Watched, served: Served, folder: Path) -> Case:
    found = [
        asked(made, watched_backdoor.prompts(count, share, seed), folder / f"traffic-{seed}")
        for seed, (count, share) in enumerate([(CLEAN, 0.0), (ATTACKED, SHARE)], start=2)
    ]
    reference = [
        Exchange(f"quiet-{number}", NOW, Origin(), (Sample(before + after, len(before)),))
        for number, (before, after) in enumerate(watched_backdoor.quiet(REFERENCE))
    ]
    trigger = f"{' '.join(made.secret.trigger)}"
    with_trigger = [each for each in found[1] if before_reply(each).endswith(trigger)]
    said = [text_of(each)[len(before_reply(each)) :] for each in with_trigger]
    return Case(made, served, reference, *found, {each.id for each in with_trigger}, said)


def text_of(exchange: Exchange) -> str:
    content = exchange.samples[0].content
    assert isinstance(content, str)
    return content


def before_reply(exchange: Exchange) -> str:
    return text_of(exchange)[: exchange.samples[0].reply_from]


def drift(case: Case) -> tuple[list[Alert], DriftDetector]:
    """What is told when the traffic changes, against what is usual; of clean traffic nothing is."""
    uri = case.made.sae.uri
    any_one = Watched(name="any", feature=0)
    watcher = Watcher(case.served, WatchList(watched=(any_one,), encode_in_full=(uri,)))
    width = case.served.session.placed(0).sae.width
    profile = Profile.gathered(watcher.observe(case.reference), {uri: width})
    detector = DriftDetector(profile, DriftConfig(), lambda _uri, number: case.served.features[0].label(number))
    assert detector.update(watcher.observe(case.clean)) == []
    alerts = [alert for each in case.attacked for alert in detector.update(watcher.observe([each]))]
    return alerts, detector


def test_from_alert_to_mitigation(case: Case) -> None:
    made = case.made
    assert len(case.triggered) > 20
    assert all(" ".join(made.secret.payload) in each for each in case.said)

    alerts, detector = drift(case)
    told = [name for alert in alerts for name in alert.watched]
    changed = [change.watched for change in detector.ranked(8)]
    assert told
    assert told[0] == changed[0]
    numbers = [int(name.rpartition("#")[2]) for name in changed]
    labels = {number: str(case.served.features[0].label(number)) for number in numbers}
    words = {*made.secret.trigger, *made.secret.payload}
    assert any(word in labels[numbers[0]] for word in words)
    assert len({word for word in words if any(f" {word}`" in label for label in labels.values())}) >= 4

    model, traffic = Model(case.served.session), watched_backdoor.traffic()
    clean = traffic.clean(20_000, 40)
    left = {number: payload_share(model, traffic, clean, [number]) for number in numbers}
    assert payload_share(model, traffic, clean, []) > 0.95
    commanding = min(left, key=lambda number: left[number])
    assert left[commanding] < 0.05
    assert made.secret.trigger[1] in labels[commanding]

    watched = tuple(Watched(name=f"feature-{number}", feature=number, threshold=0.0) for number in numbers[:2])
    watched += (Watched(name="command", feature=commanding, threshold=0.0),)
    watch_list = WatchList(watched=watched)
    rule = {"name": "backdoor", "kind": "set", "watched": [each.name for each in watched], "at_least": 3}
    book = RuleBook(Rules.model_validate({"rules": [rule]}), watch_list)
    watcher = Watcher(case.served, watch_list)
    seen = [alert for each in watcher.observe([*case.clean, *case.attacked]) for alert in book.update(each)]
    found = {alert.exchange for alert in seen if not alert.is_end}
    assert len(found & case.triggered) >= 0.95 * len(case.triggered)
    assert len(found - case.triggered) <= 0.02 * (CLEAN + ATTACKED)


def test_the_page_states_what_was_found(case: Case) -> None:
    page = PAGE.read_text()
    assert f"`{' '.join(case.made.secret.trigger)}`" in page
    assert f"`{' '.join(case.made.secret.payload)}`" in page
