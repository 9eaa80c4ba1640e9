"""The demo's figures from the worker's metrics, and the event time of a second demo in one folder."""

from __future__ import annotations

import pytest

from featurestore.cli.demo_progress import BEGINS_BEFORE_NOW_US, GAP_US, SPAN_US, choose_span, parse_progress
from featurestore.durations import US_PER_UNIT, parse_instant_us
from featurestore.errors import ConfigError

NOW_US = parse_instant_us("2026-11-23T04:30:00Z")

METRICS = """\
# HELP featurestore_events_read_total Messages read from the topic.
featurestore_events_read_total{source="transactions"} 1000.0
featurestore_events_accepted_total{source="transactions"} 990.0
featurestore_events_late_accepted_total{source="transactions"} 7.0
featurestore_events_too_late_total{source="transactions"} 4.0
featurestore_dead_letters_total{reason="malformed",source="transactions"} 5.0
featurestore_dead_letters_total{reason="wrong_type",source="transactions"} 1.0
featurestore_watermark_seconds{partition="0",source="transactions"} 1.7953e+09
featurestore_watermark_seconds{partition="1",source="transactions"} 1.7952e+09
featurestore_applied_total{view="cards"} 900.0
featurestore_filtered_total{view="cards"} 90.0
featurestore_applied_total{view="merchants"} 700.0
featurestore_null_key_total{view="merchants"} 1.0
python_info{version="3"} 1.0
"""


def test_what_all_views_have_committed_and_what_was_set_aside_is_processed():
    progress = parse_progress(METRICS)
    assert (progress.read, progress.accepted, progress.behind, progress.too_late) == (1000, 990, 7, 4)
    assert progress.dead_letters == {"malformed": 5, "wrong_type": 1}
    assert progress.merged == 701
    assert progress.processed == 701 + 4 + 6
    assert progress.watermark_us == 1_795_200_000_000_000


def test_before_the_first_message_there_is_no_watermark():
    assert parse_progress("").watermark_us is None


def test_the_first_demo_begins_at_a_whole_hour_a_week_ago():
    start_us, span_us = choose_span(None, NOW_US)
    assert start_us % US_PER_UNIT["h"] == 0
    assert 0 <= NOW_US - BEGINS_BEFORE_NOW_US - start_us < US_PER_UNIT["h"]
    assert span_us == SPAN_US


def test_the_next_demo_begins_behind_the_newest_event():
    newest_us = NOW_US - BEGINS_BEFORE_NOW_US + SPAN_US
    assert choose_span(newest_us, NOW_US) == (newest_us + GAP_US, SPAN_US)


def test_no_demo_sends_events_of_the_future():
    newest_us = NOW_US - US_PER_UNIT["h"]
    start_us, span_us = choose_span(newest_us, NOW_US)
    assert start_us + span_us < NOW_US
    with pytest.raises(ConfigError, match="the present"):
        choose_span(NOW_US - 10 * US_PER_UNIT["m"], NOW_US)
