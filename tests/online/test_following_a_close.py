"""What a worker commits just before it closes its shards is seen by a reader that follows it."""

from __future__ import annotations

from pathlib import Path

from featurestore.online.reader import OnlineReader
from tests.serving.support import CARD, MINUTE, NOON, SOURCE, Writer, event, register, registered_views


def test_the_last_commit_before_a_close_is_seen(tmp_path: Path):
    register(tmp_path)
    writer = Writer(tmp_path)
    writer.commit([event("c1", amount=1.0, at_us=NOON)])
    reader = OnlineReader(tmp_path, SOURCE.name)
    try:
        reader.refresh()
        # Closing moves this commit from the log to a table before the reader has looked at the log again.
        writer.commit([event("c1", amount=2.0, at_us=NOON + 1)])
        writer.close()
        reader.refresh()
        view = next(view for view in registered_views(tmp_path) if view.name == CARD.name)
        read = reader.read(view, ["c1"], ["amount_sum_10m"], NOON + MINUTE)
        assert read.columns["amount_sum_10m"].values == [3.0]
        assert reader.latest_us(view) == NOON + 2
    finally:
        reader.close()
