"""A predictor from the serve image, given exactly what its manifests give it, but for the store and its line."""

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from mistudio.activations import CaptureConfig, capture
from mistudio.artifacts import open_store
from mistudio.sae import TopKConfig
from mistudio.subject import SubjectConfig
from mistudio.subject.source import artifact_source
from mistudio.train import TrainConfig, train
from tests.support.engines import ROOT, Engine, let_anyone_in
from tests.support.tiny import published_subject, tiny_corpus, tiny_llama

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]
SERVING = ROOT / "manifests" / "serving"
HOOK = "resid_post.1"
KEY = uuid.uuid4().hex
# What the cluster has in its ConfigMap and secrets; the store is a folder here, and S3's are there to be passed on.
IN_CLUSTER = {
    "MISTUDIO_STORE": "/store",
    "MISTUDIO_API_KEYS": f"tests:{KEY}",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": uuid.uuid4().hex,
    "AWS_DEFAULT_REGION": "us-east-1",
}
ASK = """
import json, sys, urllib.error, urllib.request
path, key, body = sys.argv[1:]
request = urllib.request.Request("http://127.0.0.1:8080" + path, body.encode() or None)
request.add_header("Content-Type", "application/json")
request.add_header("Authorization", "Bearer " + key)
try:
    answer = urllib.request.urlopen(request, timeout=60)
except urllib.error.HTTPError as error:
    answer = error
print(json.dumps([answer.status, answer.read().decode()]))
"""


@pytest.fixture
def line(open_folder: Path) -> str:
    """An autoencoder in a store that has its model too, as a cluster's store does."""
    store = open_store(str(open_folder))
    source = artifact_source(published_subject(store, tiny_llama(open_folder.parent / "model")))
    corpus = tiny_corpus(store, source, open_folder.parent / "text")
    activations = capture(store, corpus, source, SubjectConfig(device="cpu"), CaptureConfig(hooks=(HOOK,))).artifact
    config = TrainConfig(hook=HOOK, sae=TopKConfig(width=64, k=4), tokens=2000)
    trained = train(store, activations, config).artifact
    let_anyone_in(open_folder)
    return trained.uri


def manifest(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((SERVING / name).read_text(encoding="utf-8"))
    return found


def flags_of(container: dict[str, Any]) -> list[str]:
    """The container's part of a pod, as flags of an engine."""
    security = container["securityContext"]
    flags = [f"--user={security['runAsUser']}:{security['runAsGroup']}", "--read-only"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    flags += ["--security-opt=no-new-privileges", *(f"--cap-drop={each}" for each in security["capabilities"]["drop"])]
    flags += [f"--tmpfs={each['mountPath']}:mode=1777" for each in container["volumeMounts"]]
    for variable in container["env"]:
        value = variable.get("value", IN_CLUSTER.get(variable["name"]))
        flags += [] if value is None else [f"--env={variable['name']}={value}"]
        optional = variable.get("valueFrom", {}).get("secretKeyRef", {}).get("optional", False)
        assert value is not None or optional, variable
    return flags


@contextmanager
def running(engine: Engine, *arguments: str) -> Iterator[str]:
    started = engine.run("run", "--detach", "--network=none", *arguments)
    assert started.returncode == 0, started.stderr
    container = started.stdout.strip()
    try:
        yield container
    finally:
        engine.run("rm", "--force", container)


def ask(engine: Engine, container: str, path: str, body: object = None, key: str = KEY) -> tuple[int, str]:
    """A request from inside, for the container has no network; its status, 0 where there was no answer."""
    given = json.dumps(body) if body is not None else ""
    done = engine.run("exec", container, "python", "-c", ASK, path, key, given)
    if done.returncode != 0:
        return 0, done.stderr
    status, text = json.loads(done.stdout)
    return status, text


def wait_until_ready(engine: Engine, container: str, probe: str) -> None:
    until = time.monotonic() + 300
    while ask(engine, container, probe)[0] != 200:
        state = engine.run("inspect", "--format", "{{.State.Running}}", container).stdout.strip()
        assert state == "true", logs(engine, container)
        assert time.monotonic() < until, logs(engine, container)
        time.sleep(0.5)


def logs(engine: Engine, container: str) -> str:
    done = subprocess.run([engine.command, "logs", container], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.skipif(not SERVING.is_dir(), reason="there are no manifests of predictors")
def test_a_predictor_started_as_its_manifests_say_is_ready_and_completes(
    engine: Engine, built: dict[str, str], open_folder: Path, line: str
) -> None:
    [container] = manifest("runtime-steer.yaml")["spec"]["containers"]
    model = manifest("sample/stories.yaml")["spec"]["predictor"]["model"]
    assert container["image"] == built["serve"].rpartition(":")[0]
    own = [line if each.startswith("sae/") else each for each in model["args"]]
    assert line in own
    flags = [*flags_of(container), f"--volume={open_folder}:/store:ro"]
    command, arguments = container["command"], [*container["args"], *own]
    with running(engine, *flags, built["serve"], *command, *arguments) as started:
        wait_until_ready(engine, started, container["readinessProbe"]["httpGet"]["path"])
        assert ask(engine, started, container["livenessProbe"]["httpGet"]["path"])[0] == 200
        status, text = ask(engine, started, "/openai/v1/models")
        assert status == 200, text
        name = json.loads(text)["data"][0]["id"]
        asked = {"model": name, "prompt": "once", "max_tokens": 5, "ignore_eos": True}
        status, text = ask(engine, started, "/openai/v1/completions", asked)
        assert status == 200, text
        assert json.loads(text)["usage"]["completion_tokens"] == 5
        assert ask(engine, started, "/openai/v1/completions", asked, key="another-key-than-that")[0] == 401
        stopped = engine.run("stop", "--time", "60", started)
        assert stopped.returncode == 0
        assert engine.run("inspect", "--format", "{{.State.ExitCode}}", started).stdout.strip() == "0"
