"""InferenceServices as miStudio writes and reads them: one line of artifacts a predictor, by a ServingRuntime.

A predictor is KServe's ``model`` with the runtime's name and the arguments ``--line sae/RECIPE``, which KServe adds to
the runtime's own. What else an administrator has set of it (resources, replicas, places) stays. What was deployed, and
from which commit, is noted at the predictor: KServe copies annotations of the whole service to every pod's template,
so that a change of those would restart pods that serve.

In KServe's mode Standard a canary is an entry of ``spec.canary`` with a predictor of its own name and a share of the
traffic. To promote it, the stable predictor takes its name and the entry goes: its pods go on as they are.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from mistudio.cluster.config import Place
from mistudio.cluster.resources import INFERENCE_SERVICES, Object

PREFIX = "mistudio.io"
OWNER = {"app.kubernetes.io/managed-by": "mistudio", "app.kubernetes.io/part-of": "mistudio"}
_FORMER = f"{PREFIX}/former"  # what a predictor took the place of
_MODE = {"serving.kserve.io/deploymentMode": "Standard"}  # the only one with spec.canary
_LINE = "--line"
_CONTAINER = "kserve-container"
_CHARACTERS = 8  # of a recipe, in names
# What KServe refuses in a canary: its replicas follow from its share, or are said by minReplicas.
_NOT_OF_CANARIES = ("maxReplicas", "scaleMetric", "scaleMetricType", "scaleTarget", "autoScaling")
_FAILED = ("InvalidSpec", "BlockedByFailedLoad")


@dataclass(frozen=True)
class Deployed:
    """What is to be served.

    Attributes:
        line: URI of the artifact that names it all.
        runtime: the ServingRuntime.
        notes: what is written down of it.
    """

    line: str
    runtime: str
    notes: Mapping[str, str]

    def predictor(self, before: Object) -> Object:
        """A predictor that serves it, with all that another has set but what it serves."""
        model = {name: each for name, each in (before.get("model") or {}).items() if name != "storageUri"}
        model |= {
            "modelFormat": {"name": self.runtime},
            "runtime": self.runtime,
            "args": [_LINE, self.line, *_others(model.get("args") or [])],
        }
        notes = {f"{PREFIX}/{name}": value for name, value in self.notes.items()}
        kept = {name: value for name, value in annotations(before).items() if not name.startswith(f"{PREFIX}/")}
        former = {_FORMER: json.dumps(_without_former(before), sort_keys=True)} if before.get("model") else {}
        return {**copy.deepcopy(before), "annotations": {**kept, **notes, **former}, "model": model}


def new_service(place: Place, deployed: Deployed) -> Object:
    """An InferenceService where there was none."""
    return {
        "apiVersion": INFERENCE_SERVICES.api_version,
        "kind": INFERENCE_SERVICES.kind,
        "metadata": {
            "name": place.name,
            "namespace": place.namespace,
            "labels": dict(OWNER),
            "annotations": dict(_MODE),
        },
        "spec": {"predictor": deployed.predictor({})},
    }


def is_ours(service: Object) -> bool:
    """Whether an InferenceService is one that may be changed here."""
    labels = service["metadata"].get("labels") or {}
    return all(labels.get(name) == value for name, value in list(OWNER.items())[:1])


def serves(predictor: Object, deployed: Deployed) -> bool:
    """Whether a predictor is of that line and runtime."""
    model = predictor.get("model") or {}
    return model.get("runtime") == deployed.runtime and lines_of(predictor) == [deployed.line]


def lines_of(predictor: Object) -> list[str]:
    """The lines that a predictor is told to serve."""
    given = (predictor.get("model") or {}).get("args") or []
    behind = [value for name, value in zip(given, given[1:], strict=False) if name == _LINE]
    return behind + [each.partition("=")[2] for each in given if each.startswith(f"{_LINE}=")]


def annotations(predictor: Object) -> dict[str, str]:
    """Those of a predictor."""
    return dict(predictor.get("annotations") or {})


def former_of(predictor: Object) -> Object | None:
    """The predictor whose place this one took, as far as it is noted."""
    noted = annotations(predictor).get(_FORMER)
    former: Object | None = json.loads(noted) if noted else None
    return former


def canary_of(service: Object, deployed: Deployed) -> Object | None:
    """The entry of the canary that serves it."""
    return next((each for each in canaries(service) if serves(each["predictor"], deployed)), None)


def free_name(service: Object, deployed: Deployed) -> str:
    """A name for its predictor beside the others: one that was replaced in place keeps the name of what it served."""
    others = [service["spec"]["predictor"], *(each["predictor"] for each in canaries(service))]
    name = f"sae-{deployed.line.rpartition('/')[2][:_CHARACTERS]}"
    names = (name, *(f"{name}-{number}" for number in range(2, 3 + len(others))))
    return next(each for each in names if each not in [other.get("name") for other in others])


def canaries(service: Object) -> list[Object]:
    """All entries of canaries."""
    return list(service["spec"].get("canary") or [])


def with_stable(service: Object, predictor: Object) -> Object:
    """The service with another stable predictor."""
    return _with(service, predictor=predictor)


def with_canary(service: Object, deployed: Deployed, name: str, percent: int) -> Object:
    """The service with a canary of that share; one that is there is changed in its share alone."""
    entry = canary_of(service, deployed)
    predictor = entry["predictor"] if entry else _as_canary(service["spec"]["predictor"], deployed, name)
    others = canaries(without_canary(service, name))
    return _with(service, canary=[*others, {"trafficPercent": percent, "predictor": predictor}])


def without_canary(service: Object, name: str) -> Object:
    """The service without a canary."""
    return _with(service, canary=[each for each in canaries(service) if each["predictor"].get("name") != name])


def promoted(service: Object, own: Object) -> Object:
    """The service whose stable predictor is what a canary's was: under its name, so that its pods go on."""
    kept = {name: each for name, each in service["spec"]["predictor"].items() if name != "annotations"}
    predictor = {**kept, **{name: own[name] for name in ("name", "model", "annotations") if name in own}}
    return with_stable(without_canary(service, own["name"]), predictor)


