"""What containers are given: arguments that the program takes, variables that it reads, probes that it answers.

Predictors and MLflow's server are started for that, on a tiny store (`checks.replay`); of images of others, only those
programs are started that a Debian machine has, by the tests of backups.
"""

import functools
import importlib.util
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from checks.monitoring import exported_by, label_problems, labels_by, metric_problems
from checks.pods import containers_of, pods_of
from checks.rendering import everything
from checks.replay import KEY, arguments_of, free_port, ran, replayed
from checks.tools import ROOT, find

_OWN = re.compile(r".+/mistudio/(?:batch-python|serve)(?:-cuda)?:.+")
_EXPANDED = re.compile(r"\$\((\w+)\)")
# Modules of libraries whose variables containers set; the rest are read in the project's own code.
_LIBRARIES = {
    "huggingface_hub": ("constants.py",),
    "minio": ("credentials/providers.py",),
    "mlflow": ("environment_variables.py", "server/__init__.py"),
}
_EVERYWHERE = frozenset({"HOME"})


# What each predictor is asked, once it is ready.
_ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "correlate": ("/v1/correlate/text", {"text": "once"}),
    "monitor": ("/v1/monitor/status", {}),
    "steer": ("/openai/v1/completions", {"prompt": "once", "max_tokens": 2}),
}
_ALL = frozenset(_ASKED)
STORE_KEYS = {"AWS_ACCESS_KEY_ID": "replayed", "AWS_SECRET_ACCESS_KEY": KEY.partition(":")[2]}


class Container(NamedTuple):
    """A container of the project's own images."""

    place: str
    content: Mapping[str, Any]

    @property
    def runs(self) -> str:
        """Program, arguments and variables, as one text: containers with the same are one here."""
        names = ("command", "args", "env")
        return json.dumps([self.content.get(name) for name in names])


def containers() -> list[Container]:
    """Every container of the project's own images, those that run the same once, those with most arguments first."""
    found: dict[str, Container] = {}
    for place, document in everything():
        for pod in pods_of(place, document):
            for content in containers_of(pod.spec):
                if _OWN.fullmatch(content.get("image", "")):
                    container = Container(pod.place, content)
                    found.setdefault(container.runs, container)
    return sorted(found.values(), key=lambda each: -len(each.runs))


def predictors() -> list[Container]:
    """The containers that serve."""
    return [each for each in containers() if "model_servers" in each.content["command"]]


def trackers() -> list[Container]:
    """The containers that are MLflow's server."""
    return [each for each in containers() if each.content["command"][-2:] == ["mlflow", "server"]]


def jobs() -> list[Container]:
    """The containers that run to an end."""
    return [each for each in containers() if each not in (*predictors(), *trackers())]


def look_variables() -> tuple[str, Sequence[str]]:
    """Variables that nothing reads."""
    named = [(each, variable["name"]) for each in containers() for variable in each.content.get("env") or ()]
    problems = [
        f"{container.place}: nothing reads {name}"
        for container, name in named
        if not is_read(name) and name not in _EXPANDED.findall(container.runs)
    ]
    return f"{len({name for _, name in named})} variables", problems


def is_read(name: str) -> bool:
    """Whether the project's code, or a library that it uses, names a variable."""
    return name in _EVERYWHERE or f'"{name}"' in _sources()


@functools.cache
def _sources() -> str:
    files = [path for folder in ("src", "model_servers") for path in (ROOT / folder).rglob("*.py")]
    for package, parts in _LIBRARIES.items():
        spec = importlib.util.find_spec(package)
        files += [Path(spec.origin).parent / part for part in parts] if spec and spec.origin else []
    return "\n".join(path.read_text() for path in files)


def look_predictors() -> tuple[str, Sequence[str]]:
    """Predictors started as the manifests start them, and the metrics that they have."""
    with tempfile.TemporaryDirectory() as folder:
        subject, store, sae = _tiny_store(Path(folder))
        problems = [problem for each in predictors() for problem in predictor_problems(each, subject, store, sae)]
    return f"{len(predictors())} ways to start", problems


def predictor_problems(container: Container, subject: str, store: str, sae: str) -> Iterator[str]:
    """Start a predictor, and see what it answers.

    Args:
        container: of a runtime.
        subject: the folder of its language model.
        store: the folder of its store.
        sae: the artifact that it serves, as an InferenceService names it.
    """
    more = ["--line", sae, "--subject", subject]
    try:
        with replayed(container.content, more, {"MISTUDIO_STORE": store}, {}) as running:
            yield from (f"{container.place}: {problem}" for problem in _answers(container, running.url))
            metrics = httpx.get(f"{running.url}/metrics", timeout=30).text
        status = running.process.returncode
    except RuntimeError as error:
        yield f"{container.place}: {error}"
        return
    if status:
        yield f"{container.place}: ends with {status} when it is told to end"
    if served_by(container) >= _ALL:  # what rules and dashboards name is of all predictors
        yield from metric_problems(exported_by(metrics))[1]
        yield from label_problems(labels_by(metrics))


def served_by(container: Container) -> set[str]:
    """The predictors that a container serves."""
    named = [each.partition("=")[2] for each in container.content["args"] if each.startswith("--models=")]
    return {name for each in named for name in each.split(",")}


