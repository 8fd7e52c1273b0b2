"""The play of KServe's agent: a real proxy before a model server, which logs what passes as the agent does.

A request is logged before it is passed on, its response when all of it has passed, if its status is 200: each with the
request's content type and one id, sent once, with nobody waiting for it. A reply that is streamed reaches the client as
it comes, and the sink as a whole. Where the server breaks off, no response is logged. Where the client leaves, the
agent logs none either; but OpenAI's clients leave at the last word, a moment before the end, and what Go makes of that
is a matter of luck. This one reads to the end.
(kserve/kserve pkg/logger/handler.go and worker.go, Go's httputil.ReverseProxy.)

``python -m tests.support.payload_logger --model-url URL --log-url URL`` runs one by itself.
"""

import argparse
import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tests.support.uvicorn_thread import running, until_told_to_end

_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host", "content-length"}
_METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH"]


class PayloadLogger:
    """The proxy, as an application.

    Args:
        model_url: of the server behind it.
        log_url: of the sink.
        service: name of the InferenceService.
        endpoint: default or canary.
        metadata_headers: names of headers that are logged, spelled as Go spells them.
    """

    def __init__(
        self,
        model_url: str,
        log_url: str,
        service: str = "tinyllama",
        endpoint: str = "default",
        metadata_headers: Sequence[str] = (),
    ) -> None:
        self._model_url, self._log_url = model_url.rstrip("/"), log_url
        self._attributes = {"inferenceservicename": service, "namespace": "default", "component": "predictor"}
        self._attributes |= {"endpoint": endpoint, "source": "http://localhost:9081/", "specversion": "1.0"}
        self._metadata_headers = metadata_headers
        self._sending: set[asyncio.Task[None]] = set()
        self.app = Starlette(
            routes=[Route("/{path:path}", self._pass_on, methods=_METHODS)], lifespan=self._while_it_runs
        )

    @asynccontextmanager
    async def _while_it_runs(self, _app: Starlette) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=120) as client:
            self._client = client
            yield
            await asyncio.gather(*self._sending)

    async def _pass_on(self, request: Request) -> Response:
        body = await request.body()
        id_ = request.headers.get("ce-id") or str(uuid.uuid4())
        metadata = {
            name: request.headers.getlist(name) for name in self._metadata_headers if name.lower() in request.headers
        }
        log = self._logger(id_, request.headers.get("content-type", ""), metadata)
        log("request", body)
        headers = [(name, value) for name, value in request.headers.items() if name not in _BY_HOP]
        url = f"{self._model_url}{request.url.path}" + (f"?{request.url.query}" if request.url.query else "")
        asked = self._client.build_request(request.method, url, headers=headers, content=body)
        answered = await self._client.send(asked, stream=True)

        chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._keep(self._collect(answered, chunks, log))

        async def passed() -> AsyncIterator[bytes]:
            while (chunk := await chunks.get()) is not None:
                yield chunk

        kept_headers = {name: value for name, value in answered.headers.items() if name not in _BY_HOP}
        return StreamingResponse(passed(), answered.status_code, kept_headers)

    async def _collect(self, answered: httpx.Response, chunks: asyncio.Queue[bytes | None], log: Any) -> None:
        """Read a reply to its end, and log it."""
        kept = bytearray()
        try:
            async for chunk in answered.aiter_raw():
                kept += chunk
                chunks.put_nowait(chunk)
            if answered.status_code == 200:
                log("response", bytes(kept))
        except httpx.HTTPError:
            return
        finally:
            chunks.put_nowait(None)
            await answered.aclose()

    def _logger(self, id_: str, content_type: str, metadata: dict[str, list[str]]) -> Any:
        def log(kind: str, body: bytes) -> None:
            attributes = self._attributes | {
                "id": id_,
                "type": f"org.kubeflow.serving.inference.{kind}",
                "metadata": json.dumps(metadata),
            }
            headers = {f"Ce-{name.title()}": value for name, value in attributes.items()}
            if content_type:
                headers["Content-Type"] = content_type
            self._keep(self._send(headers, body))

        return log

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside, however long it takes: what waits is bounded by nothing, as in the agent."""
        task = asyncio.create_task(work)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, headers: dict[str, str], body: bytes) -> None:
        try:
            await self._client.post(self._log_url, headers=headers, content=body)
        except httpx.HTTPError:
            return  # it says so in its log, and that is all


@contextmanager
def payload_logger(model_url: str, log_url: str, port: int = 0, **settings: Any) -> Iterator[str]:
    """A proxy in a thread; its URL."""
    with running(PayloadLogger(model_url, log_url, **settings).app, port) as url:
        yield url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-url", required=True, help="of the model server")
    parser.add_argument("--log-url", required=True, help="of the sink")
    parser.add_argument("--service", default="tinyllama", help="name of the InferenceService")
    parser.add_argument("--port", type=int, default=8002, help="to listen at")
    options = parser.parse_args()
    with payload_logger(options.model_url, options.log_url, options.port, service=options.service) as url:
        print(f"{url} passes requests on to {options.model_url} and logs them to {options.log_url}", flush=True)
        until_told_to_end()


if __name__ == "__main__":
    main()
