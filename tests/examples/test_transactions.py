"""The generator of card payments: deterministic, and its counts are what is in the stream."""

from __future__ import annotations

import json

import msgspec
import pytest

from featurestore.examples.transactions import BROKEN_AS, Shape, TransactionStream

SHAPE = Shape(events=25_000, broken_share=0.01, too_late_share=0.005)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    assert list(TransactionStream(SHAPE, seed=3)) == list(TransactionStream(SHAPE, seed=3))
    assert list(TransactionStream(SHAPE, seed=3)) != list(TransactionStream(SHAPE, seed=4))


def test_counts_are_what_is_in_the_stream() -> None:
    stream = TransactionStream(SHAPE, seed=3)
    undecodable = wrong = missing = timeless = good = 0
    newest = behind = far_behind = 0
    for _, value in stream:
        try:
            event = msgspec.json.decode(value)
        except msgspec.DecodeError:
            undecodable += 1
            continue
        wrong += isinstance(event["amount"], str)
        missing += "merchant_id" not in event
        timeless += event["ts"] is None
        if isinstance(event["amount"], float) and "merchant_id" in event and event["ts"] is not None:
            good += 1
            behind += event["ts"] < newest - 5_000
            far_behind += event["ts"] < newest - 605_000
            newest = max(newest, event["ts"])
    assert stream.made.dead == dict(zip(BROKEN_AS, (undecodable, wrong, missing, timeless), strict=True))
    assert min(stream.made.dead.values()) > 0
    assert (stream.made.well_formed, stream.made.total) == (good, SHAPE.events)
    # Made late is measured against the clock of the stream, found here against its newest event.
    assert stream.made.late + stream.made.too_late == pytest.approx(behind, rel=0.05)
    assert stream.made.too_late == pytest.approx(far_behind, rel=0.05)


def test_events_fit_the_example_schema() -> None:
    with open("schemas/transaction.avsc", encoding="utf-8") as file:
        fields = {column["name"]: column for column in json.load(file)["fields"]}
    shape = Shape(events=2_000, broken_share=0)
    for key, value in TransactionStream(shape):
        event = msgspec.json.decode(value)
        assert set(event) <= set(fields)
        assert {name for name, column in fields.items() if "default" not in column} <= set(event)
        assert event["card_id"] == key.decode()
        assert event["status"] in ("approved", "declined")


def test_a_few_cards_are_busy_and_most_are_not() -> None:
    tally: dict[bytes, int] = {}
    for key, _ in TransactionStream(Shape(events=20_000)):
        tally[key] = tally.get(key, 0) + 1
    counts = sorted(tally.values(), reverse=True)
    assert counts[0] > 20 * counts[len(counts) // 2]
