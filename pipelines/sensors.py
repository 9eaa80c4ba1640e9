"""Predictive maintenance: how a machine runs and how its gateway delivers, from one topic of sensor readings.

Gateways lose their network for up to an hour, keep what the machines report, and send it when they are back, beside
what comes in meanwhile. What that asks of the source:

- `allowed_lateness` decides whether the backlog counts. A gateway shares its partition with others that went on, so
  its readings are an hour behind that partition's newest when it comes back. A gateway that sends its newest first is
  not through when it is back: at twice the pace at which readings come, an hour of backlog takes half an hour, and the
  last one is one and a half hours behind. Two hours cover both; what was buffered longer is kept under `late/`, and
  counted. Windows that were emitted without the backlog are emitted again with the next `revision`.
- `idle_timeout` decides who waits. A partition of which every gateway is offline brings nothing; after a minute, six
  readings missed, it no longer holds back the watermark, and the other machines' windows are emitted. With an hour
  they would all wait for it; with a second every hiccup would mean rows that are corrected at once. Nothing is lost by
  it: when the partition comes back, its readings are judged by its own watermark, which stood still. Only a window that
  ended more than `allowed_lateness` before the others' watermark stays uncorrected (`beyond_retention`).
- `max_out_of_orderness` is for the ordinary: gateways send every ten seconds, and the network adds some. Windows close
  so much later, so the backlog is not its business.
"""

import polars as pl

from featurestore import Entity, KafkaSource, StreamFeatureView, agg, hopping, sliding, tumbling

machine = Entity("machine", join_keys={"machine_id": pl.String}, description="A machine with sensors.")
gateway = Entity("gateway", join_keys={"gateway_id": pl.String}, description="Through which machines report.")

readings = KafkaSource(
    "sensor_readings",
    topic="sensor_readings",
    schema="schemas/sensor_reading.avsc",
    format="avro",
    event_time="measured_at",
    max_out_of_orderness="30s",
    allowed_lateness="2h",
    idle_timeout="1m",
    description="What machines measure, every ten seconds or so.",
)

# Rows keep their finest tiles for as long as a correction may come: for two hours, so whole minutes instead of the
# 10 seconds that a window of a quarter of an hour has by itself.
quarter = sliding("15m", tile="1m")

machine_condition = StreamFeatureView(
    "machine_condition",
    source=readings,
    entities=[machine],
    derive={
        # One NaN would make every window that holds it NaN; a null is skipped.
        "temperature": pl.col("celsius").fill_nan(None),
        "vibration_squared": pl.col("vibration") * pl.col("vibration"),
        "alarm": pl.col("error_code").is_not_null(),
        "running": pl.col("rpm") > 0,
    },
    features=[
        agg.count(over=[quarter, "1h", "24h"]),
        agg.mean("temperature", over=[quarter, "1h", "24h"]),
        agg.stddev("temperature", over="1h"),
        agg.min("temperature", over="24h"),
        agg.max("temperature", over="24h"),
        # Its root is the effective value over the window, which a mean of readings is not.
        agg.mean("vibration_squared", over=[quarter, "24h"]),
        agg.max("vibration", over=["1h", "24h"]),
        agg.mean("vibration", over=tumbling("5m")),
        agg.max("vibration", over=tumbling("5m")),
        agg.var("vibration", over=hopping("1h", "15m")).alias("vibration_unrest"),
        agg.mean("kilowatts", over="1h"),
        agg.sum("alarm", over=["1h", "24h"]),
        agg.last("error_code"),
        agg.mean("running", over="24h").alias("utilisation_24h"),
        agg.count().alias("readings_ever"),
        agg.first("gateway_id").alias("first_gateway"),
    ],
    snapshot_every="5m",
    ttl="7d",
    owner="maintenance@example.com",
    description="How warm, how restless and how busy a machine is.",
    tags={"tier": "critical"},
)

gateway_health = StreamFeatureView(
    "gateway_health",
    source=readings,
    entities=[gateway],
    features=[
        agg.count(over=[quarter, "1h", tumbling("5m")]),
        agg.sum("from_buffer", over=["1h", "24h"]),
    ],
    snapshot_every="5m",
    ttl="7d",
    owner="maintenance@example.com",
    description="Whether a gateway delivers: missing readings are a feature too.",
)
