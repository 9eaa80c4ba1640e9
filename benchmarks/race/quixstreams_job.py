"""A shape with quixstreams' own windows: `python quixstreams_job.py SHAPE SERVERS TOPIC EVENTS ROWS STATE`.

Run by a Python that has quixstreams and nothing of ours (quixstreams.txt). EVENTS: it ends after so many; ROWS: the
file to write; STATE: the folder of its RocksDB. Its defaults are kept: a changelog topic for the state, a commit every
5 s, at least once.
"""

import sys
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import quixstreams.dataframe.windows.aggregations as agg
from quixstreams import Application
from quixstreams.sinks import BatchingSink, SinkBatch

MINUTE_MS = 60_000
GRACE_MS = 65_000


class RowsFile(BatchingSink):
    """Rows as JSON lines."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file

    def write(self, batch: SinkBatch) -> None:
        for item in batch:
            row = item.value
            row["card_id"] = item.key
            del row["start"]
            self._file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


def payment_time(value: Any, headers: Any, timestamp_ms: float, timestamp_type: Any) -> int:
    """When the payment happened, ms."""
    return value["ts"]


def main(arguments: list[str]) -> int:
    """Run the job to the end of the topic."""
    shape, servers, topic, events, rows, state = arguments
    left = int(events)

    def count(topic: str, partition: int, offset: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            app.stop()

    app = Application(
        broker_address=servers,
        consumer_group=f"race-{Path(state).name}",
        auto_offset_reset="earliest",
        state_dir=state,
        consumer_extra_config={"fetch.queue.backoff.ms": 10},  # as ours
        on_message_processed=count,
        loglevel="WARNING",
    )
    frame = app.dataframe(
        app.topic(topic, key_deserializer="str", value_deserializer="json", timestamp_extractor=payment_time)
    )
    if shape == "tumbling":
        windows = frame.tumbling_window(MINUTE_MS, grace_ms=GRACE_MS)
    else:
        windows = frame.hopping_window(10 * MINUTE_MS, MINUTE_MS, grace_ms=GRACE_MS)
    # By partition: with "key", the default, the last window of a card waits for another event of that card.
    closed = windows.agg(
        count=agg.Count(),
        sum=agg.Sum("amount"),
        min=agg.Min("amount"),
        max=agg.Max("amount"),
        mean=agg.Mean("amount"),
    ).final(closing_strategy="partition")
    with Path(rows).open("wb") as file:
        closed.sink(RowsFile(file))
        app.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
