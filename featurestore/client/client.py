"""The client: one method, its errors in our words, a few retries."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any

import httpx
import msgspec

from featurestore.client.response import OnlineResponse, WireResponse
from featurestore.errors import (
    FeatureStoreError,
    MalformedRequestError,
    PinnedVersionError,
    RequestTooLargeError,
    ServerUnavailableError,
    UnknownFeatureError,
    UnknownFeatureServiceError,
    UnknownViewError,
)

_RETRIED_STATUSES = frozenset({429, 503})
_RAISED: dict[str, type[FeatureStoreError]] = {
    kind.__name__: kind
    for kind in (
        UnknownViewError,
        UnknownFeatureError,
        UnknownFeatureServiceError,
        PinnedVersionError,
        MalformedRequestError,
        RequestTooLargeError,
        ServerUnavailableError,
    )
}
_decoder = msgspec.json.Decoder(WireResponse)


class _ErrorDetail(msgspec.Struct):
    message: str
    error: str = ""
    hint: str | None = None


class FeatureStoreClient:
    """Reads features from a feature server. Safe for several threads; connections are kept and shared.

    url: of the server, like "http://127.0.0.1:6566". timeout: seconds, for each attempt. retries: further
    attempts after a refused connection, a 429 or a 503, after backoff_s, 2 × backoff_s, …; a read changes
    nothing, so asking again is safe. A timeout is not tried again: the caller's time is up.
    consumer: the name of the service or model that reads, for the server's count of who reads what.
    transport: an httpx transport, for tests.

        with FeatureStoreClient("http://127.0.0.1:6566") as client:
            client.get_online_features(
                features=["card_activity:count_10m"], entities={"card_id": ["c1", "c2"]}
            ).to_dict()
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 5.0,
        retries: int = 2,
        backoff_s: float = 0.1,
        consumer: str | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if consumer is not None and not (consumer.isascii() and consumer.isprintable()):
            raise MalformedRequestError(f"consumer {consumer!r} is no name", hint="use printable ASCII: it is a header")
        self._url = url.rstrip("/")
        self._headers = {"content-type": "application/json", **({"x-consumer": consumer} if consumer else {})}
        self._retries = retries
        self._backoff_s = backoff_s
        self._sleep = sleep
        # keepalive_expiry: below the server's 5 s, or a connection is used while the server is closing it.
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=4.0)
        self._http = httpx.Client(timeout=timeout, limits=limits, transport=transport)

    def get_online_features(
        self,
        features: Sequence[str] | None = None,
        entities: Mapping[str, Sequence[Any]] | None = None,
        *,
        feature_service: str | None = None,
        as_of: str | datetime | None = None,
        full_feature_names: bool = False,
    ) -> OnlineResponse:
        """Values of `features` ("view:feature" each), or of a feature service's, for the entities.

        entities: join key to one value an entity, all of one length: str, int or bool as the key is typed (1, "1" and
        True are different keys), None for a null key. as_of: an instant with a zone, or
        "latest" (as of the newest event that the view's source has brought); None: the server's clock.
        full_feature_names: columns are named view__feature.

        Raises UnknownViewError, UnknownFeatureError, UnknownFeatureServiceError, PinnedVersionError (the service was
        applied with a version of a view that is no longer deployed), MalformedRequestError or RequestTooLargeError
        with the server's message and hint, MalformedRequestError also for a value that is no key;
        ServerUnavailableError when the server can't be reached, does not answer in time, or has nothing to read yet.
        """
        if isinstance(as_of, datetime):
            if as_of.tzinfo is None:
                raise MalformedRequestError(
                    f"as_of {as_of.isoformat()} has no zone",
                    hint="pass a datetime with tzinfo, like timezone.utc",
                )
            as_of = as_of.isoformat()
        request: dict[str, Any] = {
            "entities": {name: _keys(name, values) for name, values in (entities or {}).items()},
            "full_feature_names": full_feature_names,
            "include_feature_types": True,
        }
        if features is not None:
            request["features"] = list(features)
        if feature_service is not None:
            request["feature_service"] = feature_service
        if as_of is not None:
            request["as_of"] = as_of
        try:
            body = msgspec.json.encode(request)
        except (TypeError, OverflowError, UnicodeEncodeError) as error:
            raise MalformedRequestError(f"the request can't be written as JSON: {error}") from error
        response = self._post("/get-online-features", body)
        if response.status_code != 200:
            raise _error_of(response, self._url)
        try:
            return OnlineResponse(_decoder.decode(response.content))
        except (msgspec.DecodeError, ValueError) as error:
            raise ServerUnavailableError(
                f"{self._url} does not answer as a feature server does: {error}",
                hint="check the URL: it is the address of `featurestore serve`",
            ) from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> FeatureStoreClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _post(self, path: str, body: bytes) -> httpx.Response:
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            try:
                response = self._http.post(self._url + path, content=body, headers=self._headers)
                if last or response.status_code not in _RETRIED_STATUSES:
                    return response
            except httpx.TimeoutException as error:
                raise ServerUnavailableError(
                    f"{self._url} does not answer in time",
                    hint="raise `timeout`, ask for fewer entities, or look at the server's load",
                ) from error
            except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
                raise MalformedRequestError(
                    f"{self._url!r} is no URL of a server: {error}", hint="write it like http://127.0.0.1:6566"
                ) from error
            except httpx.TransportError as error:
                # Refused, or a kept connection that the server had closed meanwhile.
                if last:
                    raise ServerUnavailableError(
                        f"can't reach a feature server at {self._url}: {error}",
                        hint="start one: featurestore serve",
                    ) from error
            except httpx.HTTPError as error:
                raise ServerUnavailableError(f"{self._url}: {error}") from error
            self._sleep(self._backoff_s * 2**attempt)
        raise AssertionError("the last attempt returns or raises")


def _keys(name: str, values: Sequence[Any]) -> list[Any]:
    """The values, if JSON carries them as what they are: it would turn bytes and times into text, NaN into null."""
    for row, value in enumerate(values):
        if not (value is None or isinstance(value, str | int)):
            kind = type(value)
            shown = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
            raise MalformedRequestError(
                f"entity column '{name}': row {row} holds a {shown}, which is no key",
                hint="pass str, int, bool or None; a numpy array or a column as .tolist()",
            )
    return list(values)


def _error_of(response: httpx.Response, url: str) -> FeatureStoreError:
    """The server's error: a JSON string that holds a JSON object (as Feast's SDK wants it)."""
    try:
        detail = msgspec.json.decode(msgspec.json.decode(response.content, type=str), type=_ErrorDetail)
    except msgspec.DecodeError:
        text = response.text[:200]
        return ServerUnavailableError(f"{url} answered {response.status_code}: {text}")
    kind = _RAISED.get(detail.error)
    if kind is None:
        kind = ServerUnavailableError if response.status_code >= 500 else MalformedRequestError
    message = detail.message
    if detail.hint is not None:
        message = message.removesuffix(f"\nHint: {detail.hint}")
    return kind(message, hint=detail.hint)
