"""What was served at a moment is what a training set says of that moment, though more has arrived since."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import polars as pl
import polars.testing
import pytest

from featurestore import FeatureStore
from featurestore.online.reader import OnlineReader
from tests.conftest import ON_KAFKA
from tests.integration.project import Project
from tests.integration.road import send

CARDS = [f"card_{number}" for number in range(12)]
VIEWS = {"card_activity": "card_id", "merchant_activity": "merchant_id"}
MOMENTS, EVENTS = 6, 150


def payments(rng: random.Random, number: int, now_us: int) -> Iterator[tuple[None, bytes]]:
    """Of the last nine minutes, in no order: most windows of one moment get events only after it."""
    for index in range(number):
        event = {
            "transaction_id": f"t{now_us}-{index}",
            "card_id": rng.choice(CARDS),
            "merchant_id": rng.choice(["m1", "m2", "m3"]),
            "amount": round(rng.lognormvariate(3, 1), 2),
            "currency": rng.choice(["EUR", "USD"]),
            "fx_rate": rng.choice([1.0, 0.9173]),
            "status": "approved" if rng.random() < 0.9 else "declined",
            "ts": now_us // 1_000 - rng.randrange(1, 9 * 60_000),
        }
        yield None, msgspec.json.encode(event)


def wait_for_all(reader: OnlineReader, project: Project, sent: int) -> None:
    """Until every view has seen each event that was sent."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        reader.refresh()
        seen = [
            sum(s.counts.applied + s.counts.filtered + s.counts.null_key for s in reader.states(view))
            for view in project.views().values()
        ]
        if seen == [sent] * len(VIEWS):
            return
        time.sleep(0.05)
    pytest.fail(f"of {sent} events the views have seen {seen}")


@ON_KAFKA
@pytest.mark.timeout(180)
def test_training_sets_by_arrival_hold_what_was_served(any_topic, tmp_path: Path):
    project = Project.create(
        tmp_path / "project", any_topic.bootstrap_servers, any_topic.topic, data_dir=tmp_path / "data"
    )
    rng = random.Random(11)
    sent = EVENTS
    send(any_topic, payments(rng, EVENTS, time.time_ns() // 1_000))
    project.run_until_end()
    worker = project.start("run", project.example.module, log=tmp_path / "worker.log")
    reader = OnlineReader(project.data_dir, project.example.source)
    served: dict[str, list[pl.DataFrame]] = {view: [] for view in VIEWS}
    try:
        for _ in range(MOMENTS):
            time.sleep(rng.random())
            send(any_topic, payments(rng, EVENTS, time.time_ns() // 1_000))
            sent += EVENTS
            wait_for_all(reader, project, sent)
            now_us = time.time_ns() // 1_000
            for name, view in project.views().items():
                keys = CARDS if name == "card_activity" else ["m1", "m2", "m3", "m4"]
                read = reader.read(view, keys, list(view.features), now_us)
                columns = {feature: column.values for feature, column in read.columns.items()}
                instant = datetime.fromtimestamp(now_us // 1_000_000, timezone.utc).replace(
                    microsecond=now_us % 1_000_000
                )
                served[name].append(
                    pl.DataFrame({VIEWS[name]: keys, "event_timestamp": [instant] * len(keys), **columns}, strict=False)
                )
        # What comes now lies in the same windows, and is news to all moments before.
        send(any_topic, payments(rng, EVENTS, time.time_ns() // 1_000))
        wait_for_all(reader, project, sent + EVENTS)
    finally:
        reader.close()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0

    store = FeatureStore(project.folder)
    for name, view in project.views().items():
        frame = pl.concat(served[name], how="vertical_relaxed").sample(fraction=1, shuffle=True, seed=3)
        names = list(view.features)
        spine = frame.drop(names)
        asked = [f"{name}:{feature}" for feature in names]
        by_arrival = store.get_historical_features(spine, asked, knowledge="arrival")
        pl.testing.assert_frame_equal(by_arrival, frame, check_dtypes=False, rel_tol=1e-9, abs_tol=1e-7)
        by_event = store.get_historical_features(spine, asked)
        more = by_event["count_1h"].fill_null(0) > frame["count_1h"].fill_null(0)
        assert more.sum() > frame.height / 2, "the stream has no events that came later, the check is empty"
