"""The HTTP side of the server: paths, verbs, rights, faults that a test asks for, and watches."""

import datetime
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.support.kube_api import patches
from tests.support.kube_api.kinds import Kind, crds_folder, find_kind, named
from tests.support.kube_api.refusals import Refusal, not_found, unknown_path
from tests.support.kube_api.rights import Right, Rights
from tests.support.kube_api.storage import Object, Storage

_STATUS_OF = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True)
class Asked:
    """A request, read."""

    method: str
    path: str
    query: dict[str, str]
    kind: Kind
    namespace: str
    name: str
    subresource: str
    content_type: str
    body: Any

    @property
    def verb(self) -> str:
        """The word of RBAC."""
        if self.method == "GET" and not self.name:
            return "watch" if self.query.get("watch") in ("1", "true") else "list"
        return "deletecollection" if self.method == "DELETE" and not self.name else _STATUS_OF[self.method]

    @property
    def right(self) -> Right:
        resource = f"{self.kind.plural}/{self.subresource}" if self.subresource else self.kind.plural
        return Right(self.namespace, self.kind.group, resource, self.verb, self.name)

    @property
    def strict(self) -> bool:
        return self.query.get("fieldValidation", "Warn") == "Strict"


@dataclass
class Fault:
    """What goes wrong with requests: refused with a status, left without an answer, or the connection is reset."""

    matches: Callable[[Asked], bool]
    times: int
    code: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    after: bool = False  # it is done before: only the answer is lost
    hangs: bool = False


