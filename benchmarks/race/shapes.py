"""The shapes of the race: for each its stream, its definition and how much of it is run. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

MINUTE_MS = 60_000
GRACE_MS = 65_000
"""The furthest that an event is behind: out of order and late together."""


@dataclass(frozen=True)
class Window:
    """One window of a definition. kind: "tumbling" | "hopping" | "sliding". every, tile: durations, or ""."""

    kind: str
    size: str
    every: str = ""
    tile: str = ""


@dataclass(frozen=True)
class Shape:
    """One job. stream: a name in `benchmarks.events.STREAMS`; functions: of the amount, besides the count.

    events: how many of them when none are asked for. peers: whether other engines can do it, too.
    """

    name: str
    about: str
    stream: str
    windows: tuple[Window, ...]
    functions: tuple[str, ...] = ("sum", "min", "max", "mean")
    events: int = 2_000_000
    peers: bool = False

    def topic(self, events: int) -> str:
        """The topic that holds so many of the shape's events; shapes of one stream share it."""
        return "payments" if self.stream == "payments" else f"{self.stream}_{events}"


STANDARD = (
    Window("tumbling", "1m"),
    Window("sliding", "10m", tile="10s"),
    Window("sliding", "1h", tile="1m"),
)
DAYS = (*STANDARD[1:], Window("sliding", "24h", tile="15m"), Window("sliding", "7d", tile="2h"))

SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tumbling", "1-minute tumbling windows", "payments_by_card", STANDARD[:1], peers=True),
        Shape(
            "hopping",
            "10-minute windows every minute",
            "payments_by_card",
            (Window("hopping", "10m", "1m"),),
            peers=True,
        ),
        Shape("wide_rows", "8 kB rows: sliding 10m, 1h, 24h, 7d", "days", DAYS, ("sum", "min", "max"), 1_000_000),
        Shape("many_keys", "the standard job's definition, 5 million keys", "many_keys", STANDARD, events=5_000_000),
        Shape("hot_key", "the same, one key has half of all events", "hot_key", STANDARD),
        Shape("standard", "the standard job", "payments", STANDARD),
    )
}
"""By name, in the order of the race."""
