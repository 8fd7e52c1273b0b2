"""The API of a Kubernetes cluster: connecting, bounded waits and retries, and errors that say what is missing.

Every request is one verb on one resource, the words that RBAC has for it, so that a refusal can name the right that an
account lacks. Writes are checked strictly: a field that the cluster's CRDs do not know is an error, and is not dropped.
"""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mistudio.cluster.refusals import refused, unreachable
from mistudio.cluster.resources import PODS, Object, Request, Resource
from mistudio.errors import ClusterError, ConfigError
from mistudio.plain_text import shortened
from mistudio.redaction import Secret

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

logger = logging.getLogger(__name__)

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_METHODS = {"get": "GET", "list": "GET", "create": "POST", "update": "PUT", "delete": "DELETE"}
_JSON = "application/json"
_WRITES = ("create", "update")
_TRIED_AGAIN = frozenset({429, 500, 502, 503, 504})
_MOST_LOG_BYTES = 1 << 20  # of one look at a pod's log


@dataclass(frozen=True)
class Patience:
    """How long an API is waited for.

    Attributes:
        connect_s: seconds for a connection.
        answer_s: seconds for an answer.
        total_s: seconds in all, with what is tried again.
        first_wait_s: seconds before the first further try; each further one waits twice as long.
        most_wait_s: seconds before any further try, also where the server asks for more.
    """

    connect_s: float = 10.0
    answer_s: float = 30.0
    total_s: float = 300.0
    first_wait_s: float = 0.5
    most_wait_s: float = 20.0


