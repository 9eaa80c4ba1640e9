"""Drawn logs of one source, cut into batches in drawn ways, and their archive on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import polars as pl

from featurestore.batches import NO_TIME, PartitionBatch, PartitionProgress
from featurestore.offline.archive import ArchiveEnd, SourceArchive, read_ends

Schema = dict[str, "pl.DataType | type[pl.DataType]"]

INSTANT = pl.Datetime("us", "UTC")
GENERATION = "gen-1"
SECOND = 1_000_000
OUT_OF_ORDERNESS = 5 * SECOND

ACCEPTED: Schema = {
    "card_id": pl.String,
    "amount": pl.Float64,
    "ts": INSTANT,
    "_partition": pl.Int32,
    "_offset": pl.Int64,
    "event_time": INSTANT,
    "arrival_time": INSTANT,
    "_partition_watermark": pl.Int64,
}
LATE: Schema = {**ACCEPTED, "watermark": INSTANT, "lateness": pl.Int64}
DEAD: Schema = {
    "_partition": pl.Int32,
    "_offset": pl.Int64,
    "key": pl.Binary,
    "value": pl.Binary,
    "arrival_time": INSTANT,
    "reason": pl.String,
    "error": pl.String,
}


class KilledError(Exception):
    """The process ended here."""


@dataclass(frozen=True)
class Message:
    """verdict: "accepted", "late", "duplicate" or a dead letter's reason. before_us: largest event time before it."""

    offset: int
    arrival_us: int
    size: int
    event_us: int
    before_us: int
    verdict: str


@dataclass(frozen=True)
class Log:
    """One partition. Offsets may have gaps; `end` may lie past the last message."""

    partition: int
    first: int
    end: int
    messages: Sequence[Message]

    def max_before(self, offset: int) -> int:
        """The naive oracle: largest event time of accepted messages below `offset`."""
        times = [m.event_us for m in self.messages if m.offset < offset and m.verdict == "accepted"]
        return max(times, default=NO_TIME)

    def batch(self, first: int, end: int, extra: str | None = None) -> PartitionBatch:
        """Messages of [first, end) as a source hands them on; extra: a column that a newer schema brought."""
        chosen = [m for m in self.messages if first <= m.offset < end]
        accepted = [self._row(m, extra) for m in chosen if m.verdict == "accepted"]
        late = [
            {
                **self._row(m, extra),
                "watermark": m.before_us - OUT_OF_ORDERNESS,
                "lateness": m.before_us - m.event_us,
            }
            for m in chosen
            if m.verdict == "late"
        ]
        dead = [self._dead_row(m) for m in chosen if m.verdict not in ("accepted", "late", "duplicate")]
        new: Schema = {} if extra is None else {extra: pl.Int64}
        return PartitionBatch(
            PartitionProgress(self.partition, first, end, self.max_before(end)),
            np.array([m.offset for m in chosen], dtype=np.int64),
            np.array([m.arrival_us for m in chosen], dtype=np.int64),
            np.array([m.size for m in chosen], dtype=np.int64),
            pl.DataFrame(accepted, schema={**new, **ACCEPTED}),
            pl.DataFrame(late, schema={**new, **LATE}),
            pl.DataFrame(dead, schema=DEAD),
            np.array([m.offset for m in chosen if m.verdict == "duplicate"], dtype=np.int64),
        )

    def _row(self, message: Message, extra: str | None) -> dict[str, object]:
        return {
            **({} if extra is None else {extra: message.offset}),
            "card_id": f"card-{message.event_us % 7}",
            "amount": message.size / 8,
            "ts": message.event_us,
            "_partition": self.partition,
            "_offset": message.offset,
            "event_time": message.event_us,
            "arrival_time": message.arrival_us,
            "_partition_watermark": message.before_us,
        }

    def _dead_row(self, message: Message) -> dict[str, object]:
        return {
            "_partition": self.partition,
            "_offset": message.offset,
            "key": None,
            "value": b"x" * message.size,
            "arrival_time": message.arrival_us,
            "reason": message.verdict,
            "error": "not what it should be",
        }


