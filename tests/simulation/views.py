"""The views of the simulation, and small ones for the many histories with crashes."""

from __future__ import annotations

from tests.oracle import SourceParams
from tests.oracle.model import HOUR, MINUTE, SECOND
from tests.shard.history import Case, case

# Late by up to several snapshot intervals: such an event is left out of the snapshots that it came too late for.
VERY_LATE = SourceParams("ts", ooo_us=5 * SECOND, lateness_us=10 * MINUTE, max_future_us=MINUTE)

EVERY = ("count", "sum", "mean", "min", "max", "var", "stddev")


def _of(column: str, window: str) -> list[tuple[str, str | None, str]]:
    return [(function, None if function == "count" else column, window) for function in EVERY]


def all_views(params: SourceParams) -> list[Case]:
    """Every window and aggregate; keys of one and of two columns."""
    card = [
        *_of("amount", "10m"),
        *_of("quantity", "1h"),
        *_of("amount", "tumbling"),
        ("count", None, "ever"),
        ("sum", "doubled", "ever"),
        ("first", "merchant_id", "ever"),
        ("last", "merchant_id", "1h"),
        ("first", "amount", "10m"),
        ("last", "quantity", "ever"),
        ("last", "online", "tumbling"),
        ("sum", "online", "1h"),
    ]
    merchant: list[tuple[str, str | None, str]] = [
        ("count", None, "hopping"),
        ("stddev", "amount", "hopping"),
        ("last", "quantity", "hopping"),
        ("max", "quantity", "shifted"),
    ]
    pair: list[tuple[str, str | None, str]] = [("count", None, "ever"), ("mean", "doubled", "10m")]
    return [
        case(1, ("card_id",), card, params, ttl_us=2 * HOUR),
        case(2, ("merchant_id",), merchant, params, ttl_us=5 * MINUTE),
        case(3, ("card_id", "quantity"), pair, params, filtered=False),
    ]


def small_views(params: SourceParams) -> list[Case]:
    """As few features as meet every kind of dataset and state."""
    card: list[tuple[str, str | None, str]] = [
        ("sum", "quantity", "10m"),
        ("last", "merchant_id", "ever"),
        ("count", None, "tumbling"),
    ]
    merchant: list[tuple[str, str | None, str]] = [("count", None, "hopping"), ("max", "amount", "hopping")]
    return [case(1, ("card_id",), card, params), case(2, ("merchant_id",), merchant, params, filtered=False)]
