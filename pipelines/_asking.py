"""Asking Kubeflow's API: the token, second tries, and what to say where it does not do what it was asked."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import kfp_server_api as api
import urllib3
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential, wait_random

from mistudio.errors import ClusterError, ClusterUnreachable, Conflict, InputError, NotAllowed, NotFound
from mistudio.redaction import redact
from mistudio.runs.connection import Connection, Tokens

_SYSTEM_NAMESPACE = "kubeflow"
_SERVICE_PATH = f"/api/v1/namespaces/{_SYSTEM_NAMESPACE}/services/ml-pipeline:http/proxy"
_IN_CLUSTER = f"http://ml-pipeline.{_SYSTEM_NAMESPACE}.svc.cluster.local:8888"
_POD_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_LIMITS_S = (5, 60)  # to connect, and to answer
_PATIENCE_S = 60.0
_PAGE_SIZE = 100
_MOST_CHARACTERS = 600
_BUSY = (429, 503)  # the request was not taken
_BROKEN = (502, 504)  # it may have been
_LOG_CHUNK = 1 << 16
# Where the logs of a run's pods are; versions of the API differ.
_LOG_PATHS = ("/apis/v1alpha1", "/apis/v1beta1", "/apis/v2beta1")


class _TryAgain(Exception):
    """The server could not take a request now, and it can be sent again."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Asker:
    """Sends requests with the generated client of Kubeflow's API.

    Args:
        where: the connection.
        pause_s: seconds before a request that was not taken is sent again; more each time.
        patience_s: for how long that is done. A server that has never answered is asked once.

    Attributes:
        client: what the generated functions are made with.
        host: the address of the API.
    """

    def __init__(self, where: Connection, *, pause_s: float = 0.5, patience_s: float = _PATIENCE_S) -> None:
        self._tokens = where.tokens()
        self.client = api.ApiClient(_configuration(where, self._tokens))
        self.host = str(self.client.configuration.host)
        self._where = f" in namespace {where.namespace}" if where.namespace else ""
        self._wait = wait_exponential(multiplier=pause_s, max=8 * pause_s) + wait_random(0, pause_s / 4)
        self._patience_s = patience_s
        self._has_answered = False

    def ask(self, what: str, function: Callable[..., Any], *given: Any, repeat: bool = True, **more: Any) -> Any:
        """Call a function of the client; what the server could not take now is sent again.

        Args:
            what: it is about, for messages.
            function: of the client.
            given: its arguments.
            repeat: Whether it may also be sent again where the server may have taken it.
            more: its further arguments.

        Raises:
            ClusterError: the server cannot be reached, or refuses.
            NotFound: what it is about is not there.
            InputError: the client itself refuses it.
        """
        retrying = Retrying(
            retry=retry_if_exception_type(_TryAgain),
            wait=self._wait,
            stop=stop_after_delay(self._patience_s),
            reraise=True,
        )
        try:
            return retrying(self._once, function, given, more, repeat=repeat)
        except _TryAgain as again:
            raise self._translated(what, again.error) from again.error
        except (api.ApiException, urllib3.exceptions.HTTPError) as error:
            raise self._translated(what, error) from error
        except (api.ApiTypeError, api.ApiValueError, ValueError) as error:
            message = f"The client of Kubeflow's API refuses this {what}: {error}"
            raise InputError(message) from error

    def hide(self, text: str) -> str:
        """A text of the server without the token."""
        return redact(self._tokens.current().hide_in(text))

    def paged(self, what: str, function: Callable[..., Any], *given: Any, **more: Any) -> Iterator[Any]:
        """All that a function lists, page after page; ``what``: the field of its answers."""
        token = ""
        while True:
            answer = self.ask(what, function, *given, page_size=_PAGE_SIZE, page_token=token, **more)
            yield from getattr(answer, what) or ()
            token = answer.next_page_token or ""
            if not token:
                return

    def log(self, run_id: str, pod: str) -> Iterator[bytes]:
        """What a pod of a run has printed until now; the generated client has no function for it."""
        for number, path in enumerate(_LOG_PATHS, start=1):
            address = f"{self.host}{path}/runs/{quote(run_id)}/nodes/{quote(pod)}/log"
            try:
                answer = self.ask(f"log of {pod}", self._open_log, address)
            except NotFound:
                if number == len(_LOG_PATHS):
                    raise
                continue
            with answer:
                yield from answer.stream(_LOG_CHUNK)
            return

    def _open_log(self, address: str, *, _request_timeout: tuple[int, int]) -> Any:
        """An answer that is read piece by piece."""
        headers = {"User-Agent": self.client.user_agent}
        self.client.update_params_for_auth(headers, [], ["Bearer"])
        pool, limits = self.client.rest_client.pool_manager, urllib3.Timeout(*_request_timeout)
        response = pool.request("GET", address, headers=headers, preload_content=False, timeout=limits)
        if response.status == 200:
            return response
        error = api.ApiException(status=response.status, reason=response.reason)
        error.body = response.read().decode("utf-8", errors="replace")
        response.release_conn()
        raise error

    def _once(self, function: Callable[..., Any], given: Any, more: Any, *, repeat: bool) -> Any:
        try:
            answer = self._authorised(function, given, more)
        except api.ApiException as error:
            self._has_answered = self._has_answered or bool(error.status)
            if error.status in _BUSY or (repeat and error.status in _BROKEN):
                raise _TryAgain(error) from error
            raise
        except urllib3.exceptions.HTTPError as error:
            if self._has_answered and repeat:
                raise _TryAgain(error) from error
            raise
        self._has_answered = True
        return answer

    def _authorised(self, function: Callable[..., Any], given: Any, more: Any) -> Any:
        """Call the client; where a token was refused and there is another, once more."""
        try:
            answer = function(*given, **more, _request_timeout=_LIMITS_S)
        except api.ApiException as error:
            if error.status != 401 or not self._tokens.renew():
                raise
            answer = function(*given, **more, _request_timeout=_LIMITS_S)
        if isinstance(answer, urllib3.BaseHTTPResponse):
            return answer
        kind = self.client.last_response.getheader("content-type") or "no type"
        if not kind.startswith("application/json"):
            raise api.ApiException(status=302, reason=f"an answer of {kind}")
        return answer

    def _translated(self, what: str, error: Exception) -> ClusterError | NotFound:
        if not isinstance(error, api.ApiException) or not error.status:
            why = _why_unreachable(error)
            return ClusterUnreachable(f"Kubeflow's API at {self.host} cannot be reached: {why}. Is the address right?")
        said = self.hide(_said(error))
        if error.status == 401:
            return NotAllowed(
                "Kubeflow does not know who asks (401): give a token, or a newer one (--token-file, --token-command or "
                f"MISTUDIO_KFP_TOKEN). {said}"
            )
        if error.status == 403:
            return NotAllowed(f"Kubeflow does not let you{self._where} (403; {what}): {said}")
        if error.status == 404:
            return NotFound(f"Kubeflow has no such {what}: {said}")
        if error.status == 409:
            return Conflict(f"Kubeflow has this {what} already, or it has changed (409): {said}")
        if 300 <= error.status < 400:
            return NotAllowed(
                f"{self.host} does not answer as Kubeflow's API ({error.status}, {error.reason}): the address is of "
                "something else, or it sends whoever has no token to a page to sign in."
            )
        if error.status in (*_BUSY, *_BROKEN):
            return ClusterUnreachable(
                f"Kubeflow's API at {self.host} cannot answer now ({error.status}): try again later."
            )
        return ClusterError(f"Kubeflow refuses this {what} ({error.status}): {said}")