def draw_log(random: Random, partition: int, messages: int) -> Log:
    """A log with gaps, arrival times that sometimes step back, all verdicts, and perhaps a gap at its end."""
    first = offset = random.choice([0, 3, 97])
    offset += random.choice([0, 0, 8])
    arrival, highest = random.randrange(100) * SECOND, NO_TIME
    found = []
    for _ in range(messages):
        arrival += random.choice([0, 1, 20, -30]) * SECOND
        event = max(0, arrival - random.randrange(20) * SECOND)
        verdict = random.choice(["accepted", "accepted", "accepted", "late", "duplicate", "malformed", "tombstone"])
        if highest == NO_TIME or event > highest:
            verdict = "accepted" if verdict == "late" else verdict
        elif verdict == "late":
            event = highest - OUT_OF_ORDERNESS - random.randrange(1, 9) * SECOND
        found.append(Message(offset, max(0, arrival), random.randrange(12), event, highest, verdict))
        if verdict == "accepted":
            highest = max(highest, event)
        offset += random.choice([1, 1, 1, 1, 3, 11])
    return Log(partition, first, offset + random.choice([0, 4]), found)


def archive_of(root: Path, crash_point: Callable[[str], None] = lambda point: None) -> SourceArchive:
    """An archive with tiny segments: 16 offsets, 60 bytes, a minute of arrival."""
    return SourceArchive(
        root,
        "transactions",
        GENERATION,
        segment_events=16,
        segment_bytes=60,
        segment_span_us=60 * SECOND,
        buffer_bytes_max=2_000,
        crash_point=crash_point,
    )


def write_whole(root: Path, logs: Sequence[Log]) -> None:
    """An undisturbed run, each log in one batch."""
    archive = archive_of(root)
    for log in logs:
        archive.append(log.batch(log.first, log.end))
    archive.flush()


def write_disturbed(root: Path, logs: Sequence[Log], random: Random, crash_probability: float) -> int:
    """The same logs in drawn batches, with flushes and crashes at drawn moments, until all is durable.

    After a crash the source resumes somewhere at or below the archive's end. Returns how often it crashed.
    """
    crashes = 0

    def crash_point(point: str) -> None:
        if random.random() < crash_probability:
            raise KilledError(point)

    while True:
        try:
            _run(root, logs, random, crash_point)
        except KilledError:
            crashes += 1
            _leave_half_a_file(root, random)
        else:
            return crashes


def _run(root: Path, logs: Sequence[Log], random: Random, crash_point: Callable[[str], None]) -> None:
    ends = read_ends(root, "transactions", GENERATION)
    archive = archive_of(root, crash_point)
    at = {}
    for log in logs:
        end = ends.get(log.partition, ArchiveEnd(log.first, NO_TIME))
        assert end.max_event_time_us == log.max_before(end.next_offset)
        at[log.partition] = random.choice([log.first, end.next_offset, random.randint(log.first, end.next_offset)])
    now = 0.0
    while any(at[log.partition] < log.end for log in logs):
        log = random.choice(logs)
        first = at[log.partition]
        until = min(log.end, first + random.choice([1, 2, 7, 40]))
        batch = log.batch(first, until)
        if len(batch.offsets) or random.random() < 0.5:
            archive.append(batch)
        else:
            archive.advance(batch.progress)
        at[log.partition] = until
        now += random.choice([0.1, 3.0, 11.0])
        archive.maybe_flush(now)
        if random.random() < 0.1:
            archive.flush()
    archive.flush()
    # A partition that was complete before needs not be opened again.
    assert archive.durable_ends().items() <= read_ends(root, "transactions", GENERATION).items()


def _leave_half_a_file(root: Path, random: Random) -> None:
    folders = sorted(path for path in root.rglob("topic_partition=*") if path.is_dir())
    if folders:
        (random.choice(folders) / ".00000000000000000000.parquet.tmp").write_bytes(b"PAR1 half")


def contents(root: Path) -> dict[str, bytes]:
    """Every Parquet file under `root` with its bytes."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.parquet"))}
