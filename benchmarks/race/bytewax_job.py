"""A shape with bytewax's own windows, as `python -m bytewax.run benchmarks.race.bytewax_job` runs it.

RACE_SHAPE, RACE_TOPIC, RACE_SERVERS and RACE_ROWS (the file to write) say what. Without a recovery store, which is
bytewax's default and saves it work: a crash loses the open windows.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, BinaryIO

import bytewax.operators as op
import bytewax.operators.windowing as win
import msgspec
from bytewax.connectors.kafka import KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from benchmarks.race.shapes import GRACE_MS, MINUTE_MS, SHAPES

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MARGIN_MS = 60_000
"""Its watermark runs on with the wall clock while a batch waits for the one before: without this it drops events."""

SHAPE = SHAPES[os.environ["RACE_SHAPE"]]


class Payment(msgspec.Struct):
    """What the job reads of a message."""

    card_id: str
    amount: float
    ts: int


class Row(msgspec.Struct):
    """A window of a card. end: ms since the epoch."""

    card_id: str
    end: int
    count: int
    sum: float
    min: float
    max: float
    mean: float


Totals = list[float]
"""Count, sum, least, greatest."""

decode = msgspec.json.Decoder(Payment).decode


def payment_of(message: KafkaSourceMessage[Any, bytes]) -> Payment:
    """The message's payment."""
    return decode(message.value)


def event_time(payment: Payment) -> datetime:
    """When it happened."""
    return EPOCH + timedelta(milliseconds=payment.ts)


def no_totals() -> Totals:
    """Totals of nothing."""
    return [0, 0.0, float("inf"), float("-inf")]


def add(totals: Totals, payment: Payment) -> Totals:
    """Totals with one payment more."""
    amount = payment.amount
    totals[0] += 1
    totals[1] += amount
    if amount < totals[2]:
        totals[2] = amount
    if amount > totals[3]:
        totals[3] = amount
    return totals


def merge(a: Totals, b: Totals) -> Totals:
    """Totals of both."""
    return [a[0] + b[0], a[1] + b[1], min(a[2], b[2]), max(a[3], b[3])]


def row_of(item: tuple[str, tuple[int, Totals]]) -> Row:
    """The row of a closed window; window i begins i minutes after the epoch."""
    card, (window, (count, total, least, greatest)) = item
    end = window * MINUTE_MS + SIZE_MS
    return Row(card, end, int(count), total, least, greatest, total / count)


class RowsPartition(StatelessSinkPartition[Row]):
    """Rows as JSON lines in a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._encode = msgspec.json.Encoder().encode_lines

    def write_batch(self, items: list[Row]) -> None:
        self._file.write(self._encode(items))

    def close(self) -> None:
        self._file.close()


class RowsFile(DynamicSink[Row]):
    """The file of one worker's rows."""

    def __init__(self, path: str) -> None:
        self._path = path

    def build(self, step_id: str, worker_index: int, worker_count: int) -> RowsPartition:
        return RowsPartition(Path(self._path).open("wb"))


SIZE_MS = MINUTE_MS if SHAPE.name == "tumbling" else 10 * MINUTE_MS
size = timedelta(milliseconds=SIZE_MS)
windower: win.Windower[Any] = (
    win.TumblingWindower(length=size, align_to=EPOCH)
    if SHAPE.name == "tumbling"
    else win.SlidingWindower(length=size, offset=timedelta(milliseconds=MINUTE_MS), align_to=EPOCH)
)

flow = Dataflow("race")
source = KafkaSource(
    os.environ["RACE_SERVERS"].split(","),
    [os.environ["RACE_TOPIC"]],
    tail=False,
    add_config={"fetch.queue.backoff.ms": "10"},  # as ours
    batch_size=10_000,  # its default of 1000 takes three times the CPU here
)
messages = op.input("messages", flow, source)
payments = op.map("decode", messages, payment_of)
keyed = op.key_on("by_card", payments, lambda payment: payment.card_id)
windows = win.fold_window(
    "window",
    keyed,
    win.EventClock(event_time, wait_for_system_duration=timedelta(milliseconds=GRACE_MS + MARGIN_MS)),
    windower,
    no_totals,
    add,
    merge,
    ordered=False,
)
rows = op.map("row", windows.down, row_of)
op.output("rows", rows, RowsFile(os.environ["RACE_ROWS"]))
