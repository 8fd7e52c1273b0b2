"""Kinds of objects, and what is asked of them: the words that paths, Roles and refusals have in common."""

from typing import Any, NamedTuple

Object = dict[str, Any]


class Resource(NamedTuple):
    """A kind of object, as the API's paths have it; the core group is empty."""

    group: str
    version: str
    plural: str
    kind: str
    operator: str = ""  # who brings it into a cluster

    @property
    def api_version(self) -> str:
        """As objects have it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """Of one object, or of all in a namespace."""
        root = f"/apis/{self.group}" if self.group else "/api"
        parts = (root, self.version, "namespaces", namespace, self.plural, name, subresource)
        return "/".join(part for part in parts if part)


INFERENCE_SERVICES = Resource("serving.kserve.io", "v1beta1", "inferenceservices", "InferenceService", "KServe")
TRAIN_JOBS = Resource("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob", "Kubeflow Trainer")
PODS = Resource("", "v1", "pods", "Pod")
EVENTS = Resource("", "v1", "events", "Event")


class Request(NamedTuple):
    """One verb on one resource."""

    verb: str
    resource: Resource
    namespace: str
    name: str = ""
    subresource: str = ""

    def __str__(self) -> str:
        what = f"{self.resource.plural}/{self.subresource}" if self.subresource else self.resource.plural
        group = f".{self.resource.group}" if self.resource.group else ""
        name = f" {self.name}" if self.name else ""
        return f"{self.verb} {what}{group}{name} in namespace {self.namespace}"
