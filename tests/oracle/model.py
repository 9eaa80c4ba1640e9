"""The oracle's words: messages, sources, views. Plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]

MS = 1_000
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

TILES = (
    100 * MS,
    500 * MS,
    SECOND,
    5 * SECOND,
    10 * SECOND,
    30 * SECOND,
    MINUTE,
    5 * MINUTE,
    15 * MINUTE,
    30 * MINUTE,
    HOUR,
    2 * HOUR,
    6 * HOUR,
    12 * HOUR,
    DAY,
)


@dataclass(frozen=True)
class Message:
    """One message of the log. event: decoded columns, times as µs; None: undecodable or not valid.

    reason: why there is no event, of the dead letter; None stands for "malformed".
    """

    partition: int
    offset: int
    event: Event | None
    arrival_us: int
    reason: str | None = None


@dataclass(frozen=True)
class SourceParams:
    """What decides a message's verdict. dedupe_by: field of the event's id; dedupe_us: how long one is remembered."""

    event_time_field: str
    ooo_us: int
    lateness_us: int
    max_future_us: int = MINUTE
    dedupe_by: str | None = None
    dedupe_us: int = 0


@dataclass(frozen=True)
class Verdict:
    """kind: "accepted" | "late" | "dead" | "duplicate".

    watermark_before: the partition's, just before this message; None if it had none.
    lateness_us: how far behind that watermark, 0 when not behind it. reason: of a dead letter.
    """

    kind: str
    watermark_before: int | None
    lateness_us: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class Window:
    """kind: "sliding" | "tumbling" | "hopping" | "lifetime". tile_us 0: by the size; every_us 0: the size."""

    kind: str
    size_us: int = 0
    every_us: int = 0
    offset_us: int = 0
    tile_us: int = 0

    @property
    def hop_us(self) -> int:
        """From one window's start to the next."""
        return self.every_us or self.size_us


def sliding(size_us: int, tile_us: int = 0) -> Window:
    return Window("sliding", size_us, tile_us=tile_us or default_tile_us(size_us))


def tumbling(size_us: int, offset_us: int = 0) -> Window:
    return Window("tumbling", size_us, offset_us=offset_us)


def hopping(size_us: int, every_us: int, offset_us: int = 0) -> Window:
    return Window("hopping", size_us, every_us, offset_us)


def lifetime() -> Window:
    return Window("lifetime")


def default_tile_us(size_us: int) -> int:
    """The largest round size that is at most a sixtieth of the window, at least 100 ms."""
    chosen = TILES[0]
    for tile in TILES:
        if 60 * tile <= size_us:
            chosen = tile
    return chosen


@dataclass(frozen=True)
class Feature:
    """An aggregate of a column (None: of rows) over a window.

    floats: the column is Float64, so that integers in it and the sum of nothing are floats.
    """

    name: str
    function: str
    column: str | None
    window: Window
    default: Any = None
    floats: bool = False


@dataclass(frozen=True)
class View:
    """where: None keeps all; else true keeps, false and None do not. derive: each from the event as it came.

    ttl_us 0: an entity is known for ever.
    """

    join_keys: tuple[str, ...]
    features: tuple[Feature, ...]
    where: Callable[[Event], bool | None] | None = None
    derive: dict[str, Callable[[Event], Any]] = field(default_factory=dict)
    ttl_us: int = 0
    snapshot_every_us: int = MINUTE
