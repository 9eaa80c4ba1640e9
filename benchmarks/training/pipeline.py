"""Nine features of a card's amounts: count, sum and maximum over 10 minutes, an hour and a day; the newest one."""

from benchmarks.standard_pipeline import card
from featurestore import KafkaSource, StreamFeatureView, agg, lifetime

payments = KafkaSource(
    "payments",
    topic="payments",
    schema="benchmarks/standard_job.avsc",
    format="json",
    event_time="ts",
    max_out_of_orderness="5s",
    allowed_lateness="60s",
)
OVER = ["10m", "1h", "24h"]
card_history = StreamFeatureView(
    "card_history",
    source=payments,
    entities=[card],
    features=[agg.count(over=OVER), agg.sum("amount", over=OVER), agg.max("amount", over=OVER)],
    ttl="7d",
    owner="benchmarks@example.com",
)
# What a join of states can express, too: the newest row before an instant.
card_newest = StreamFeatureView(
    "card_newest",
    source=payments,
    entities=[card],
    features=[agg.last("amount", over=lifetime())],
    owner="benchmarks@example.com",
)
