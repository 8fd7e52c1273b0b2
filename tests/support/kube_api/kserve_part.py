"""The part of KServe, in its mode Standard: predictors by Deployment and Service, canaries with shares, statuses.

As KServe 0.20 has it: the stable predictor is ``SERVICE-predictor``, or ``SERVICE-NAME-predictor`` where it has a name,
a canary is ``SERVICE-NAME-predictor`` with the fields that it does not have taken from the stable one, and pods are
started anew only where the template of their Deployment changes. Traffic goes to a canary once it is ready.
"""

import copy
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Self

from tests.support.kube_api.network import Network
from tests.support.kube_api.refusals import Refusal
from tests.support.kube_api.server import KubeApi
from tests.support.kube_api.storage import Object

Start = Callable[[list[str]], tuple[str, Callable[[], None]]]  # the arguments of a container -> its address, its end
_MODE = "serving.kserve.io/deploymentMode"
_OF_AUTOSCALING = ("maxReplicas", "scaleMetric", "scaleMetricType", "scaleTarget", "autoScaling")


class Running(NamedTuple):
    """A Deployment whose pod answers."""

    template: Object
    url: str
    stop: Callable[[], None]


class KServe:
    """Starts what InferenceServices name.

    Args:
        api: where they are, and their ServingRuntimes.
        network: that leads to what runs.
        start: starts a container with its arguments; what it raises is why it does not start.
    """

    def __init__(self, api: KubeApi, network: Network, start: Start) -> None:
        self._api, self._network, self._start = api, network, start
        self.running: dict[tuple[str, str], Running] = {}  # by namespace and name of the Service
        self.started: list[list[str]] = []
        self.is_paused = threading.Event()  # set: nothing that is asked for is done
        self._failed: dict[tuple[str, str], tuple[Object, str]] = {}
        self._thread = threading.Thread(target=self._loop)
        api.storage.webhooks["inferenceservices"] = refuse_what_the_webhook_does

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._api.closing.set()
        with self._api.storage.changed:
            self._api.storage.changed.notify_all()
        self._thread.join()
        for each in self.running.values():
            each.stop()

    def _loop(self) -> None:
        kind, storage, seen = self._api.kind("inferenceservices"), self._api.storage, -1
        while not self._api.closing.is_set():
            found, version = storage.listed(kind, "")
            if version == seen or self.is_paused.is_set():
                with storage.changed:
                    storage.changed.wait(0.05)
                continue
            for service in found:
                self._reconcile(service)
            self._drop_orphans(found)
            seen = version

    def _reconcile(self, service: Object) -> None:
        metadata, spec = service["metadata"], service["spec"]
        name, namespace = metadata["name"], metadata["namespace"]
        stable = _deployment(name, spec["predictor"])
        failure = self._deploy(namespace, stable, spec["predictor"], metadata)
        statuses, weights = [], []
        for each in spec.get("canary") or []:
            predictor = {**spec["predictor"], **each["predictor"]}
            said = self._deploy(namespace, _deployment(name, predictor), predictor, metadata)
            at = self.running.get((namespace, _deployment(name, predictor)))
            status = {"name": predictor["name"], "ready": not said, "trafficPercent": each["trafficPercent"]}
            statuses.append({**status, "modelStatus": _model_status(said)})
            if not said and at is not None and each["trafficPercent"]:
                weights.append((each["trafficPercent"], at.url))
        self._route(service, stable, weights)
        self._write(service, failure, statuses)

    def _deploy(self, namespace: str, deployment: str, predictor: Object, metadata: Object) -> str:
        """Run what the predictor names; why it does not run, or nothing."""
        template = {"model": predictor["model"], "annotations": predictor.get("annotations"), "of": _template(metadata)}
        key = namespace, deployment
        old = self.running.get(key)
        if old is not None and old.template == template:
            return ""
        if self._failed.get(key, ({}, ""))[0] == template:
            return self._failed[key][1]
        try:
            arguments = self._arguments(namespace, predictor["model"])
            self.started.append(arguments)
            url, stop = self._start(arguments)
        except Exception as error:
            self._failed[key] = copy.deepcopy(template), str(error)
            return str(error)
        self._failed.pop(key, None)
        self.running[key] = Running(copy.deepcopy(template), url, stop)
        self._network.route(f"{deployment}.{namespace}.svc.cluster.local", (1, url))
        if old is not None:
            old.stop()
        return ""

    def _arguments(self, namespace: str, model: Object) -> list[str]:
        """Those of the runtime's container, then the predictor's own."""
        runtime = self._api.get("servingruntimes", namespace, model["runtime"])
        (container,) = (each for each in runtime["spec"]["containers"] if each["name"] == "kserve-container")
        formats = [each["name"] for each in runtime["spec"]["supportedModelFormats"]]
        if model["modelFormat"]["name"] not in formats:
            raise LookupError(f"no runtime supports the model format {model['modelFormat']['name']}")
        return [*container.get("args", []), *model.get("args", [])]

    def _route(self, service: Object, stable: str, canaries: list[tuple[int, str]]) -> None:
        """The gateway's name of the service, and the name inside, which is that of the stable predictor."""
        name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
        at = self.running.get((namespace, stable))
        if at is not None:
            left = 100 - sum(weight for weight, _ in canaries)
            self._network.route(f"{name}-{namespace}.example.com", *canaries, (left, at.url))
            self._network.route(f"{name}-predictor.{namespace}.svc.cluster.local", (1, at.url))

    def _write(self, service: Object, failure: str, canaries: list[Object]) -> None:
        name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
        is_there = (namespace, _deployment(name, service["spec"]["predictor"])) in self.running
        ready = "True" if is_there else "False"  # what ran before goes on where the new pods do not start
        status: dict[str, Any] = {
            "observedGeneration": service["metadata"]["generation"],
            "deploymentMode": "Standard",
            "url": f"http://{name}-{namespace}.example.com",
            "address": {"url": f"http://{name}-predictor.{namespace}.svc.cluster.local"},
            "conditions": [
                {"type": "PredictorReady", "status": ready, **({"message": failure} if failure else {})},
                {"type": "Ready", "status": ready},
            ],
            "modelStatus": _model_status(failure),
        }
        status |= {"canaryStatuses": canaries} if canaries else {}
        if service.get("status") != status:
            try:
                self._api.set_status("inferenceservices", namespace, name, status)
            except Refusal as refusal:
                if refusal.code != 404:  # it was deleted meanwhile
                    raise

    def _drop_orphans(self, services: list[Object]) -> None:
        wanted = {
            (each["metadata"]["namespace"], _deployment(each["metadata"]["name"], predictor))
            for each in services
            for predictor in [
                each["spec"]["predictor"],
                *(one["predictor"] for one in each["spec"].get("canary") or []),
            ]
        }
        for key in set(self.running) - wanted:
            self.running.pop(key).stop()
            self._network.route(f"{key[1]}.{key[0]}.svc.cluster.local")
        for key in set(self._failed) - wanted:
            del self._failed[key]