def _as_canary(stable: Object, deployed: Deployed, name: str) -> Object:
    predictor = {name: each for name, each in deployed.predictor(stable).items() if name not in _NOT_OF_CANARIES}
    # The schema asks for the container's name here, though not of the stable predictor.
    model = {**predictor["model"], "name": _CONTAINER}
    return {**predictor, "model": model, "name": name, "minReplicas": 1}


def _with(service: Object, **fields: Any) -> Object:
    spec = {**service["spec"], **fields}
    return {**service, "spec": {name: each for name, each in spec.items() if name != "canary" or each}}


def _without_former(predictor: Object) -> Object:
    noted = {name: value for name, value in annotations(predictor).items() if name != _FORMER}
    return {**predictor, "annotations": noted}


def _others(arguments: list[str]) -> list[str]:
    """Arguments but those that name lines."""
    kept: list[str] = []
    left = iter(arguments)
    for each in left:
        if each == _LINE:
            next(left, None)
        elif not each.startswith(f"{_LINE}="):
            kept.append(each)
    return kept


def is_ready(service: Object, variant: str = "") -> bool:
    """Whether what the service says now is what runs and is ready; of a canary where one is named."""
    status = service.get("status") or {}
    if int(status.get("observedGeneration") or 0) < int(service["metadata"].get("generation") or 0):
        return False
    if variant:
        found = [each for each in status.get("canaryStatuses") or [] if each["name"] == variant]
        return bool(found and found[0]["ready"])
    return condition(service, "Ready").get("status") == "True"


def failure_of(service: Object, variant: str = "") -> str:
    """Why KServe has given up on a predictor; empty where it has not."""
    status = service.get("status") or {}
    if int(status.get("observedGeneration") or 0) < int(service["metadata"].get("generation") or 0):
        return ""
    if variant:
        status = next((each for each in status.get("canaryStatuses") or [] if each["name"] == variant), {})
    state = status.get("modelStatus") or {}
    if state.get("transitionStatus") not in _FAILED:
        return ""
    last = state.get("lastFailureInfo") or {}
    told = (state["transitionStatus"], last.get("reason"), last.get("message"))
    return ": ".join(str(each) for each in told if each)


def condition(service: Object, name: str) -> Mapping[str, Any]:
    """A condition of its status."""
    found: list[Mapping[str, Any]] = (service.get("status") or {}).get("conditions") or []
    return next((each for each in found if each["type"] == name), {})


def url_of(service: Object, variant: str = "") -> str:
    """Where a predictor is asked inside the cluster; of a canary at the Service that KServe makes for it."""
    place = Place(service["metadata"]["namespace"], service["metadata"]["name"])
    status = service.get("status") or {}
    own = (status.get("address") or {}).get("url") or status.get("url")
    if not variant and own:
        return str(own)
    if not variant and not service["spec"]["predictor"].get("name"):
        return f"http://{place.name}-predictor.{place.namespace}.svc.cluster.local"
    variant = variant or service["spec"]["predictor"]["name"]
    address = urlsplit((status.get("address") or {}).get("url") or f"http://x.{place.namespace}.svc.cluster.local")
    _, _, domain = str(address.hostname).partition(".")
    port = f":{address.port}" if address.port else ""
    return urlunsplit((address.scheme, f"{place.name}-{variant}-predictor.{domain}{port}", "", "", ""))