class KubeApi:
    """A cluster's API on the loopback interface.

    Args:
        plurals: the custom kinds that the test uses.

    Attributes:
        rights: accounts and what they did.
        storage: the objects.
        logs: of the containers of pods, by namespace, pod and container.
        asked: every request in its order.
        before: by verb, what is called with the body of a request that is about to be done.
    """

    def __init__(self, *plurals: str) -> None:
        crds_folder()  # without it the test is skipped
        for plural in plurals:  # which takes seconds, and no client waits for them
            named(plural)
        self.rights, self.storage = Rights(), Storage()
        self.logs: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
        self.asked: list[tuple[str, str]] = []
        self.before: dict[str, Callable[[Any], None]] = {}
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.api = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.closing.set()
        with self.storage.changed:
            self.storage.changed.notify_all()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def kind(self, plural: str) -> Kind:
        return named(plural)

    def fail(
        self,
        code: int = 0,
        *,
        verb: str = "",
        plural: str = "",
        times: int = 1,
        after: bool = False,
        hangs: bool = False,
        **headers: str,
    ) -> None:
        """Let the next requests fail: with a status, or (0) by a reset connection."""

        def matches(asked: Asked) -> bool:
            return verb in ("", asked.verb) and plural in ("", asked.kind.plural)

        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with self._lock:
            self._faults.append(Fault(matches, times, code, named, after, hangs))

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Meanwhile every connection is reset."""
        fault = Fault(lambda _asked: True, 1 << 30)
        with self._lock:
            self._faults.insert(0, fault)
        try:
            yield
        finally:
            with self._lock:
                self._faults.remove(fault)

    def fault(self, asked: Asked) -> Fault | None:
        with self._lock:
            self.asked.append((asked.verb, asked.path))
            found = next((each for each in self._faults if each.times > 0 and each.matches(asked)), None)
            if found is not None:
                found.times -= 1
            return found

    def num_asked(self, verb: str, plural: str) -> int:
        with self._lock:
            return sum(each == verb and f"/{plural}" in path for each, path in self.asked)

    def set_status(self, plural: str, namespace: str, name: str, status: Object) -> None:
        """Write a status, as a controller does."""
        self.storage.update(
            self.kind(plural), namespace, name, lambda old: {**old, "status": status}, strict=True, of_status=True
        )

    def put(self, plural: str, namespace: str, content: Object) -> Object:
        """Make an object, as somebody else in the cluster does."""
        return self.storage.create(self.kind(plural), namespace, content, strict=True)

    def get(self, plural: str, namespace: str, name: str) -> Object:
        return self.storage.get(self.kind(plural), namespace, name)

    def has(self, plural: str, namespace: str, name: str) -> bool:
        found, _ = self.storage.listed(self.kind(plural), namespace)
        return name in [each["metadata"]["name"] for each in found]

    def remove(self, plural: str, namespace: str, name: str) -> None:
        self.storage.delete(self.kind(plural), namespace, name, {})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    api: KubeApi


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:  # noqa: N802
        self._answer()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_arguments: object) -> None:
        """Print nothing."""

    def _answer(self) -> None:
        api = self.server.api
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        try:
            asked = self._read(raw)
            fault = api.fault(asked)
            if fault is not None and not fault.after:
                self._fail(fault)
                return
            api.rights.check(self.headers.get("Authorization", ""), asked.right)
            if asked.verb == "watch":
                self._watch(asked)
                return
            api.before.get(asked.verb, lambda _body: None)(asked.body)
            code, content = _done(api, asked)
            if fault is not None:
                self._fail(fault)
                return
            self._send(code, content)
        except Refusal as refusal:
            self._send(refusal.code, refusal.status, refusal.headers)
        except BrokenPipeError:
            self.close_connection = True

    def _read(self, raw: bytes) -> Asked:
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        kind, namespace, name, subresource = _resolved(parts.path)
        content_type = self.headers.get("Content-Type", "").partition(";")[0]
        try:
            body = json.loads(raw) if raw else None
        except ValueError as error:
            raise Refusal(400, f"couldn't read the body: {error}") from error
        return Asked(self.command, parts.path, query, kind, namespace, name, subresource, content_type, body)

    def _fail(self, fault: Fault) -> None:
        self.close_connection = True
        if fault.hangs:
            self.server.api.closing.wait(60)
        if fault.code:
            message = "the server is currently unable to handle the request"
            refusal = Refusal(fault.code, message, headers=fault.headers)
            self._send(refusal.code, refusal.status, refusal.headers)
            return
        self.connection.close()

    def _watch(self, asked: Asked) -> None:
        """Events one a line, until the client's time is up or it leaves."""
        storage, api = self.server.api.storage, self.server.api
        version = int(asked.query.get("resourceVersion") or 0)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if version and version < storage.oldest:
            gone = Refusal(410, f"too old resource version: {version} ({storage.oldest})", reason="Expired")
            self._chunk({"type": "ERROR", "object": gone.status})
        else:
            self._watch_from(asked, version, api)
        self.wfile.write(b"0\r\n\r\n")

    def _watch_from(self, asked: Asked, version: int, api: KubeApi) -> None:
        if not version:
            found, version = api.storage.listed(asked.kind, asked.namespace, asked.query.get("labelSelector", ""))
            for each in found:
                self._chunk({"type": "ADDED", "object": each})
        left_s = float(asked.query.get("timeoutSeconds") or 30)
        selector = asked.query.get("labelSelector", "")
        while not api.closing.is_set():
            with api.storage.changed:
                if not api.storage.since(asked.kind, asked.namespace, version, selector):
                    if left_s <= 0:
                        return
                    api.storage.changed.wait(0.1)
                    left_s -= 0.1
                events = api.storage.since(asked.kind, asked.namespace, version, selector)
            for number, what, each in events:
                self._chunk({"type": what, "object": each})
                version = number

    def _chunk(self, event: Object) -> None:
        line = json.dumps(event).encode() + b"\n"
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.flush()

    def _send(self, code: int, content: Any, headers: dict[str, str] | None = None) -> None:
        is_text = isinstance(content, str)
        data = content.encode() if is_text else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if is_text else "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def _resolved(path: str) -> tuple[Kind, str, str, str]:
    """Kind, namespace, name and subresource of a path.

    Raises:
        Refusal: 404, there is none.
    """
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) > 2:
        group, (version, *rest) = "", parts[1:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, *rest = parts[1:]
    else:
        raise unknown_path()
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    kind = find_kind(group, version, rest[0])
    if kind is None or (namespace and not kind.namespaced):
        raise unknown_path()
    return kind, namespace, rest[1] if len(rest) > 1 else "", "/".join(rest[2:])


def _done(api: KubeApi, asked: Asked) -> tuple[int, Any]:
    if asked.subresource == "log":
        return 200, _log(api, asked)
    if asked.subresource not in ("", "status"):
        raise unknown_path()
    actions = {"get": _get, "list": _list, "create": _create, "update": _update, "patch": _patch, "delete": _delete}
    if asked.verb not in actions:
        raise Refusal(405, f"{asked.method} is not supported")
    return actions[asked.verb](api, asked)


def _get(api: KubeApi, asked: Asked) -> tuple[int, Any]:
    return 200, api.storage.get(asked.kind, asked.namespace, asked.name)


def _list(api: KubeApi, asked: Asked) -> tuple[int, Any]:
    found, version = api.storage.listed(asked.kind, asked.namespace, asked.query.get("labelSelector", ""))
    kind = asked.kind
    metadata = {"resourceVersion": str(version)}
    return 200, {"apiVersion": kind.api_version, "kind": f"{kind.name}List", "metadata": metadata, "items": found}


def _create(api: KubeApi, asked: Asked) -> tuple[int, Any]:
    return 201, api.storage.create(asked.kind, asked.namespace, _object(asked.body), strict=asked.strict)


def _update(api: KubeApi, asked: Asked) -> tuple[int, Any]:
    new = _object(asked.body)
    if new.get("metadata", {}).get("name") != asked.name:
        raise Refusal(400, "the name of the object does not match the name on the URL")
    if asked.kind.schema is not None and not new["metadata"].get("resourceVersion"):
        message = "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"
        raise Refusal(422, message)
    of_status = asked.subresource == "status"
    return 200, api.storage.update(
        asked.kind, asked.namespace, asked.name, lambda _old: new, strict=asked.strict, of_status=of_status
    )


def _patch(api: KubeApi, asked: Asked) -> tuple[int, Any]:
    kinds: dict[str, Callable[[Object], Object]] = {
        patches.MERGE: lambda old: patches.merged(old, asked.body),
        patches.JSON: lambda old: patches.json_patched(old, asked.body),
        patches.STRATEGIC: lambda old: patches.strategically_merged(old, asked.body),
        patches.APPLY: lambda old: patches.applied(
            old, asked.body, asked.query.get("fieldManager", ""), force=asked.query.get("force") == "true"
        ),
    }
    if asked.content_type not in kinds or (asked.content_type == patches.STRATEGIC and asked.kind.schema is not None):
        raise Refusal(415, f"the body of the request was in an unknown format: {asked.content_type}")
    if asked.content_type == patches.APPLY:
        if not asked.query.get("fieldManager"):
            raise Refusal(400, "PatchOptions.meta.k8s.io is invalid: fieldManager: Required value")
        if not api.has(asked.kind.plural, asked.namespace, asked.name):
            made = patches.applied(None, _object(asked.body), asked.query["fieldManager"], force=False)
            return 201, api.storage.create(asked.kind, asked.namespace, made, strict=asked.strict)
    of_status = asked.subresource == "status"
    change = kinds[asked.content_type]
    return 200, api.storage.update(
        asked.kind, asked.namespace, asked.name, change, strict=asked.strict, of_status=of_status
    )


def _delete(api: KubeApi, asked: Asked) -> tuple[int, Any]:
    gone = api.storage.delete(asked.kind, asked.namespace, asked.name, asked.body or {})
    details = {"name": asked.name, "group": asked.kind.group, "kind": asked.kind.plural, "uid": gone["metadata"]["uid"]}
    return 200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _log(api: KubeApi, asked: Asked) -> str:
    pod = api.storage.get(asked.kind, asked.namespace, asked.name)
    names = [each["name"] for each in pod["spec"]["containers"]]
    container = asked.query.get("container") or (names[0] if len(names) == 1 else "")
    if container not in names:
        raise Refusal(400, f"a container name must be specified for pod {asked.name}, choose one of: {names}")
    lines = api.logs.get((asked.namespace, asked.name, container))
    if lines is None:
        message = f'container "{container}" in pod "{asked.name}" is waiting to start: ContainerCreating'
        raise Refusal(400, message)
    if seconds := int(asked.query.get("sinceSeconds") or 0):
        since = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)).isoformat()
        lines = [(time, line) for time, line in lines if time >= since]
    if tail := int(asked.query.get("tailLines") or 0):
        lines = lines[-tail:]
    stamped = asked.query.get("timestamps") == "true"
    text = "".join(f"{time} {line}\n" if stamped else f"{line}\n" for time, line in lines)
    limit = int(asked.query.get("limitBytes") or 0)
    return text[:limit] if limit else text


def _object(body: Any) -> Object:
    if not isinstance(body, dict):
        raise Refusal(400, "the object provided is unrecognized")
    return body


__all__ = ["Asked", "KubeApi", "not_found"]
