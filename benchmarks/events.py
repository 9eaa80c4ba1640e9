"""The messages of the standard job: the same for the same seed, made by the array.

Message i goes to partition i % partitions. Time advances by 1 ms a message; a message is up to 5 s behind
that, and one in 200 up to 60 s more, so that all are accepted and some are late.
"""

from __future__ import annotations

import numpy as np
import polars as pl

START_MS = 1_700_000_000_000
CARDS = 100_000
CARD_SKEW = 1.2
MERCHANTS = 1_000
OUT_OF_ORDER_MS = 5_000
LATE_MS = 60_000
LATE_SHARE = 0.005


def make_events(events: int, seed: int) -> pl.DataFrame:
    """card_id, merchant_id (String), amount (Float64, whole cents), ts (Int64, ms), as they are sent."""
    rng = np.random.default_rng(seed)
    weights = np.arange(1, CARDS + 1, dtype=np.float64) ** -CARD_SKEW
    cumulative = np.cumsum(weights / weights.sum())
    rank = np.minimum(np.searchsorted(cumulative, rng.random(events), side="right"), CARDS - 1)
    # Ranks are shuffled, so that a card's number does not tell how busy it is.
    card = rng.permutation(CARDS)[rank]
    merchant = rng.integers(0, MERCHANTS, events)
    cents = np.clip(rng.lognormal(8.0, 1.2, events), 1, 10_000_000).astype(np.int64)
    behind = rng.integers(0, OUT_OF_ORDER_MS + 1, events)
    late = rng.random(events) < LATE_SHARE
    behind[late] = OUT_OF_ORDER_MS + rng.integers(0, LATE_MS + 1, int(late.sum()))
    ts = START_MS + np.arange(events, dtype=np.int64) - behind
    return pl.DataFrame({"card": card, "merchant": merchant, "amount": cents / 100, "ts": ts}).select(
        pl.format("c{}", pl.col("card").cast(pl.String).str.zfill(7)).alias("card_id"),
        pl.format("m{}", pl.col("merchant").cast(pl.String).str.zfill(3)).alias("merchant_id"),
        "amount",
        "ts",
    )


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
