"""The example `clicks`, end to end: two entities and their pairs from one topic, corrected trends, served rates."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from featurestore.examples import BY_NAME
from featurestore.examples.clicks import ClickStream, Shape
from featurestore.offline import read_snapshots
from tests import oracle
from tests.conftest import TopicAt
from tests.integration.project import Project, read_stores
from tests.integration.road import Sent, assert_served, assert_stores_agree_with_the_oracle, send
from tests.oracle import Column, Feature, Message, SourceParams, View, Window

MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000
PARAMS = SourceParams("at", 2 * MINUTE, 30 * MINUTE)
# Few events, many of them odd: what matters is there several times over.
SHAPE = Shape(
    events=2_500, users=40, items=30, duration_s=10_800.0, offline_share=0.06, lost_share=0.03, broken_share=0.01
)

COLUMNS = {
    "event_id": Column("String"),
    "user_id": Column("String", nullable=True, default=None),
    "item_id": Column("String"),
    "category": Column("String"),
    "action": Column("String"),
    "dwell_s": Column("Float64", nullable=True, default=None),
    "channel": Column("String"),
    "bot": Column("Boolean", nullable=True, default=False),
    "at": Column("Datetime", unit="iso"),
}
TEN_MINUTES, ONE_HOUR, ONE_DAY = oracle.sliding(10 * MINUTE), oracle.sliding(HOUR), oracle.sliding(24 * HOUR)
TEN_IN_MINUTES = oracle.sliding(10 * MINUTE, tile_us=MINUTE)
TREND = oracle.hopping(10 * MINUTE, MINUTE)
EVER = oracle.lifetime()


def sums(column: str, *windows: tuple[str, Window], default: int | None = None) -> Iterator[Feature]:
    for suffix, window in windows:
        yield Feature(f"{column}_sum_{suffix}", "sum", column, window, default=default)


def dwell(function: str, suffix: str, window: Window) -> Feature:
    return Feature(f"dwell_s_{function}_{suffix}", function, "dwell_s", window, floats=True)


def is_person(event: dict[str, object]) -> bool:
    return not event["bot"]


def is_click(event: dict[str, object]) -> bool:
    return event["action"] == "click"


PARTS = {"views": lambda e: e["action"] == "view", "clicks": is_click}
VIEWS = {
    "user_activity": View(
        ("user_id",),
        (
            *sums("views", ("10m", TEN_MINUTES), ("1h", ONE_HOUR), ("24h", ONE_DAY)),
            *sums("clicks", ("10m", TEN_MINUTES), ("1h", ONE_HOUR), ("24h", ONE_DAY)),
            Feature("clicked_category_last", "last", "clicked_category", EVER),
            Feature("clicked_item_last", "last", "clicked_item", EVER),
            dwell("mean", "1h", ONE_HOUR),
            dwell("mean", "24h", ONE_DAY),
            dwell("stddev", "24h", ONE_DAY),
            dwell("max", "24h", ONE_DAY),
            Feature("acquired_by", "first", "channel", EVER),
            Feature("events_by_the_hour", "count", None, oracle.tumbling(HOUR)),
        ),
        where=is_person,
        derive={
            **PARTS,
            "clicked_category": lambda e: e["category"] if is_click(e) else None,
            "clicked_item": lambda e: e["item_id"] if is_click(e) else None,
        },
        ttl_us=30 * DAY,
    ),
    "item_activity": View(
        ("item_id",),
        (
            *sums("views", ("10m", TEN_IN_MINUTES), ("1h", ONE_HOUR), ("24h", ONE_DAY), default=0),
            *sums("clicks", ("10m", TEN_IN_MINUTES), ("1h", ONE_HOUR), ("24h", ONE_DAY), default=0),
            Feature("trend_clicks", "sum", "clicks", TREND),
            Feature("trend_views", "sum", "views", TREND),
            dwell("mean", "1h", ONE_HOUR),
            dwell("mean", "24h", ONE_DAY),
            dwell("var", "24h", ONE_DAY),
            dwell("min", "24h", ONE_DAY),
            Feature("clicks_ever", "count", "dwell_s", EVER),
        ),
        where=is_person,
        derive=PARTS,
    ),
    "user_item_exposure": View(
        ("user_id", "item_id"),
        (
            *sums("views", ("1h", ONE_HOUR), ("24h", ONE_DAY), default=0),
            *sums("clicks", ("24h", ONE_DAY), default=0),
            Feature("action_last", "last", "action", EVER),
        ),
        where=is_person,
        derive=PARTS,
        ttl_us=2 * DAY,
        snapshot_every_us=15 * MINUTE,
    ),
}


def oracle_messages(sent: Sent) -> list[Message]:
    offsets: dict[int, Iterator[int]] = defaultdict(itertools.count)
    out = []
    for partition, value in sent:
        event, reason = oracle.read_json(value, COLUMNS, "at")
        out.append(Message(partition, next(offsets[partition]), event, 2**61, reason))
    return out


@pytest.mark.timeout(120)
def test_views_and_clicks_reach_both_stores_and_the_client_as_the_oracle_says(any_topic: TopicAt, tmp_path: Path):
    stream = ClickStream(SHAPE, seed=11)
    made = list(stream)
    project = Project.create(tmp_path, any_topic.bootstrap_servers, any_topic.topic, example=BY_NAME["clicks"])
    # What a page that is left late tells comes after the windows that it belongs to: they are emitted by then.
    sent = send(any_topic, made[:1_600])
    project.run_until_end()
    sent += send(any_topic, made[1_600:])
    project.run_until_end("--processes", "2")

    messages = oracle_messages(sent)
    verdicts = oracle.judge(messages, PARAMS)
    stores = read_stores(project)
    assert_stores_agree_with_the_oracle(stores, messages, PARAMS, VIEWS, close_windows=False)
    assert dict(stores.dead["reason"].value_counts().iter_rows()) == oracle.dead_letters(verdicts) == stream.made.dead
    assert stores.late.height > 5
    assert oracle.source_counts(verdicts).late_accepted > 50
    assert stores.counts["user_activity"].null_key > 50, "visitors who are not logged in"
    assert stores.counts["item_activity"].null_key == 0
    assert stores.counts["item_activity"].filtered > 0, "bots"
    assert sum(counts.beyond_retention for counts in stores.counts.values()) == 0

    trend = read_snapshots(tmp_path / "data" / "offline", "item_activity", 1, "hopping_10m_1m")
    assert trend["revision"].max() >= 1, "clicks that came late have corrected the trend"
    share = stores.online["item_activity"].sort("views_sum_24h", descending=True).head(3)["views_sum_24h"].sum()
    assert share > 0.2 * stores.online["item_activity"]["views_sum_24h"].sum(), "a few items are hot"

    for name, features in {
        "user_activity": ["clicked_category_last", "dwell_s_mean_24h", "views_sum_1h"],
        "item_activity": ["clicks_sum_1h", "views_sum_1h", "trend_clicks", "dwell_s_var_24h"],
        "user_item_exposure": ["views_sum_24h", "action_last"],
    }.items():
        assert_served(project, stores, VIEWS[name], name, features)


def test_the_oracle_knows_every_feature_of_the_pipeline():
    from pipelines import clicks

    for name, view in VIEWS.items():
        defined = [feature for made in getattr(clicks, name).features for feature, _ in made.features()]
        assert [feature.name for feature in view.features] == defined, name
