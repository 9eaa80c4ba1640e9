"""Rules for names and durations that every definition keeps; errors name the definition and the field."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from difflib import get_close_matches
from typing import Union

from featurestore.durations import format_duration, parse_duration_us
from featurestore.errors import ConfigError, DefinitionError
from featurestore.namespaces import DEFAULT, namespace_of

Duration = Union[str, timedelta]

LONGEST_US = 100 * 366 * 86_400_000_000
"""A hundred years: sums of such spans and of instants stay far inside 64 bits."""

RESERVED_COLUMNS = frozenset(
    {
        "window_start",
        "window_end",
        "revision",
        "created_timestamp",
        "event_timestamp",
        "event_time",
        "arrival_time",
        "_partition",
        "_offset",
        "_partition_watermark",
        "_key",
        "_shard",
        "_tile_start",
        "_late",
        "_newest",
        "_event_us",
        "_created_us",
    }
)
"""Columns that the store adds beside features, join keys and events, or works with on the way."""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FULL_NAME = re.compile(rf"({_IDENTIFIER.pattern}/)?{_IDENTIFIER.pattern}")


def check_identifier(name: object, where: str) -> None:
    """Raise DefinitionError unless `name` is a plain ASCII identifier. where: for the message."""
    if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):
        raise DefinitionError(
            f"{where}: {name!r} is not a valid name",
            hint="use ASCII letters, digits and underscores, and do not begin with a digit",
        )


def check_name(name: object, where: str) -> None:
    """Raise DefinitionError unless `name` is an identifier, or two with a slash between: `namespace/name`."""
    if isinstance(name, str) and _FULL_NAME.fullmatch(name):
        if namespace_of(name) == DEFAULT and "/" in name:
            raise DefinitionError(
                f"{where}: {name!r} names the default namespace", hint=f"leave it out: {name.partition('/')[2]!r}"
            )
        return
    raise DefinitionError(
        f"{where}: {name!r} is not a valid name",
        hint="use ASCII letters, digits and underscores, and do not begin with a digit; "
        "with a namespace: 'namespace/name'",
    )


def check_not_reserved(name: str, where: str) -> None:
    """Raise DefinitionError when `name` is a column that the store adds itself."""
    if name in RESERVED_COLUMNS:
        raise DefinitionError(
            f"{where}: '{name}' is a column of the feature store",
            hint=f"choose another name; reserved are {', '.join(sorted(RESERVED_COLUMNS))}",
        )


def duration_us(value: object, where: str, *, positive: bool = False) -> int:
    """A duration in µs; DefinitionError for what is none. positive: 0 is refused too. where: the field."""
    try:
        us = parse_duration_us(value)  # type: ignore[arg-type]
    except ConfigError as error:
        raise DefinitionError(f"{where}: {error.message}", hint=error.hint) from error
    if positive and us <= 0:
        raise DefinitionError(f"{where} must be longer than 0, not {value!r}", hint="like '10s' or '7d'")
    if us > LONGEST_US:
        raise DefinitionError(f"{where}: {value!r} is longer than a hundred years", hint="write a shorter one")
    return us


def duration_text(value: Duration, us: int) -> str:
    """A duration as its author wrote it; a timedelta in its shortest text."""
    return value if isinstance(value, str) else format_duration(us)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that offers the names most like `name`, or lists what there is."""
    names = list(known)
    close = get_close_matches(name, names, n=3)
    if close:
        return "did you mean " + " or ".join(f"'{match}'" for match in close) + "?"
    return f"there is {', '.join(names)}" if names else "there is none"
