"""The HTTP surface: four routes around a `FeatureService`; every error body is JSON."""

from __future__ import annotations

import time

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from featurestore.errors import FeatureStoreError
from featurestore.serving.metrics import ServingMetrics
from featurestore.serving.protocol import OnlineRequest, decode_request, encode_error, encode_response
from featurestore.serving.service import FeatureService

log = structlog.get_logger(__name__)

INLINE_VALUES_MAX = 2_000
"""Reads of more values than this run in a thread, so that they don't hold up small ones."""

_JSON = "application/json"


def build_app(service: FeatureService, metrics: ServingMetrics) -> Starlette:
    """The ASGI application. The caller refreshes the service."""

    async def get_online_features(request: Request) -> Response:
        started = time.perf_counter()
        try:
            asked = decode_request(await request.body())
            if _value_count(asked) > INLINE_VALUES_MAX:
                body = await run_in_threadpool(_answer, service, asked)
            else:
                body = _answer(service, asked)
            status = 200
        except FeatureStoreError as error:
            status, body = encode_error(error)
            if status >= 500:
                log.warning("read_failed", status=status, error=str(error))
        except Exception as error:
            # A caller must get JSON whatever happens; the trace stays here.
            log.exception("read_failed", status=500)
            status, body = encode_error(FeatureStoreError(f"internal error: {type(error).__name__}"))
        metrics.request(time.perf_counter() - started)
        return Response(body, status, media_type=_JSON)

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
            Route("/get-online-features", get_online_features, methods=["POST"]),
            Route("/health", health),
            Route("/ready", ready),
            Route("/metrics", exposition),
        ],
        exception_handlers={HTTPException: _http_error},
    )


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
