"""The HTTP surface: four routes around a `FeatureService`; every error body is JSON."""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from featurestore.errors import FeatureStoreError, RequestTooLargeError
from featurestore.serving.metrics import ServingMetrics
from featurestore.serving.protocol import OnlineRequest, decode_request, encode_error, encode_response
from featurestore.serving.service import FeatureService

log = structlog.get_logger(__name__)

INLINE_VALUES_MAX = 2_000
"""Reads of more values than this run in a thread, so that they don't hold up small ones."""

_JSON = "application/json"
_SERVER_ERROR = 500


@dataclass(frozen=True)
class Limits:
    """What one request may ask for. max_values: entities times features."""

    max_request_bytes: int = 2**20
    max_values: int = 100_000


def build_app(service: FeatureService, metrics: ServingMetrics, limits: Limits) -> Starlette:
    """The ASGI application. The caller refreshes the service."""

    async def health(request: Request) -> Response:
        return Response(b'{"status":"ok"}', media_type=_JSON)

    async def ready(request: Request) -> Response:
        state = service.readiness()
        body = msgspec.json.encode(
            {
                "status": "ready" if state.ready else "not_ready",
                "reason": state.reason,
                "views": state.views,
                "missing_stores": state.missing_stores,
            }
        )
        return Response(body, 200 if state.ready else 503, media_type=_JSON)

    async def exposition(request: Request) -> Response:
        metrics.freshness(service.latest_us())
        body, content_type = metrics.exposition()
        return Response(body, headers={"content-type": content_type})

    return Starlette(
        routes=[
            Route("/get-online-features", ReadEndpoint(service, metrics, limits), methods=["POST"]),
            Route("/health", health),
            Route("/ready", ready),
            Route("/metrics", exposition),
        ],
        exception_handlers={HTTPException: _http_error},
    )


class ReadEndpoint:
    """POST /get-online-features as bare ASGI: a fifth of the time of a small read would go into request objects."""

    def __init__(self, service: FeatureService, metrics: ServingMetrics, limits: Limits) -> None:
        self._service = service
        self._metrics = metrics
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; the body is JSON whatever happens."""
        started = time.perf_counter()
        try:
            asked = decode_request(await self._body(receive))
            values = _value_count(asked)
            if values > self._limits.max_values:
                raise RequestTooLargeError(
                    f"the request asks for {values:,} values (entities times features); "
                    f"the limit is {self._limits.max_values:,}",
                    hint="ask for fewer entities at a time, or raise [serving] max_values",
                )
            if values > INLINE_VALUES_MAX:
                body = await run_in_threadpool(_answer, self._service, asked)
            else:
                body = _answer(self._service, asked)
            status = 200
        except ClientDisconnect:
            return
        except FeatureStoreError as error:
            status, body = encode_error(error)
            if status >= _SERVER_ERROR:
                log.warning("read_failed", status=status, error=str(error))
        except Exception as error:
            # A caller must get JSON whatever happens; the trace stays here.
            log.exception("read_failed", status=500)
            status, body = encode_error(FeatureStoreError(f"internal error: {type(error).__name__}"))
        self._metrics.request(time.perf_counter() - started)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _body(self, receive: Receive) -> bytes:
        """The whole body. Raises RequestTooLargeError as soon as it is longer than allowed."""
        message = await receive()
        body: bytes = message.get("body", b"")
        while True:
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            if len(body) > self._limits.max_request_bytes:
                raise RequestTooLargeError(
                    f"the request body is longer than {self._limits.max_request_bytes:,} bytes",
                    hint="ask for fewer entities at a time, or raise [serving] max_request_bytes",
                )
            if not message.get("more_body", False):
                return body
            message = await receive()
            body += message.get("body", b"")


def _answer(service: FeatureService, request: OnlineRequest) -> bytes:
    return encode_response(service.answer(request))


def _value_count(request: OnlineRequest) -> int:
    rows = max((len(values) for values in request.entities.values()), default=0)
    return rows * len(request.features or ())


async def _http_error(request: Request, error: Exception) -> Response:
    """No such path, wrong method."""
    assert isinstance(error, HTTPException)
    _, body = encode_error(FeatureStoreError(f"{request.method} {request.url.path}: {error.detail}"))
    return Response(body, error.status_code, headers=error.headers, media_type=_JSON)
