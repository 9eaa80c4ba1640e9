"""The messages of the benchmarks: card payments, the same for the same seed, made by the array.

Time advances evenly, by 1 ms a message unless the stream says otherwise; a message is up to 5 s behind that, and one in
200 up to 60 s more, so that all are accepted and some are late.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np
import polars as pl

START_MS = 1_700_000_000_000
MERCHANTS = 1_000
OUT_OF_ORDER_MS = 5_000
LATE_MS = 60_000
LATE_SHARE = 0.005


@dataclass(frozen=True)
class Stream:
    """How a stream differs from the standard job's.

    card_skew: of zipf's law; None: the cards come in turn, in random order, so that the first `cards` events hold them
    all. events_per_card: so many cards that each has about so many events; 0: `cards` of them. hot_share: share of all
    events that one further card takes. ages: (share, ms), shares of the events that lie evenly in the last so many ms
    of the stream; none: 1 ms a message. keyed: a message's key is its card, and decides its partition; otherwise
    message i goes to partition i % partitions.
    """

    cards: int = 100_000
    card_skew: float | None = 1.2
    events_per_card: int = 0
    hot_share: float = 0.0
    ages: tuple[tuple[float, int], ...] = ()
    keyed: bool = False


MINUTE_MS = 60_000
# Of an entity's events so many lie in each window that its row has tiles of every size, some 150 of 56 bytes.
AGES = ((0.45, 8 * 1_440 * MINUTE_MS), (0.3, 1_440 * MINUTE_MS), (0.15, 60 * MINUTE_MS), (0.1, 10 * MINUTE_MS))

STREAMS = {
    "payments": Stream(),
    "payments_by_card": Stream(keyed=True),
    "days": Stream(card_skew=0.0, events_per_card=220, ages=AGES, keyed=True),
    "many_keys": Stream(cards=5_000_000, card_skew=None, keyed=True),
    "hot_key": Stream(hot_share=0.5, keyed=True),
}
"""By name; "payments" is the standard job's."""


def card_numbers(stream: Stream, events: int, rng: np.random.Generator) -> np.ndarray:
    """The card of each event, int64."""
    cards = max(1, events // stream.events_per_card) if stream.events_per_card else stream.cards
    if stream.card_skew is None:
        return rng.permutation(cards)[np.arange(events) % cards]
    weights = np.arange(1, cards + 1, dtype=np.float64) ** -stream.card_skew
    cumulative = np.cumsum(weights / weights.sum())
    rank = np.minimum(np.searchsorted(cumulative, rng.random(events), side="right"), cards - 1)
    # Ranks are shuffled, so that a card's number does not tell how busy it is.
    card = rng.permutation(cards)[rank]
    if stream.hot_share:
        card[rng.random(events) < stream.hot_share] = cards
    return card


def make_events(events: int, seed: int, stream: Stream = STREAMS["payments"]) -> pl.DataFrame:
    """card_id, merchant_id (String), amount (Float64, whole cents), ts (Int64, ms), as they are sent."""
    rng = np.random.default_rng(seed)
    card = card_numbers(stream, events, rng)
    merchant = rng.integers(0, MERCHANTS, events)
    cents = np.clip(rng.lognormal(8.0, 1.2, events), 1, 10_000_000).astype(np.int64)
    behind = rng.integers(0, OUT_OF_ORDER_MS + 1, events)
    late = rng.random(events) < LATE_SHARE
    behind[late] = OUT_OF_ORDER_MS + rng.integers(0, LATE_MS + 1, int(late.sum()))
    passed = np.arange(events, dtype=np.int64)
    if stream.ages:
        shares, ages_ms = zip(*stream.ages)
        age = rng.random(events) * rng.choice(ages_ms, size=events, p=shares)
        passed = np.sort(max(ages_ms) - age.astype(np.int64))
    ts = START_MS + passed - behind
    return pl.DataFrame({"card": card, "merchant": merchant, "amount": cents / 100, "ts": ts}).select(
        pl.format("c{}", pl.col("card").cast(pl.String).str.zfill(7)).alias("card_id"),
        pl.format("m{}", pl.col("merchant").cast(pl.String).str.zfill(3)).alias("merchant_id"),
        "amount",
        "ts",
    )


def partitions_of(events: pl.DataFrame, partitions: int, stream: Stream) -> pl.Series:
    """The partition of each event, Int64: by a CRC-32 of the card as librdkafka does it, or in turn."""
    if not stream.keyed:
        return pl.int_range(events.height, eager=True).alias("partition") % partitions
    return pl.Series("partition", [crc32(card.encode()) % partitions for card in events["card_id"].to_list()])


def message_values(events: pl.DataFrame) -> list[str]:
    """The events as JSON objects."""
    return events.select(
        pl.concat_str(
            pl.lit('{"card_id":"'),
            "card_id",
            pl.lit('","merchant_id":"'),
            "merchant_id",
            pl.lit('","amount":'),
            pl.col("amount").cast(pl.String),
            pl.lit(',"ts":'),
            pl.col("ts").cast(pl.String),
            pl.lit("}"),
        ).alias("value")
    )["value"].to_list()
