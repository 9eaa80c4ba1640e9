"""The standard job: five aggregates of a card's amounts over a tumbling minute and two sliding windows."""

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

OVER = [tumbling("1m"), "10m", "1h"]

card_amounts = StreamFeatureView(
    "card_amounts",
    source=payments,
    entities=[card],
    features=[
        agg.count(over=OVER),
        agg.sum("amount", over=OVER),
        agg.min("amount", over=OVER),
        agg.max("amount", over=OVER),
        agg.mean("amount", over=OVER),
    ],
    owner="benchmarks@example.com",
)
