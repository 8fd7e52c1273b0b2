"""KServe's protocol V2 over gRPC, with the same keys, limits and refusals as over HTTP."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc
from grpc import aio
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.infer_type import InferRequest
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from mistudio.errors import ConfigError
from model_servers.base.application import Application
from model_servers.base.health import Health
from model_servers.base.logs import REQUEST_ID, REQUESTS, with_fields
from model_servers.base.problems import Problem, Refused, problem_of, timed_out, wrong
from model_servers.base.recording import CLIENT_LEFT, HEADER, KEY_NAME, Record, request_id_from
from model_servers.base.settings import ServerSettings

_OPEN = ("ServerLive", "ServerReady", "ModelReady")
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

_caller: ContextVar[dict[str, str]] = ContextVar("caller")  # headers of the request that is answered

Handler = Callable[[Any, aio.ServicerContext[Any, Any]], Awaitable[Any]]


class GRPCServer:
    """Listens beside the HTTP server, on the same event loop.

    Args:
        application: what is served.
        settings: of the server; ``grpc_port`` is given.

    Attributes:
        port: where it listens, once it has started.
    """

    def __init__(self, application: Application, settings: ServerSettings) -> None:
        self._application = application
        self._settings = settings
        self._server: aio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: nothing can listen there.
        """
        size = self._settings.max_body_bytes
        options = [("grpc.max_receive_message_length", size), ("grpc.so_reuseport", 0)]
        server = aio.server(interceptors=[_Guard(self._application, self._settings)], options=options)
        add_GRPCInferenceServiceServicer_to_server(_Servicer(self._application), server)
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        try:
            self.port = server.add_insecure_port(f"{host}:{self._settings.grpc_port}")
        except RuntimeError as error:
            message = f"Nothing can listen at {host}, port {self._settings.grpc_port}: give another --grpc-port."
            raise ConfigError(message) from error
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """End; what is still answered has a second."""
        if self._server is not None:
            await self._server.stop(grace=1)


class _Servicer(InferenceServicer):  # type: ignore[misc]
    """KServe's, with this server's health, and without loading of models by clients."""

    def __init__(self, application: Application) -> None:
        super().__init__(application.dataplane, ModelRepositoryExtension(application.dataplane.model_registry))
        self._state = application.state
        self._health = Health(application.dataplane, application.state)

    async def ServerReady(self, request: Any, context: Any) -> Any:
        """Whether requests are answered."""
        return messages.ServerReadyResponse(ready=self._state.is_ready)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        """Name and version."""
        return messages.ServerMetadataResponse(**await self._health.metadata())

    async def ModelReady(self, request: Any, context: Any) -> Any:
        """Whether a model answers requests."""
        self._health.check_model(request.name)
        return messages.ModelReadyResponse(ready=self._state.is_ready)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        """Inputs and outputs of a model."""
        self._health.check_model(request.name)
        return await super().ModelMetadata(request, context)

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """Output tensors for input tensors."""
        self._health.check_ready()
        self._health.check_model(request.model_name)
        self.validate_grpc_request(request)
        parsed = InferRequest.from_grpc(request)
        result, _ = await self._data_plane.infer(model_name=request.model_name, request=parsed, headers=_caller.get())
        return result.to_grpc()

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        """Models come and go with the server."""
        message = "Models come and go with the server: start another one."
        raise wrong(message, code="not_supported", status=501)

    RepositoryModelUnload = RepositoryModelLoad


class _Guard(aio.ServerInterceptor):  # type: ignore[misc]
    """Keys, rates, the server's state, the time, and refusals as gRPC's statuses."""

    def __init__(self, application: Application, settings: ServerSettings) -> None:
        self._application = application
        self._timeout_s = settings.request_timeout_s

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        """Put the guard around a method."""
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        method = str(details.method).rpartition("/")[2]
        metadata = {name: value for name, value in details.invocation_metadata or () if isinstance(value, str)}
        guarded = self._guarded(handler.unary_unary, method, metadata)
        return grpc.unary_unary_rpc_method_handler(
            guarded, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )

    def _guarded(self, answer: Handler, method: str, metadata: dict[str, str]) -> Handler:
        async def guarded(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            began = time.perf_counter()
            record = Record(request_id_from(metadata.get(HEADER, "")), status=200)
            REQUEST_ID.set(record.request_id)
            try:
                return await self._answered(lambda: answer(request, context), method, metadata, record)
            except asyncio.CancelledError:
                record.status = CLIENT_LEFT
                raise
            except Exception as error:
                problem = problem_of(error)
                record.status = problem.status
            finally:
                self._note(method, record, time.perf_counter() - began)
            context.set_trailing_metadata(_trailing(problem, record))
            return await context.abort(_CODES.get(problem.status, grpc.StatusCode.INTERNAL), problem.message)

        return guarded

    async def _answered(
        self, answer: Callable[[], Awaitable[Any]], method: str, metadata: dict[str, str], record: Record
    ) -> Any:
        if method in _OPEN:
            return await answer()
        record.key = self._application.access.name_of(metadata.get("authorization", ""))
        _caller.set({HEADER: record.request_id, KEY_NAME: record.key})
        with self._application.state.request():
            try:
                async with asyncio.timeout(self._timeout_s) as limit:
                    return await answer()
            except TimeoutError as error:
                raise (Refused(timed_out(self._timeout_s)) if limit.expired() else error) from error

    def _note(self, method: str, record: Record, seconds: float) -> None:
        route = f"grpc:{method}"
        self._application.metrics.count(route, "POST", record.status, seconds)
        fields = {"route": route, "status": record.status, "key": record.key}
        REQUESTS.info("request", extra=with_fields(**fields, duration_ms=round(1000 * seconds, 1)))


def _trailing(problem: Problem, record: Record) -> tuple[tuple[str, str], ...]:
    retry = () if problem.retry_after_s is None else (("retry-after", str(max(1, math.ceil(problem.retry_after_s)))),)
    return ((HEADER, record.request_id), *retry)
