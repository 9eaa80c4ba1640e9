"""The generator of views and clicks: deterministic, its counts are what is in the stream, and it looks like a shop."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime

import msgspec
import pytest

from featurestore.examples.clicks import BROKEN_AS, LATENESS_S, OUT_OF_ORDERNESS_S, ClickStream, Shape
from pipelines.clicks import clicks as source

SHAPE = Shape(events=20_000, broken_share=0.01, lost_share=0.01)


def well_formed(stream: ClickStream) -> list[dict[str, object]]:
    return [msgspec.json.decode(value) for _, value in stream]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    assert list(ClickStream(SHAPE, seed=3)) == list(ClickStream(SHAPE, seed=3))
    assert list(ClickStream(SHAPE, seed=3)) != list(ClickStream(SHAPE, seed=4))


def test_counts_are_what_is_in_the_stream() -> None:
    stream = ClickStream(SHAPE, seed=3)
    undecodable = zoneless = missing = null = good = late = too_late = 0
    newest = 0.0
    for _, value in stream:
        try:
            event = msgspec.json.decode(value)
        except msgspec.DecodeError:
            undecodable += 1
            continue
        zoneless += not event["at"].endswith("Z")
        missing += "item_id" not in event
        null += event["action"] is None
        if event["at"].endswith("Z") and "item_id" in event and event["action"]:
            good += 1
            at = datetime.fromisoformat(event["at"].replace("Z", "+00:00")).timestamp()
            late += newest - at > OUT_OF_ORDERNESS_S
            too_late += newest - at > OUT_OF_ORDERNESS_S + LATENESS_S
            newest = max(newest, at)
    assert stream.made.dead == dict(zip(BROKEN_AS, (undecodable, zoneless, missing, null), strict=True))
    assert min(stream.made.dead.values()) > 0
    assert (stream.made.well_formed, stream.made.total) == (good, SHAPE.events)
    # Made late is measured against the clock of the stream, found here against its newest event.
    assert stream.made.late + stream.made.too_late == pytest.approx(late, rel=0.05)
    assert stream.made.too_late == pytest.approx(too_late, rel=0.05)
    assert too_late > 0


def test_events_fit_the_example_schema_and_its_source() -> None:
    with open("schemas/click.json", encoding="utf-8") as file:
        schema = json.load(file)
    for event in well_formed(ClickStream(Shape(events=2_000, broken_share=0))):
        assert set(event) <= set(schema["properties"])
        assert set(schema["required"]) <= set(event)
        assert event["action"] in schema["properties"]["action"]["enum"]
        assert ("dwell_s" in event) == (event["action"] == "click")
    assert (source.max_out_of_orderness, source.allowed_lateness) == ("2m", "30m")
    assert (OUT_OF_ORDERNESS_S, LATENESS_S) == (120.0, 1_800.0)


def test_a_click_is_on_what_the_same_visitor_was_shown_before() -> None:
    shape = Shape(events=5_000, broken_share=0, offline_share=0, lost_share=0)
    messages = [(key, msgspec.json.decode(value)) for key, value in ClickStream(shape)]
    shown = {(key, event["item_id"]) for key, event in messages if event["action"] == "view"}
    clicked = [(key, event["item_id"]) for key, event in messages if event["action"] == "click"]
    assert len(clicked) > 300
    assert set(clicked) <= shown


def test_a_few_items_are_hot_and_only_for_a_while() -> None:
    events = sorted(well_formed(ClickStream(Shape(events=30_000, broken_share=0))), key=lambda event: str(event["at"]))
    early, late = (Counter(event["item_id"] for event in part) for part in (events[:4_000], events[-4_000:]))
    hottest, count = early.most_common(1)[0]
    assert count > 0.1 * early.total()
    assert late[hottest] < 0.3 * count


def test_some_visitors_are_not_logged_in_and_some_are_bots() -> None:
    events = well_formed(ClickStream(Shape(events=20_000, broken_share=0)))
    assert 0.05 < sum(event["user_id"] is None for event in events) / len(events) < 0.2
    assert 0.005 < sum("bot" in event for event in events) / len(events) < 0.05
