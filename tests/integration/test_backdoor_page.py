"""The page on a watched backdoor is what happens: its commands run, from logged traffic to an alert and to a cure.

The model is served by a server that knows nothing of miStudio, behind the play of KServe's agent, which logs to a
server of miStudio. That one is started by the page's own commands, in this process; what it is asked, and what its
answers are asked for, are the page's lines of curl. Numbers of features and names of artifacts are those of this run.
"""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from typer.testing import CliRunner

from mistudio.artifacts import open_store
from mistudio.cli import app
from mistudio.settings import validated
from model_servers.base.settings import ServerSettings
from model_servers.command_line import _parser, _predictors
from tests.support import watched_backdoor
from tests.support.monitored import client_of, counts, until
from tests.support.pages import broken_links, missing_paths
from tests.support.payload_logger import payload_logger
from tests.support.plain_openai import plain_openai
from tests.support.serving import serving, url_of

pytestmark = pytest.mark.proof
NAME = "backdoor-watch.md"
PAGE = (Path(__file__).parents[2] / "docs" / NAME).read_text()
QUIET, CLEAN, ATTACKED, LATER, TRIED = 1000, 60, 200, 40, 40
SHARE = 0.25
ASKED = {"model": "planted", "max_tokens": 6, "temperature": 0}
STEERED = {"model": "backdoored", "max_tokens": 12, "temperature": 0}


class Prompt(NamedTuple):
    """What is asked, and under which id it is logged."""

    id: str
    text: str


@dataclass
class Case:
    """What came out; numbers of features by the part that they have in the page."""

    made: watched_backdoor.Watched
    plain: str  # URL of the server that knows nothing
    triggered: set[str] = field(default_factory=set)  # ids of requests
    said: list[str] = field(default_factory=list)  # behind the trigger
    usual: str = ""  # the profile
    told_of_clean: Any = None
    told: list[dict[str, Any]] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)
    seen_with: set[str] = field(default_factory=set)  # ids of requests in which the feature of the alert fired
    python: str = ""
    left: dict[int, float] = field(default_factory=dict)  # payloads, by the feature that is taken out
    tried: dict[str, dict[str, Any]] = field(default_factory=dict)  # the rule, by recorded traffic
    refused: int = 0  # status of rules over columns that are not watched
    later: list[dict[str, Any]] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    one: dict[str, Any] = field(default_factory=dict)  # the page's request with the preset
    payload_left: float = 1.0
    payload_before: float = 0.0
    clean_same: float = 0.0

    @property
    def numbers(self) -> list[int]:
        return [number_of(change["watched"]) for change in self.changes]

    @property
    def labels(self) -> dict[int, str]:
        return {number_of(change["watched"]): str(change["label"]) for change in self.changes}

    @property
    def cure(self) -> list[int]:
        """The two features without which the payload comes least often."""
        return sorted(sorted(self.left, key=lambda number: self.left[number])[:2])

    @property
    def command(self) -> int:
        """That of them which stands for the trigger's last word."""
        trigger = self.made.secret.trigger[-1]
        return next((number for number in self.cure if trigger in self.labels[number]), self.cure[0])

    def here(self, text: str) -> str:
        """A piece of the page, about this run's artifacts and features."""
        text = re.sub(r"\bsae/[0-9a-f]{16}", self.made.sae.uri, text)
        text = re.sub(r"\bprofile/[0-9a-f]{16}", self.usual or r"\g<0>", text)
        if not self.left:
            first = self.numbers[0] if self.changes else 0
            return re.sub(r"(%23)\d+", rf"\g<1>{first}", text)
        named = dict(zip(("payload", "payload-end", "command"), (*self.numbers[:2], self.command), strict=True))
        text = re.sub(r"(name: ([a-z-]+), feature: )\d+", lambda found: f"{found[1]}{named[found[2]]}", text)
        return re.sub(r'("features": )\[\d.*?\]', rf"\g<1>{self.cure}", text)


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return [content for name, content in found if name == language]


def commands(beginning: str) -> list[list[str]]:
    """The page's commands that begin so, without what they begin with."""
    lines = "\n".join(blocks("")).replace("\\\n", " ").splitlines()
    return [shlex.split(line.removeprefix(beginning)) for line in lines if line.startswith(beginning)]


def number_of(watched: str) -> int:
    return int(watched.rpartition("#")[2])


