"""Spans and instants: µs since the epoch, UTC, half-open intervals.

Durations are written as polars writes them ("100ms", "10m", "1h", "7d", "1h30m") or given as `timedelta`.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from featurestore.errors import ConfigError

US_PER_UNIT = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
_PART = re.compile(r"(\d+)(us|ms|s|m|h|d|w)")
_WHOLE = re.compile(r"(?:\d+(?:us|ms|s|m|h|d|w))+")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def parse_duration_us(value: str | timedelta) -> int:
    """Length of a duration in µs.

    Raises ConfigError when `value` is no duration or is negative (callers that know the field re-raise with its name).
    """
    if isinstance(value, timedelta):
        us = value // timedelta(microseconds=1)
        if us < 0:
            raise ConfigError(f"duration {value!r} is negative")
        return us
    if not isinstance(value, str) or not _WHOLE.fullmatch(value):
        raise ConfigError(
            f"{value!r} is not a duration", hint="write it like '500ms', '10s', '15m', '1h', '7d', or pass a timedelta"
        )
    return sum(int(number) * US_PER_UNIT[unit] for number, unit in _PART.findall(value))


def format_duration(us: int) -> str:
    """The shortest text that `parse_duration_us` reads back: the largest unit that divides it ("90m", "1h", "7d")."""
    if us == 0:
        return "0s"
    for unit in ("d", "h", "m", "s", "ms"):
        if us % US_PER_UNIT[unit] == 0:
            return f"{us // US_PER_UNIT[unit]}{unit}"
    return f"{us}us"


def parse_instant_us(value: str | datetime) -> int:
    """An ISO 8601 instant with a zone as µs since the epoch, UTC.

    Raises ConfigError when it is not ISO 8601 or has no zone: a naive time would mean another instant elsewhere.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", value.strip()))
        except ValueError as error:
            raise ConfigError(
                f"{value!r} is not an ISO 8601 instant", hint="write it like 2026-11-23T09:00:00Z"
            ) from error
    if value.tzinfo is None:
        raise ConfigError(f"instant {value.isoformat()} has no zone", hint="append Z for UTC, or an offset like +02:00")
    return (value - _EPOCH) // timedelta(microseconds=1)


def format_instant(us: int) -> str:
    """µs since the epoch as ISO 8601 in UTC, whole seconds where exact ("2026-11-23T09:00:00Z")."""
    return (_EPOCH + timedelta(microseconds=us)).isoformat().replace("+00:00", "Z")
