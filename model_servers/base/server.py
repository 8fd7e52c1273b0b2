"""A server as a process: it listens, loads, answers, and on SIGTERM finishes what it is at and ends."""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn

from mistudio.errors import MistudioError
from model_servers.base.application import Application
from model_servers.base.grpc_server import GRPCServer
from model_servers.base.http_protocol import HeadTimedProtocol
from model_servers.base.keys import Keys, read_keys
from model_servers.base.logs import with_fields
from model_servers.base.predictor import Predictor
from model_servers.base.settings import ServerSettings, listening_socket

_log = logging.getLogger("model_servers")
_LAST_SECONDS = 2  # for answers that end when the predictors are closed
_MAX_HEAD_BYTES = 64 << 10


class ModelServer:
    """Predictors behind HTTP and gRPC.

    It listens as soon as it is made, so that a port in use shows at once, and answers health while it loads.

    Args:
        predictors: what is served.
        settings: of the server.
        keys: who may ask; None: those that the settings name.
        on_loaded: is called when everything is loaded, on the event loop.

    Raises:
        ConfigError: it cannot listen there, or would let everybody in.
    """

    def __init__(
        self,
        predictors: Sequence[Predictor],
        settings: ServerSettings,
        keys: Keys | None = None,
        on_loaded: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings, self._on_loaded = settings, on_loaded
        keys = read_keys(settings) if keys is None else keys
        self.application = Application(predictors, settings, keys)
        self._socket = listening_socket(settings.host, settings.port)
        self.port: int = self._socket.getsockname()[1]
        self.grpc = None if settings.grpc_port is None else GRPCServer(self.application, settings)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._web = _Web(self._config(), self.stop)
        self._ending: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, in the main thread, or until :meth:`stop`.

        Raises:
            MistudioError: a predictor cannot be loaded.
        """
        asyncio.run(self.serve())

    async def serve(self) -> None:
        """Serve until :meth:`stop`.

        Raises:
            MistudioError: a predictor cannot be loaded.
        """
        self._loop = asyncio.get_running_loop()
        web = asyncio.create_task(self._web.serve([self._socket]))
        try:
            if self.grpc is not None:
                await self.grpc.start()
            await self._web.has_started()
            _log.info(
                "listening", extra=with_fields(host=self._settings.host, port=self.port, grpc_port=self.grpc_port)
            )
            await self._load(web)
            await web
        finally:
            self._web.should_exit = True
            await asyncio.gather(web, return_exceptions=True)
            if self.grpc is not None:
                await self.grpc.stop()
            await asyncio.to_thread(self.application.close)
            self._socket.close()
            _log.info("ended")

    def stop(self) -> None:
        """Finish what is there, up to the drain timeout, and end; called again, end at once. From any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop)

    @property
    def grpc_port(self) -> int | None:
        """Where gRPC listens, once it does."""
        return None if self.grpc is None else self.grpc.port

    async def _load(self, web: asyncio.Task[None]) -> None:
        """Load, unless the server is told to end before that is done."""
        loading = asyncio.create_task(self.application.load())
        await asyncio.wait({loading, web}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            self._on_loaded()
        else:
            loading.cancel()

    def _stop(self) -> None:
        if self._ending is not None:
            self._web.should_exit = True
            return
        self._ending = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        try:
            await self.application.drain(self._settings.drain_timeout_s)
        except MistudioError:
            _log.exception("a predictor could not finish")
        finally:
            # What is left would be cut: so the predictors end it first, and clients are told.
            await asyncio.to_thread(self.application.close)
            self._web.should_exit = True

    def _config(self) -> uvicorn.Config:
        return uvicorn.Config(
            self.application.asgi,
            http=HeadTimedProtocol,  # by h11, whose heads are bounded in size too
            h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
            ws="websockets-sansio",
            ws_max_size=self._settings.max_body_bytes,
            ws_per_message_deflate=False,  # what is sent is small, or would unpack to far more than it is
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=65,
            timeout_graceful_shutdown=_LAST_SECONDS,
        )


class _Web(uvicorn.Server):
    """Uvicorn, which on a signal does as this server wants, and exits with status 0 then."""

    def __init__(self, config: uvicorn.Config, stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._stop = stop
        self._started = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; the signals are taken by then."""
        await super().startup(sockets)
        self._started.set()

    async def has_started(self) -> None:
        """Wait until it listens."""
        await self._started.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain first."""
        self._stop()