def _answers(container: Container, url: str) -> Iterator[str]:
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        if probe in container.content:
            path = container.content[probe]["httpGet"]["path"]
            status = httpx.get(url + path, timeout=30).status_code
            if status != 200:
                yield f"{probe} gets {status} from {path}"
    if httpx.get(f"{url}/v2/models", timeout=30).status_code != 401:
        yield "answers without a key"
    with httpx.Client(base_url=url, timeout=60, headers={"Authorization": f"Bearer {KEY.partition(':')[2]}"}) as client:
        models = client.get("/v2/models")
        if models.status_code != 200:
            yield "does not take the key of its environment"
            return
        for name in sorted(served_by(container)):
            path, body = _ASKED[name]
            if name == "steer":
                body = {**body, "model": client.get("/openai/v1/models").json()["data"][0]["id"]}
            answer = client.request("POST" if body else "GET", path, json=body or None)
            if answer.status_code != 200:
                yield f"{name} does not answer {path}: {answer.status_code} {answer.text[:200]}"


def look_trackers() -> tuple[str, Sequence[str]]:
    """MLflow's server started as the manifests start it, on SQLite."""
    return f"{len(trackers())} ways to start", [problem for each in trackers() for problem in tracker_problems(each)]


def tracker_problems(container: Container) -> Iterator[str]:
    """Start a server of MLflow, and see what it answers."""
    with tempfile.TemporaryDirectory() as folder:
        values = {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db"}
        try:
            with replayed(container.content, (), values, {"s3://mlflow": f"{folder}/artifacts"}) as running:
                for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                    path = container.content[probe]["httpGet"]["path"]
                    if httpx.get(running.url + path, timeout=30).status_code != 200:
                        yield f"{container.place}: {probe} has no answer at {path}"
                yield from (f"{container.place}: {problem}" for problem in _hosts(container, running.url))
        except RuntimeError as error:
            yield f"{container.place}: {error}"


def look_object_store() -> tuple[str, Sequence[str]]:
    """SeaweedFS started as the manifests start it."""
    find("weed", "run `make check-tools`, on Linux on x86-64")
    with object_store() as (store, metrics):
        problems = [] if httpx.get(store).status_code == 403 else ["a request without a signature is answered"]
        names = exported_by(httpx.get(f"{metrics}/metrics").text)
        problems += [] if any(name.startswith("SeaweedFS_") for name in names) else ["it has no metrics"]
    return "1 way to start", problems


@contextmanager
def object_store(kept: Path | None = None) -> Iterator[tuple[str, str]]:
    """The object store of the overlays; where its S3 gateway listens, and where its metrics are.

    Args:
        kept: where its volumes lie, for one that is started again.
    """
    (container,) = [
        each for place, document in everything() for pod in pods_of(place, document)
        for each in containers_of(pod.spec) if each["name"] == "seaweedfs" and place.startswith("kind")
    ]  # fmt: skip
    # Ports that the pod has for itself, and this machine not.
    inner = [
        f"-{name}.port{end}={free_port()}" for name in ("master", "volume", "filer", "s3") for end in ("", ".grpc")
    ]
    inner.remove(next(each for each in inner if each.startswith("-s3.port=")))
    metrics = str(free_port())
    with replayed(container, inner, STORE_KEYS, {"9327": metrics}, kept) as running:
        yield running.url, f"http://127.0.0.1:{metrics}"


def look_jobs() -> tuple[str, Sequence[str]]:
    """Jobs run as the manifests run them, on an empty store and on SQLite."""
    return f"{len(jobs())} jobs", [problem for each in jobs() for problem in job_problems(each)]


def job_problems(container: Container) -> Iterator[str]:
    """Run a job to its end."""
    with tempfile.TemporaryDirectory() as folder:
        values = {"MISTUDIO_STORE": f"{folder}/store", "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        (Path(folder) / "store").mkdir()
        databases = [word.partition("=")[2] for word in arguments_of(container.content) if "=postgresql" in word]
        status, said = ran(container.content, values, dict.fromkeys(databases, f"sqlite:///{folder}/mlflow.db"))
    if status:
        yield f"{container.place}: ends with {status}: {said[-1000:]}"


def _hosts(container: Container, url: str) -> Iterator[str]:
    """MLflow answers by the name of its service, and to no other site's."""
    asked = f"{url}/api/2.0/mlflow/experiments/search?max_results=1"
    for host, wanted in (("mlflow.mistudio-data.svc:5000", 200), ("attacker.example", 403)):
        status = httpx.get(asked, timeout=30, headers={"Host": host}).status_code
        if status != wanted:
            yield f"a request to {host} gets {status}"


def _tiny_store(folder: Path) -> tuple[str, str, str]:
    from tests.support.served import tiny_store

    class Folders:
        """What the fixture takes folders from, outside of pytest."""

        def getbasetemp(self) -> Path:
            return folder

        def mktemp(self, name: str) -> Path:
            return Path(tempfile.mkdtemp(prefix=name, dir=folder))

    tiny = tiny_store(Folders())
    return str(tiny.source.path), str(tiny.store.root), str(tiny.sae.uri)
