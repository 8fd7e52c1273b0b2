"""The HTTP side: addresses, tokens, namespaces, and Google's form of errors."""

import email.parser
import email.policy
import json
import re
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import kfp_server_api

from tests.support.kfp_api.models import Refused, invalid, read_model, write_model
from tests.support.kfp_api.state import State, StoredRun, matching, page

_LISTING = frozenset({"page_token", "page_size", "sort_by", "filter", "namespace", "experiment_id"})
_SORT = re.compile(r"(name|created_at|id)( (asc|desc))?")


class Fault(NamedTuple):
    """What goes wrong with the next requests: a status, or a page of HTML, or a redirect."""

    status: int
    times: int = 1
    methods: tuple[str, ...] = ("GET", "POST")
    content: bytes = b""
    kind: str = "application/json"
    location: str = ""


class Asked(NamedTuple):
    method: str
    path: str
    token: str
    status: int


class KfpServer:
    """To be used in a ``with`` block.

    Args:
        tokens: by token the namespaces in which it may do everything; None: nobody is asked for one.
        multi_user: runs, pipelines and experiments belong to namespaces, and one has to be named.
        certificate: file with a certificate and its key, for TLS.
        prefix: of all addresses, as a proxy has it.
        most: items on a page at most.
    """

    def __init__(
        self,
        *,
        tokens: dict[str, set[str]] | None = None,
        multi_user: bool = False,
        certificate: Path | None = None,
        prefix: str = "",
        most: int = 200,
    ) -> None:
        self.tokens, self.multi_user, self.prefix, self.most = tokens, multi_user, prefix, most
        self.state, self.asked = State(), []
        self.faults: list[Fault] = []
        self.before_create: Callable[[str], None] = lambda _what: None
        self.before_get: Callable[[StoredRun], None] = lambda _run: None
        self.on_run: Callable[[StoredRun, str], None] = lambda _run, _document: None
        self.lock = threading.RLock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.api = self
        scheme = "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}{prefix}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    asked: list[Asked]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def run(self) -> StoredRun:
        """The one run that was started."""
        (run,) = self.state.runs.values()
        return run


class _Server(ThreadingHTTPServer):
    api: KfpServer
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up, or do not trust the certificate, are none of a test's failures."""