def refuse_what_the_webhook_does(service: Object) -> None:
    """What KServe's webhook refuses of canaries."""
    canaries = service["spec"].get("canary") or []
    if not canaries:
        return
    names = [each["predictor"].get("name") for each in canaries]
    mode = (service["metadata"].get("annotations") or {}).get(_MODE)
    for is_wrong, said in (
        (mode not in ("Standard", "RawDeployment"), "canary is only supported in Standard deployment mode"),
        (not all(names), "canary predictor name is required"),
        (len(set(names)) < len(names), "canary names must be unique"),
        (service["spec"]["predictor"].get("name") in names, "canary name must differ from the stable predictor's"),
        (sum(each["trafficPercent"] for each in canaries) > 100, "sum of canary trafficPercent must be <= 100"),
        (any(set(each["predictor"]) & set(_OF_AUTOSCALING) for each in canaries), "autoscaling is not allowed"),
    ):
        if is_wrong:
            message = f'admission webhook "inferenceservice.kserve-webhook-server.validator" denied the request: {said}'
            raise Refusal(403, message, reason="Forbidden")


def serving_runtime(namespace: str, *arguments: str, name: str = "mistudio-steer") -> Object:
    """A ServingRuntime as the manifests have it."""
    container = {"name": "kserve-container", "image": "ghcr.io/mistudio/serve:test", "args": list(arguments)}
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"supportedModelFormats": [{"name": name, "autoSelect": True}], "containers": [container]},
    }


def _deployment(service: str, predictor: Object) -> str:
    return f"{service}-{predictor['name']}-predictor" if predictor.get("name") else f"{service}-predictor"


def _template(metadata: Object) -> Object:
    """What of a service comes into the templates of its pods."""
    return {name: metadata.get(name) for name in ("labels", "annotations")}


def _model_status(failure: str) -> Object:
    if not failure:
        return {"transitionStatus": "UpToDate", "copies": {"failedCopies": 0}}
    last = {"reason": "ModelLoadFailed", "message": failure}
    return {"transitionStatus": "BlockedByFailedLoad", "copies": {"failedCopies": 1}, "lastFailureInfo": last}
