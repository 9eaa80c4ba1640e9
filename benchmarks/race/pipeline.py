"""Our definition of a shape: RACE_SHAPE names it, RACE_TOPIC the topic to read."""

import os

import polars as pl

from benchmarks.race.shapes import SHAPES, Window
from featurestore import Entity, KafkaSource, StreamFeatureView, agg, hopping, tumbling

shape = SHAPES[os.environ["RACE_SHAPE"]]


def window_of(window: Window) -> object:
    """The window as an author writes it."""
    if window.kind == "tumbling":
        return tumbling(window.size)
    return hopping(window.size, window.every) if window.kind == "hopping" else window.size


card = Entity("card", join_keys={"card_id": pl.String})

payments = KafkaSource(
    "payments",
    topic=os.environ["RACE_TOPIC"],
    schema="benchmarks/standard_job.avsc",
    format="json",
    event_time="ts",
    max_out_of_orderness="5s",
    allowed_lateness="60s",
)

OVER = [window_of(window) for window in shape.windows]

card_amounts = StreamFeatureView(
    "card_amounts",
    source=payments,
    entities=[card],
    features=[
        agg.count(over=OVER),
        *(getattr(agg, function)("amount", over=OVER) for function in shape.functions),
    ],
    owner="benchmarks@example.com",
)
