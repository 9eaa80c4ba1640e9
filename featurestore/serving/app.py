"""The HTTP surface: four routes around a `FeatureService`; every error body is JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from featurestore.errors import FeatureStoreError, RequestError
from featurestore.serving.limits import Limits
from featurestore.serving.metrics import ServingMetrics
from featurestore.serving.protocol import (
    BodyTooLargeError,
    OnlineRequest,
    decode_request,
    encode_error,
    encode_response,
)
from featurestore.serving.service import FeatureService

log = structlog.get_logger(__name__)

READ_PATH = "/get-online-features"
CONSUMER_HEADER = b"x-consumer"
"""Who reads, for the count of reads."""
INLINE_VALUES_MAX = 2_000
"""Reads of more values than this run in a thread, so that they don't hold up small ones."""
DISCARDED_BYTES_MAX = 16 * 2**20
"""How much of a body that is too large is read and dropped, so that the client gets the answer and no reset."""

_JSON = "application/json"


def build_app(
    service: FeatureService,
    metrics: ServingMetrics,
    limits: Limits | None = None,
    *,
    draining: Callable[[], bool] = lambda: False,
) -> ASGIApp:
    """The ASGI application. The caller refreshes the service.

    draining: whether the server is about to end; then /ready says so, while reads are still answered.
    """
    reads = _Reads(service, metrics, limits or Limits(), draining)

    async def health(request: Request) -> Response:
        return Response(b'{"status":"ok"}', media_type=_JSON)

    async def ready(request: Request) -> Response:
        state = service.readiness()
        is_ready = state.ready and not draining()
        body = msgspec.json.encode(
            {
                "status": "ready" if is_ready else "not_ready",
                "reason": "the server is ending" if draining() else state.reason,
                "views": state.views,
                "missing_stores": state.missing_stores,
            }
        )
        return Response(body, 200 if is_ready else 503, media_type=_JSON)

    async def exposition(request: Request) -> Response:
        metrics.freshness(service.latest_us())
        body, content_type = metrics.exposition()
        return Response(body, headers={"content-type": content_type})

    routes = Starlette(
        routes=[
            Route(READ_PATH, reads, methods=["POST"]),
            Route("/health", health),
            Route("/ready", ready),
            Route("/metrics", exposition),
        ],
        exception_handlers={HTTPException: _http_error},
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # Routing, middleware and Request objects would be a fifth of a small read's time.
        if scope["type"] == "http" and scope["path"] == READ_PATH and scope["method"] == "POST":
            await reads(scope, receive, send)
        else:
            await routes(scope, receive, send)

    return app


class _Reads:
    """Answers POST /get-online-features; ASGI without a framework."""

    def __init__(
        self, service: FeatureService, metrics: ServingMetrics, limits: Limits, draining: Callable[[], bool]
    ) -> None:
        self._service = service
        self._metrics = metrics
        self._limits = limits
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        try:
            headers = dict(scope["headers"])
            body = await self._body(headers, receive)
            if body is None:
                return  # the client has gone
            asked = decode_request(body)
            consumer = headers.get(CONSUMER_HEADER, b"")
            features = self._service.feature_count(asked)
            self._limits.check(asked, features)
            if _row_count(asked) * features > INLINE_VALUES_MAX:
                answer = await run_in_threadpool(self._answer, asked, consumer)
            else:
                answer = self._answer(asked, consumer)
            status = 200
        except FeatureStoreError as error:
            status, answer = encode_error(error)
            if status >= 500:
                log.warning("read_failed", status=status, error=str(error))
        except Exception as error:
            # A caller must get JSON whatever happens; the trace stays here.
            log.exception("read_failed", status=500)
            status, answer = encode_error(FeatureStoreError(f"internal error: {type(error).__name__}"))
        self._metrics.request(time.perf_counter() - started)
        answered = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        if status == 413 or self._draining():
            # What is left of the body is not read; or the client had better go to another server.
            answered.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": answered})
        await send({"type": "http.response.body", "body": answer})

    def _answer(self, request: OnlineRequest, consumer: bytes) -> bytes:
        return encode_response(self._service.answer(request, consumer))

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
        """The request's body, None when the client went away. Raises BodyTooLargeError."""
        most = self._limits.max_body_bytes
        announced = int(headers.get(b"content-length", b"0"))
        if announced > most and (b"expect" in headers or announced > DISCARDED_BYTES_MAX):
            raise _too_large(most)
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            size += len(part)
            if size <= most:
                parts.append(part)
            elif size > DISCARDED_BYTES_MAX:
                raise _too_large(most)
            if not message.get("more_body", False):
                break
        if size > most:
            raise _too_large(most)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(most: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"the request's body is larger than the {most:,} bytes that the server takes (max_body_bytes)",
        hint="split the request, or raise [serving] max_body_bytes",
    )


def _row_count(request: OnlineRequest) -> int:
    return max((len(values) for values in request.entities.values()), default=0)


async def _http_error(request: Request, error: Exception) -> Response:
    """No such path, wrong method."""
    assert isinstance(error, HTTPException)
    _, body = encode_error(RequestError(f"{request.method} {request.url.path}: {error.detail}"))
    return Response(body, error.status_code, headers=error.headers, media_type=_JSON)
