"""Personalisation: what a user likes, which items take off, and who has seen what, from one topic of views and clicks.

A click-through rate is two features, clicks and views, not one: whoever reads them divides, and can smooth the rate of
an item that was hardly shown, which a ready ratio would not allow.
"""

import polars as pl

from featurestore import Entity, KafkaSource, StreamFeatureView, agg, hopping, sliding, tumbling

user = Entity("user", join_keys={"user_id": pl.String}, description="Somebody who is logged in.")
item = Entity("item", join_keys={"item_id": pl.String}, description="What the shop sells.")

clicks = KafkaSource(
    "clicks",
    topic="clicks",
    schema="schemas/click.json",
    format="json",
    event_time="at",
    # A click is sent when the item's page is left, so that it can tell the dwell time: it comes as late as somebody
    # stayed. Nine in ten are through within two minutes; the trend of an item is emitted so much after the fact.
    max_out_of_orderness="2m",
    # A page that is open for half an hour counts as left. What comes later was sent by a phone that had no network.
    allowed_lateness="30m",
    idle_timeout="30s",
    description="Items that were shown to somebody, and pages of items that were opened.",
)

people = ~pl.col("bot")
is_view = pl.col("action") == "view"
is_click = pl.col("action") == "click"

user_activity = StreamFeatureView(
    "user_activity",
    source=clicks,
    entities=[user],
    where=people,
    derive={
        "views": is_view,
        "clicks": is_click,
        # Null for a view, and nulls are skipped: `last` is of clicks alone.
        "clicked_category": pl.when(is_click).then(pl.col("category")),
        "clicked_item": pl.when(is_click).then(pl.col("item_id")),
    },
    features=[
        agg.sum("views", over=["10m", "1h", "24h"]),
        agg.sum("clicks", over=["10m", "1h", "24h"]),
        agg.last("clicked_category"),
        agg.last("clicked_item"),
        agg.mean("dwell_s", over=["1h", "24h"]),
        agg.stddev("dwell_s", over="24h"),
        agg.max("dwell_s", over="24h"),
        agg.first("channel").alias("acquired_by"),
        agg.count(over=tumbling("1h")).alias("events_by_the_hour"),
    ],
    ttl="30d",
    owner="personalisation@example.com",
    description="What a user looks at, clicks and stays with.",
    tags={"tier": "critical"},
)

item_activity = StreamFeatureView(
    "item_activity",
    source=clicks,
    entities=[item],
    where=people,
    derive={"views": is_view, "clicks": is_click},
    features=[
        # A hot item has events in every tile, and its row is rewritten with each commit: minutes keep it a sixth of
        # what the 10 seconds that a window of ten minutes has by itself would make it. default: of a new item.
        agg.sum("views", over=[sliding("10m", tile="1m"), "1h", "24h"], default=0),
        agg.sum("clicks", over=[sliding("10m", tile="1m"), "1h", "24h"], default=0),
        agg.sum("clicks", over=hopping("10m", "1m")).alias("trend_clicks"),
        agg.sum("views", over=hopping("10m", "1m")).alias("trend_views"),
        agg.mean("dwell_s", over=["1h", "24h"]),
        agg.var("dwell_s", over="24h"),
        agg.min("dwell_s", over="24h"),
        agg.count("dwell_s").alias("clicks_ever"),
    ],
    owner="personalisation@example.com",
    description="How often an item is shown, opened and read; the trend is for ranking and its training.",
)

user_item_exposure = StreamFeatureView(
    "user_item_exposure",
    source=clicks,
    entities=[user, item],
    where=people,
    derive={"views": is_view, "clicks": is_click},
    features=[
        agg.sum("views", over=["1h", "24h"], default=0),
        agg.sum("clicks", over="24h", default=0),
        agg.last("action"),
    ],
    # There are about as many pairs as events: a snapshot a minute would be the archive again.
    snapshot_every="15m",
    ttl="2d",
    owner="personalisation@example.com",
    description="How often an item was shown to this very user, so that it is not shown for ever.",
)