def _configuration(where: Connection, tokens: Tokens) -> Any:
    """How the client is set up: no redirects, which lead to pages to sign in, and none of its own second tries."""
    made = api.Configuration()
    made.retries = urllib3.Retry(total=None, connect=0, read=0, redirect=0, status=0, other=0, raise_on_redirect=False)
    if where.ca_file:
        made.ssl_ca_cert = str(where.ca_file)
    if where.host:
        made.host = where.host
    elif (_POD_ACCOUNT / "token").exists():
        made.host = _IN_CLUSTER
    else:
        return _from_kubeconfig(made, where.context)
    made.api_key_prefix["authorization"] = "Bearer"

    def put_token(configuration: Any) -> None:
        configuration.api_key["authorization"] = tokens.current().reveal()

    if tokens.current():
        made.api_key["authorization"] = ""
        made.refresh_api_key_hook = put_token
    return made


def _from_kubeconfig(made: Any, context: str) -> Any:
    """By the service proxy of the cluster's own API, as kfp does it where it is told no address."""
    from kubernetes import config

    try:
        config.load_kube_config(client_configuration=made, context=context or None)
    except config.ConfigException as error:
        message = (
            f"There is no address of Kubeflow's API, and no kubeconfig to take it from ({error}): give --host, or set "
            "MISTUDIO_KFP_HOST or KUBECONFIG."
        )
        raise InputError(message) from error
    made.host = made.host.rstrip("/") + _SERVICE_PATH
    return made


def _said(error: Any) -> str:
    """What the server says of an error, in few words: Google's form of it, or the beginning of what came."""
    body = str(error.body or "")
    try:
        answer = json.loads(body)
    except ValueError:
        text = re.sub(r"<[^>]*>|\s+", " ", body)
    else:
        fields = answer if isinstance(answer, dict) else {}
        text = str(fields.get("message") or fields.get("error") or fields.get("error_message") or "")
    text = re.sub(r"\s+", " ", text).strip() or str(error.reason or "")
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"


def _why_unreachable(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    inner = reason if isinstance(reason, Exception) else error
    if isinstance(inner, urllib3.exceptions.SSLError):
        return f"its certificate is not trusted ({inner})"
    if isinstance(inner, urllib3.exceptions.TimeoutError) and not isinstance(
        inner, urllib3.exceptions.NewConnectionError
    ):
        return "it does not answer in time"
    return re.sub(r"<[^>]*>:?\s*", "", str(inner)) or type(inner).__name__