class Cluster:
    """A cluster's API, as one account sees it.

    Args:
        client: of the kubernetes package, set up for the cluster.
        namespace: where nothing else is said.
        patience: how long it is waited for.
    """

    def __init__(self, client: "ApiClient", namespace: str, patience: Patience | None = None) -> None:
        self._client, self.namespace = client, namespace
        self._patience = patience or Patience()

    @classmethod
    def connect(cls, context: str = "", patience: Patience | None = None) -> Self:
        """Connect as the pod's service account inside a cluster, and by the kubeconfig elsewhere.

        Args:
            context: of the kubeconfig, which is then taken inside a cluster too; empty: its current one.
            patience: how long the API is waited for.

        Raises:
            ConfigError: the kubernetes client is not installed, or neither an account nor a kubeconfig is there.
        """
        try:
            from kubernetes import client, config
        except ImportError as error:
            message = "The kubernetes client is not installed: pip install 'mistudio[cluster]'."
            raise ConfigError(message) from error
        settings = client.Configuration()
        try:
            if "KUBERNETES_SERVICE_HOST" in os.environ and not context:
                config.load_incluster_config(settings)
                namespace = _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.exists() else "default"
            else:
                # By its path: the client reads KUBECONFIG once, when it is imported.
                path = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
                config.load_kube_config(path, context or None, client_configuration=settings)
                namespace = _namespace_of(path, context)
        except (config.ConfigException, OSError, TypeError, ValueError) as error:
            message = (
                f"No cluster is known here ({shortened(str(error))}). Outside a cluster, name a kubeconfig by "
                "KUBECONFIG, and one of its contexts; kubectl config get-contexts lists them."
            )
            raise ConfigError(message) from error
        settings.retries = False  # tried again here, where the server's wish is known
        return cls(client.ApiClient(settings), namespace, patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """An object; None where there is none of that name.

        Raises:
            ClusterError: the API refuses, or cannot be reached in time.
        """
        try:
            found: Object = self._ask(Request("get", resource, namespace, name))
        except ClusterError as error:
            if _is_missing_object(error):
                return None
            raise
        return found

    def find(self, resource: Resource, namespace: str, labels: Mapping[str, str] | None = None) -> list[Object]:
        """All objects with these labels.

        Raises:
            ClusterError: the API refuses, or cannot be reached in time.
        """
        selector = ",".join(f"{name}={value}" for name, value in (labels or {}).items())
        query = [("labelSelector", selector)] if selector else []
        found: list[Object] = self._ask(Request("list", resource, namespace), query=query)["items"]
        return found

    def create(self, resource: Resource, content: Object) -> Object:
        """Make an object. Where an answer is lost, what is tried again finds that the object is there already.

        Raises:
            ClusterError: the API refuses (``reason`` AlreadyExists: there is one of that name), or cannot be reached.
        """
        made: Object = self._ask(Request("create", resource, content["metadata"]["namespace"]), content)
        return made

    def update(self, resource: Resource, content: Object) -> Object:
        """Replace an object that was read before.

        Raises:
            ClusterError: the API refuses (``reason`` Conflict: it was changed meanwhile), or cannot be reached.
        """
        metadata = content["metadata"]
        done: Object = self._ask(Request("update", resource, metadata["namespace"], metadata["name"]), content)
        return done

    def delete(self, resource: Resource, namespace: str, name: str, uid: str = "") -> None:
        """Delete an object with all that was made for it; one that is gone already is no error.

        Args:
            resource: its kind.
            namespace: where it is.
            name: of it.
            uid: of the very object; another of that name is left alone.

        Raises:
            ClusterError: the API refuses, or cannot be reached in time.
        """
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        options |= {"preconditions": {"uid": uid}} if uid else {}
        try:
            self._ask(Request("delete", resource, namespace, name), options)
        except ClusterError as error:
            if not _is_missing_object(error) and not (uid and error.reason == "Conflict"):
                raise

    def pod_log(self, namespace: str, pod: str, container: str, *, since_s: int = 0, tail_lines: int = 0) -> str:
        """What a container has printed, each line behind its time; empty before it has started.

        Args:
            namespace: of the pod.
            pod: its name.
            container: of it.
            since_s: of the last so many seconds; 0: from the beginning.
            tail_lines: the last ones; 0: all, up to a MiB.

        Raises:
            ClusterError: the API refuses, or cannot be reached in time.
        """
        query = [("container", container), ("timestamps", "true"), ("limitBytes", str(_MOST_LOG_BYTES))]
        query += [("sinceSeconds", str(since_s))] if since_s else []
        query += [("tailLines", str(tail_lines))] if tail_lines else []
        try:
            found: str = self._ask(Request("get", PODS, namespace, pod, "log"), query=query)
        except ClusterError as error:
            if error.status in (400, 404):  # it waits to start, or is gone
                return ""
            raise
        return found

    def _ask(self, request: Request, body: Object | None = None, query: list[tuple[str, str]] | None = None) -> Any:
        """Do a request, again where that may help.

        Raises:
            ClusterError: the API refuses, or cannot be reached in time.
        """
        deadline = time.monotonic() + self._patience.total_s
        waits = self._waits()
        while True:
            try:
                return self._ask_once(request, body, query or [])
            except ClusterError as error:
                wait_s = max(next(waits), min(error.retry_after_s, self._patience.most_wait_s))
                if (error.status and error.status not in _TRIED_AGAIN) or time.monotonic() + wait_s > deadline:
                    raise
                logger.info("%s Trying again.", error)
                time.sleep(wait_s)

    def _waits(self) -> Iterator[float]:
        wait_s = self._patience.first_wait_s
        while True:
            yield min(wait_s, self._patience.most_wait_s)
            wait_s *= 2

    def _ask_once(self, request: Request, body: Object | None, query: list[tuple[str, str]]) -> Any:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        strict = [("fieldValidation", "Strict")] if request.verb in _WRITES else []
        accepts, sends = {"Accept": "*/*" if request.subresource else _JSON}, {"Content-Type": _JSON}
        try:
            response, _, _ = self._client.call_api(
                request.resource.path(request.namespace, request.name, request.subresource),
                _METHODS[request.verb],
                query_params=[*query, *strict],
                header_params=accepts if body is None else accepts | sends,
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=(self._patience.connect_s, self._patience.answer_s),
            )
            text = response.data.decode(errors="replace")
        except ApiException as error:
            said = error.body.decode(errors="replace") if isinstance(error.body, bytes) else str(error.body or "")
            raise refused(request, error.status or 0, said, error.headers or {}, self._hide) from error
        except (HTTPError, OSError) as error:
            raise unreachable(request, self._client.configuration.host, error, self._hide) from error
        try:
            return text if request.subresource else json.loads(text)
        except ValueError as error:
            host = self._client.configuration.host
            message = f"{host}, asked to {request}, does not answer as the API of a cluster: is the address right?"
            raise ClusterError(message, response.status) from error

    def _hide(self, text: str) -> str:
        """A text without the account's token."""
        for value in self._client.configuration.api_key.values():
            text = Secret(value.removeprefix("Bearer ")).hide_in(text)
        return text


def _is_missing_object(error: ClusterError) -> bool:
    """Whether an object is not there, where its kind is known."""
    return error.status == 404 and error.reason == "NotFound"  # noqa: PLR2004


def _namespace_of(path: str, context: str) -> str:
    """The namespace that a context of the kubeconfig names."""
    from kubernetes import config

    contexts, current = config.list_kube_config_contexts(path)
    chosen = next((each for each in contexts if each["name"] == context), current)
    return str(chosen["context"].get("namespace") or "default")
