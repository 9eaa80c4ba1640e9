"""Card fraud: what a card and a merchant have been doing lately, from one topic of card payments."""

import polars as pl

from featurestore import Entity, KafkaSource, StreamFeatureView, agg, hopping, lifetime, tumbling

card = Entity("card", join_keys={"card_id": pl.String}, description="A payment card.")
merchant = Entity("merchant", join_keys={"merchant_id": pl.String}, description="Who takes the payment.")

transactions = KafkaSource(
    "transactions",
    topic="transactions",
    schema="schemas/transaction.avsc",
    format="json",
    event_time="ts",
    max_out_of_orderness="5s",
    allowed_lateness="10m",
    idle_timeout="30s",
    description="Card payments, approved and declined.",
)

card_activity = StreamFeatureView(
    "card_activity",
    source=transactions,
    entities=[card],
    where=pl.col("status") == "approved",
    derive={"amount_eur": pl.col("amount") * pl.col("fx_rate")},
    features=[
        agg.count(over=["10m", "1h", "24h", tumbling("1m")]),
        agg.sum("amount_eur", over=["10m", "1h", "24h", tumbling("1m")]),
        agg.mean("amount_eur", over=["1h", "24h"]),
        agg.stddev("amount_eur", over="24h"),
        agg.max("amount_eur", over="24h").alias("biggest_purchase_24h"),
        agg.first("merchant_id"),
        agg.last("merchant_id"),
    ],
    ttl="7d",
    owner="risk@example.com",
    description="How often, how much and where a card was used.",
    tags={"tier": "critical"},
)

merchant_activity = StreamFeatureView(
    "merchant_activity",
    source=transactions,
    entities=[merchant],
    where=pl.col("status") == "approved",
    derive={"amount_eur": pl.col("amount") * pl.col("fx_rate")},
    features=[
        agg.count(over=["1h", hopping("10m", "1m"), lifetime()]),
        agg.sum("amount_eur", over=["1h", hopping("10m", "1m")]),
    ],
    owner="risk@example.com",
    description="How busy a merchant is.",
)