class _Request:
    """A request whose sender is known."""

    def __init__(self, handler: "_Handler", body: bytes) -> None:
        self.api = handler.server.api
        parts = urlsplit(handler.path)
        self.path = unquote(parts.path.removeprefix(self.api.prefix))
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.body, self.kind = body, handler.headers.get("Content-Type", "")
        self.token = handler.headers.get("Authorization", "").removeprefix("Bearer ")

    def allow(self, *names: str) -> None:
        if unknown := set(self.query) - set(names):
            raise invalid(f"unknown query parameter {sorted(unknown)[0]}")

    def model(self, name: str) -> Any:
        try:
            content = json.loads(self.body)
        except ValueError as error:
            raise invalid(f"the body is no JSON: {error}") from error
        return read_model(name, content)

    def namespace(self, given: str | None) -> str:
        """The namespace that a request is about, which its sender may use."""
        if not self.api.multi_user:
            if given:
                raise invalid("In single-user mode, the namespace must be empty")
            return ""
        if not given:
            raise invalid("Namespace is empty: a request needs one in multi-user mode")
        self.check(given)
        return given

    def check(self, namespace: str) -> None:
        allowed = self.api.tokens
        if allowed is not None and namespace and namespace not in allowed.get(self.token, set()):
            raise Refused(403, 7, f"PermissionDenied: User 'ci' is not authorized in namespace {namespace}")

    def file(self) -> str:
        """The uploaded file of a form."""
        head = f"Content-Type: {self.kind}\r\n\r\n".encode()
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + self.body)
        parts = [
            part
            for part in message.iter_parts()
            if part.get_param("name", header="content-disposition") == "uploadfile"
        ]
        if len(parts) != 1:
            raise invalid("failed to read the form: http: no such file")
        return parts[0].get_payload(decode=True).decode()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def log_message(self, *_: Any) -> None:
        """The requests are kept in ``asked``."""

    def _answer(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.api.lock:
            request = _Request(self, body)
            try:
                status, content = self._fault(method) or self._done(method, request)
            except Refused as refused:
                answer = {"error": refused.message, "code": refused.code, "message": refused.message, "details": []}
                status, content = refused.status, json.dumps(answer).encode()
            self.server.api.asked.append(Asked(method, request.path, request.token, status))
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **self._headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _fault(self, method: str) -> tuple[int, bytes] | None:
        self._headers: dict[str, str] = {}
        faults = self.server.api.faults
        if not faults or method not in faults[0].methods:
            return None
        fault = faults.pop(0)
        if fault.times > 1:
            faults.insert(0, fault._replace(times=fault.times - 1))
        self._headers = {"Content-Type": fault.kind, **({"Location": fault.location} if fault.location else {})}
        return fault.status, fault.content

    def _done(self, method: str, request: _Request) -> tuple[int, bytes]:
        api = self.server.api
        if api.tokens is not None and request.token not in api.tokens:
            raise Refused(401, 16, "Unauthenticated: Request header error: there is no user identity header")
        for known, pattern, function in _ROUTES:
            found = pattern.fullmatch(request.path)
            if found and known == method:
                made = function(request, *found.groups())
                if isinstance(made, bytes):
                    self._headers = {"Content-Type": "text/plain"}
                    return 200, made
                return 200, json.dumps(write_model(made)).encode()
        if any(pattern.fullmatch(request.path) for _, pattern, _ in _ROUTES):
            raise Refused(501, 12, "Method Not Allowed")
        raise Refused(404, 5, "Not Found")


def _healthz(request: _Request) -> Any:
    return kfp_server_api.V2beta1GetHealthzResponse(multi_user=request.api.multi_user, pipeline_store="database")


def _make_pipeline(request: _Request) -> Any:
    request.allow()
    asked = request.model("V2beta1Pipeline")
    request.api.before_create("pipeline")
    return request.api.state.make_pipeline(asked, request.namespace(asked.namespace))


def _get_pipeline_by_name(request: _Request, name: str) -> Any:
    request.allow("namespace")
    namespace = request.namespace(request.query.get("namespace"))
    for each in request.api.state.pipelines.values():
        if each.name == name and each.namespace == namespace:
            return each
    raise Refused(404, 5, f"ResourceNotFoundError: Namespace/Pipeline {namespace}/{name} not found")


def _get_pipeline(request: _Request, pipeline_id: str) -> Any:
    found = request.api.state.pipeline(pipeline_id)
    request.check(found.namespace)
    return found


def _upload_version(request: _Request) -> Any:
    request.allow("name", "display_name", "pipelineid", "description", "tags")
    pipeline = request.api.state.pipeline(request.query.get("pipelineid", ""))
    request.check(pipeline.namespace)
    request.api.before_create("version")
    name, description = request.query.get("name", ""), request.query.get("description", "")
    return request.api.state.make_version(pipeline.pipeline_id, name, description, request.file())


def _list_versions(request: _Request, pipeline_id: str) -> Any:
    request.allow("page_token", "page_size", "sort_by", "filter")
    request.check(request.api.state.pipeline(pipeline_id).namespace)
    own = [each for each in request.api.state.versions.values() if each.pipeline_id == pipeline_id]
    items, token = page(matching(own, request.query.get("filter", "")), request.query, request.api.most)
    return kfp_server_api.V2beta1ListPipelineVersionsResponse(
        pipeline_versions=items or None, next_page_token=token, total_size=len(own)
    )


def _get_version(request: _Request, pipeline_id: str, version_id: str) -> Any:
    request.check(request.api.state.pipeline(pipeline_id).namespace)
    return request.api.state.version(pipeline_id, version_id)


def _make_experiment(request: _Request) -> Any:
    request.allow()
    asked = request.model("V2beta1Experiment")
    request.api.before_create("experiment")
    return request.api.state.make_experiment(asked, request.namespace(asked.namespace))


def _list_experiments(request: _Request) -> Any:
    request.allow(*_LISTING)
    namespace = request.namespace(request.query.get("namespace"))
    own = [each for each in request.api.state.experiments.values() if each.namespace == namespace]
    items, token = page(matching(own, request.query.get("filter", "")), request.query, request.api.most)
    return kfp_server_api.V2beta1ListExperimentsResponse(experiments=items or None, next_page_token=token)


def _make_run(request: _Request) -> Any:
    request.allow("experiment_id")
    asked = request.model("V2beta1Run")
    experiment = request.api.state.experiments.get(asked.experiment_id or "")
    if experiment is not None:
        request.check(experiment.namespace)
    made = request.api.state.make_run(asked)
    request.api.on_run(made, request.api.state.documents[asked.pipeline_version_reference.pipeline_version_id])
    return made.shown(details=False)


def _make_recurring_run(request: _Request) -> Any:
    request.allow()
    asked = request.model("V2beta1RecurringRun")
    request.namespace(asked.namespace)
    return request.api.state.make_recurring_run(asked)


def _list_runs(request: _Request) -> Any:
    request.allow(*_LISTING)
    namespace = request.namespace(request.query.get("namespace"))
    order = request.query.get("sort_by", "")
    if order and not _SORT.fullmatch(order):
        raise invalid(f"sort_by has to be a field and asc or desc, not {order}")
    own = [each.shown(details=False) for each in request.api.state.runs.values() if each.namespace == namespace]
    if order.startswith("created_at"):
        own.sort(key=lambda each: each.created_at, reverse=order.endswith("desc"))
    items, token = page(own, request.query, request.api.most)
    return kfp_server_api.V2beta1ListRunsResponse(runs=items or None, next_page_token=token, total_size=len(own))


def _get_run(request: _Request, run_id: str) -> Any:
    request.allow("experiment_id")
    run = _own_run(request, run_id)
    request.api.before_get(run)
    return run.shown(details=True)


def _terminate_run(request: _Request, run_id: str) -> Any:
    run = _own_run(request, run_id)
    if run.has_ended or run.model.state == "CANCELING":
        raise Refused(400, 9, f"Failed to terminate run {run_id}. The run has finished or is being terminated")
    run.become("CANCELING")
    return {}


def _retry_run(request: _Request, run_id: str) -> Any:
    run = _own_run(request, run_id)
    if run.model.state not in ("FAILED", "CANCELED"):
        raise Refused(400, 9, "Workflow must be Failed/Error to retry")
    run.become("RUNNING")
    return {}


def _read_log(request: _Request, run_id: str, pod: str) -> bytes:
    run = _own_run(request, run_id)
    if pod not in run.logs:
        raise Refused(500, 13, f"Failed to read logs for run {run_id}: pods {pod} not found")
    return run.logs[pod]


def _own_run(request: _Request, run_id: str) -> StoredRun:
    run = request.api.state.run(run_id)
    request.check(run.namespace)
    return run


_ID = "([^/:]+)"
_ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Any]]] = [
    (method, re.compile(pattern), function)
    for method, pattern, function in (
        ("GET", "/apis/v2beta1/healthz", _healthz),
        ("POST", "/apis/v2beta1/pipelines", _make_pipeline),
        ("POST", "/apis/v2beta1/pipelines/upload_version", _upload_version),
        ("GET", f"/apis/v2beta1/pipelines/names/{_ID}", _get_pipeline_by_name),
        ("GET", f"/apis/v2beta1/pipelines/{_ID}", _get_pipeline),
        ("GET", f"/apis/v2beta1/pipelines/{_ID}/versions", _list_versions),
        ("GET", f"/apis/v2beta1/pipelines/{_ID}/versions/{_ID}", _get_version),
        ("POST", "/apis/v2beta1/experiments", _make_experiment),
        ("GET", "/apis/v2beta1/experiments", _list_experiments),
        ("POST", "/apis/v2beta1/runs", _make_run),
        ("GET", "/apis/v2beta1/runs", _list_runs),
        ("POST", "/apis/v2beta1/recurringruns", _make_recurring_run),
        ("GET", f"/apis/v2beta1/runs/{_ID}", _get_run),
        ("POST", f"/apis/v2beta1/runs/{_ID}:terminate", _terminate_run),
        ("POST", f"/apis/v2beta1/runs/{_ID}:retry", _retry_run),
        ("GET", f"/apis/v1alpha1/runs/{_ID}/nodes/{_ID}/log", _read_log),
    )
]
