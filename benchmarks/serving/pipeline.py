"""What the serving benchmark reads: ten features of a card over four windows, from one topic of payments."""

import polars as pl

from featurestore import Entity, KafkaSource, StreamFeatureView, agg, tumbling

card = Entity("card", join_keys={"card_id": pl.String})

payments = KafkaSource(
    "payments",
    topic="payments",
    schema="benchmarks/standard_job.avsc",
    format="json",
    event_time="ts",
    max_out_of_orderness="5s",
    allowed_lateness="60s",
)

card_profile = StreamFeatureView(
    "card_profile",
    source=payments,
    entities=[card],
    features=[
        agg.count(over=["10m", "1h", "24h"]),
        agg.sum("amount", over=["10m", "1h", "24h"]),
        agg.mean("amount", over="1h"),
        agg.max("amount", over="24h"),
        agg.count(over=tumbling("1m")),
        agg.last("merchant_id"),
    ],
    ttl="7d",
    owner="benchmarks@example.com",
)