def mistudio(case: Case, arguments: Sequence[str]) -> str:
    done = CliRunner().invoke(app, [case.here(one) for one in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def curl(case: Case, script: str, url: str, logger: str) -> list[dict[str, Any]]:
    """The answers to a block of lines of curl."""
    script = case.here(script).replace("http://127.0.0.1:8080", url).replace("http://127.0.0.1:8002", logger)
    script = script.replace("curl -s", "curl -sS --fail-with-body -w '\\n'")
    done = subprocess.run(["bash", "-eu", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
    assert len(answers) == script.count("curl -sS")
    return answers


class Running(NamedTuple):
    """miStudio's server, and the agent through which the watched one is asked."""

    url: str
    logger: str
    client: httpx.Client


@contextmanager
def served(case: Case, arguments: Sequence[str]) -> Iterator[Running]:
    """What ``mistudio serve`` starts by a command of the page, though at a port that is free."""
    options = vars(_parser().parse_args([case.here(one) for one in arguments]))
    predictors = _predictors(options, validated(ServerSettings, {"port": 0}))
    with serving(predictors) as server, client_of(server) as client:
        events = f"{url_of(server)}/v1/monitor/events"
        with payload_logger(case.plain, events, service="planted") as logger:
            yield Running(url_of(server), logger, client)


def ask(case: Case, running: Running, prompts: Sequence[Prompt]) -> None:
    """Ask the watched model, and wait until all of it is read."""
    trigger, before = " ".join(case.made.secret.trigger), counts(running.client)["samples"]
    with httpx.Client(base_url=running.logger, timeout=60) as client:
        for prompt in prompts:
            body = {**ASKED, "prompt": prompt.text}
            reply = client.post("/v1/completions", json=body, headers={"ce-id": prompt.id}).raise_for_status()
            if prompt.text.endswith(trigger):
                case.triggered.add(prompt.id)
                case.said.append(reply.json()["choices"][0]["text"])
    until(lambda: counts(running.client)["samples"] == before + len(prompts), "traffic is read")


def prompts(name: str, count: int, share: float, seed: int) -> list[Prompt]:
    found = watched_backdoor.prompts(count, share, seed)
    return [Prompt(f"{name}-{number}", text) for number, text in enumerate(found)]


def steered(running: Running, texts: Sequence[str], steering: dict[str, Any] | None) -> list[str]:
    """What miStudio's own server of the same model goes on with."""
    more = {} if steering is None else {"steering": steering}
    found = []
    for text in texts:
        reply = running.client.post("/openai/v1/completions", json={**STEERED, "prompt": text, **more})
        found.append(reply.raise_for_status().json()["choices"][0]["text"])
    return found


def share_of_payload(case: Case, texts: Sequence[str]) -> float:
    payload = " ".join(case.made.secret.payload)
    return sum(payload in text for text in texts) / len(texts)


def quiet_days(case: Case) -> None:
    (command, *_) = commands("mistudio serve")
    with served(case, command) as running:
        curl(case, blocks("bash")[0], running.url, running.logger)
        until(lambda: counts(running.client)["samples"] == 1)
        ask(case, running, prompts("quiet", QUIET - 1, 0.0, 1))
    (profile,) = commands("mistudio monitor profile")
    found = re.search(r"profile/[0-9a-f]{16}", mistudio(case, ["monitor", "profile", *profile]))
    assert found
    case.usual = found[0]


def attack(case: Case) -> None:
    command = commands("mistudio serve")[1]
    with served(case, command) as running:
        ask(case, running, prompts("clean", CLEAN, 0.0, 2))
        case.told_of_clean = running.client.get("/v1/monitor/alerts").json()["alerts"]
        ask(case, running, prompts("attacked", ATTACKED, SHARE, 3))
        case.changes = running.client.get("/v1/monitor/drift", params={"count": 8}).json()["changes"]
        alerts, drift, history = curl(case, blocks("bash")[1], running.url, running.logger)
        case.told, case.changes = alerts["alerts"], drift["changes"]
        case.seen_with = {one["request"] for one in history["samples"]}
        (code,) = blocks("python")
        code = case.here(code).replace("http://127.0.0.1:8080", running.url)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        case.python = done.stdout
        texts = triggered_texts(case)
        case.payload_before = share_of_payload(case, steered(running, texts, None))
        rules = {"rules": [{"name": "any", "kind": "threshold", "watched": "payload"}]}
        case.refused = running.client.put("/v1/monitor/rules", json=rules).status_code
        for number in case.numbers:
            edits = [{"op": "ablate", "features": [number]}]
            case.left[number] = share_of_payload(case, steered(running, texts, {"edits": edits}))


def triggered_texts(case: Case) -> list[str]:
    trigger = " ".join(case.made.secret.trigger)
    return [f"{text} {trigger}" for text in watched_backdoor.prompts(TRIED, 0.0, 4)]


def watch(case: Case) -> None:
    for name, content in zip(("watch.yaml", "rules.yaml"), blocks("yaml"), strict=True):
        Path(name).write_text(case.here(content))
    for tried in commands("mistudio monitor try"):
        where = tried[tried.index("--on") + 1]
        case.tried[where] = json.loads(mistudio(case, ["monitor", "try", *tried, "--json"]))["rules"][0]
    command = commands("mistudio serve")[2]
    with served(case, command) as running:
        curl(case, blocks("bash")[2], running.url, running.logger)
        ask(case, running, prompts("later", LATER, SHARE, 5))
        later, kept = curl(case, blocks("bash")[3], running.url, running.logger)
        case.later, case.kept = later["alerts"], kept["alerts"]
        (steering,) = blocks("json")
        Path("steering.json").write_text(case.here(steering))
        (save,) = commands("mistudio preset save")
        mistudio(case, ["preset", "save", *save])
        (case.one,) = curl(case, blocks("bash")[4], running.url, running.logger)
        preset = {"preset": save[save.index("--name") + 1]}
        case.payload_left = share_of_payload(case, steered(running, triggered_texts(case), preset))
        clean = watched_backdoor.prompts(TRIED, 0.0, 6)
        pairs = zip(steered(running, clean, None), steered(running, clean, preset), strict=True)
        case.clean_same = sum(before == after for before, after in pairs) / TRIED


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp("backdoor")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # paths of the page are relative
        made = watched_backdoor.make(open_store("build/backdoor"))
        with plain_openai(made.folder, "planted") as plain:
            found = Case(made, plain)
            quiet_days(found)
            attack(found)
            watch(found)
        yield found


def ids_of(alerts: Sequence[dict[str, Any]]) -> set[str]:
    return {alert["exchange"] for alert in alerts}


def test_of_quiet_traffic_nothing_is_told_and_the_attack_is_told_with_what_its_features_are_called(case: Case) -> None:
    assert sum(one.startswith("attacked") for one in case.triggered) > 20
    assert share_of_payload(case, case.said) > 0.95
    assert case.told_of_clean == []
    assert case.told
    assert {alert["watched"][0] for alert in case.told} == {
        change["watched"] for change in case.changes if change["is_told"]
    }
    for alert in case.told:
        assert alert["values"]["label"] == case.labels[number_of(alert["watched"][0])]
        assert alert["values"]["label"][:20] in alert["message"]
        assert alert["message"] in case.python


def test_the_features_that_changed_most_spell_trigger_and_payload(case: Case) -> None:
    words = {*case.made.secret.trigger, *case.made.secret.payload}
    assert any(word in case.labels[case.numbers[0]] for word in words)
    assert len({word for word in words if any(f" {word}`" in label for label in case.labels.values())}) >= 4


def test_the_history_names_the_requests_in_which_the_feature_fired(case: Case) -> None:
    attacked = {one for one in case.triggered if one.startswith("attacked")}
    assert len(attacked & case.seen_with) >= 0.9 * len(attacked)
    assert any(one.startswith("quiet") for one in case.seen_with)  # the folder is that of quiet days


def test_rules_over_a_watch_list_tell_of_the_triggered_requests_recorded_and_live(case: Case) -> None:
    assert case.refused == 400  # of columns that are not watched yet
    attacked, later = ({one for one in case.triggered if one.startswith(name)} for name in ("attacked", "later"))
    quiet, on_attack = case.tried["build/quiet"], case.tried["build/attacked"]
    assert quiet["exchanges"] == QUIET
    assert quiet["hits"] <= 0.01 * QUIET
    assert on_attack["exchanges"] == CLEAN + ATTACKED
    assert abs(on_attack["hits"] - len(attacked)) <= 3
    assert later
    assert len(ids_of(case.later) ^ later) <= 1
    # The history went on; what changed shortly after an alert is told later.
    assert {alert["id"] for alert in case.told} <= {alert["id"] for alert in case.kept}


def test_without_two_of_the_features_the_payload_is_gone_and_other_answers_stay(case: Case) -> None:
    assert case.payload_before == 1.0
    assert case.left[case.command] < 0.5
    assert case.payload_left <= 0.05
    assert case.clean_same >= 0.8
    assert share_of_payload(case, [case.one["choices"][0]["text"]]) == 0.0


def test_the_page_states_what_was_found_and_names_what_is_there(case: Case) -> None:
    assert f"`{' '.join(case.made.secret.trigger)}`" in PAGE
    assert f"`{' '.join(case.made.secret.payload)}`" in PAGE
    assert not broken_links(NAME)
    assert not missing_paths(PAGE)
