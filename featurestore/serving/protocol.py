"""The wire: Feast's request and response for POST /get-online-features, and errors as its SDK reads them.

Three fields are ours: `as_of` (ISO 8601 or "latest") and `include_feature_types` in a request,
`feature_types` in the metadata of its response.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import isfinite
from typing import Any

import msgspec

from featurestore.definitions.specs import Scalar
from featurestore.durations import format_instant, parse_instant_us
from featurestore.errors import (
    ConfigError,
    FeatureStoreError,
    MalformedRequestError,
    PinnedVersionError,
    RequestError,
    RequestTooLargeError,
    ServerUnavailableError,
    StoreError,
    UnknownFeatureError,
    UnknownFeatureServiceError,
    UnknownViewError,
)

LATEST = "latest"
NO_TIMESTAMP = "1970-01-01T00:00:00Z"
_US_PER_S = 1_000_000


class OnlineRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A read of `features` ("view:feature" each) or of a `feature_service`.

    entities: column name to one value an entity, of one length.
    """

    entities: dict[str, list[Any]]
    features: list[str] | None = None
    feature_service: str | None = None
    full_feature_names: bool = False
    include_feature_view_version_metadata: bool = False
    include_feature_types: bool = False
    as_of: str | None = None


class ViewVersion(msgspec.Struct, frozen=True):
    """Which version of a view answered."""

    name: str
    version: int


class ResponseMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """Names of the result columns, in their order; the rest only where the request asked for it."""

    feature_names: list[str]
    feature_view_metadata: list[ViewVersion] | None = None
    feature_types: list[str] | None = None


class ResultColumn(msgspec.Struct, frozen=True):
    """One column; the three lists have one entry an entity."""

    values: list[Scalar]
    statuses: list[str]
    event_timestamps: list[str]


class OnlineResponse(msgspec.Struct, frozen=True):
    """The answer, column-wise: join keys first, then the features in the requested order."""

    metadata: ResponseMetadata
    results: list[ResultColumn]


class BodyTooLargeError(RequestTooLargeError):
    """The request's body has more bytes than the server takes."""


class FeatureNameCollisionError(MalformedRequestError):
    """Two columns of the answer would have one name."""


# Our error, HTTP status, the class that Feast's SDK raises, the name that our client knows; the first that
# fits. The SDK retries 5xx and then loses the message, so whatever the caller can mend is a 4xx.
_ERRORS: tuple[tuple[type[FeatureStoreError], int, str, str], ...] = (
    (UnknownViewError, 404, "FeatureViewNotFoundException", "UnknownViewError"),
    (UnknownFeatureServiceError, 404, "FeatureServiceNotFoundException", "UnknownFeatureServiceError"),
    (PinnedVersionError, 409, "FeastError", "PinnedVersionError"),
    (UnknownFeatureError, 404, "SpecifiedFeaturesNotPresentError", "UnknownFeatureError"),
    (FeatureNameCollisionError, 422, "FeatureNameCollisionError", "MalformedRequestError"),
    (BodyTooLargeError, 413, "FeastError", "RequestTooLargeError"),
    (RequestTooLargeError, 422, "FeastError", "RequestTooLargeError"),
    (RequestError, 422, "FeastError", "MalformedRequestError"),
    (ServerUnavailableError, 503, "FeastError", "ServerUnavailableError"),
    (StoreError, 503, "FeastError", "ServerUnavailableError"),
    (FeatureStoreError, 500, "FeastError", "FeatureStoreError"),
)

_decoder = msgspec.json.Decoder(OnlineRequest)
_encode = msgspec.json.Encoder().encode


def decode_request(body: bytes) -> OnlineRequest:
    """Read a request's body. Raises MalformedRequestError, naming the field."""
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise MalformedRequestError(
            f"request: {error}",
            hint='send {"features": ["view:feature"], "entities": {"join_key": [value, ...]}}',
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedRequestError(f"the request body is not JSON: {error}") from error


def encode_response(response: OnlineResponse) -> bytes:
    """The response as JSON."""
    return _encode(response)


def encode_error(error: FeatureStoreError) -> tuple[int, bytes]:
    """HTTP status and body of an error: a JSON string that holds a JSON object, as Feast's SDK expects it."""
    status, feast_class, name = next(row[1:] for row in _ERRORS if isinstance(error, row[0]))
    detail = {
        "module": "feast.errors",
        "class": feast_class,
        "message": str(error),
        "error": name,
        "hint": error.hint,
    }
    return status, _encode(_encode(detail).decode())


def parse_as_of(as_of: str | None) -> int | str | None:
    """An instant in µs, "latest", or None for the server's clock. Raises MalformedRequestError."""
    if as_of is None or as_of == LATEST:
        return as_of
    try:
        return parse_instant_us(as_of)
    except (ConfigError, OverflowError) as error:
        raise MalformedRequestError(
            f"as_of: {as_of!r} is no instant with a zone",
            hint='write ISO 8601 with a zone, like 2026-11-23T09:00:00Z, or "latest"',
        ) from error


def wire_floats(values: list[Scalar]) -> list[Scalar]:
    """Values of a Float64 feature, floats or None, as JSON can carry them: NaN and Infinity as text."""
    try:
        # One that is not finite makes the sum so; a sum that only overflows takes the longer way for nothing.
        if isfinite(sum(values)):  # type: ignore[arg-type]
            return values
    except TypeError:  # a null among them
        pass
    return [value if value is None or isfinite(value) else _float_text(value) for value in values]  # type: ignore[arg-type]


def _float_text(value: float) -> str:
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def wire_timestamps(times_us: Sequence[int]) -> list[str]:
    """Event times in whole seconds, UTC; 0 (no row) as the epoch."""
    return [_timestamp(time // _US_PER_S) if time else NO_TIMESTAMP for time in times_us]


@lru_cache(maxsize=100_000)
def _timestamp(second: int) -> str:
    return format_instant(second * _US_PER_S)
