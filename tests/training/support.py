"""An archive written from a stream, and what the oracle says of reads in its past."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featurestore.batches import NO_TIME, PartitionBatch, PartitionProgress
from featurestore.definitions.specs import ColumnSpec, SourceSpec
from featurestore.offline import SourceArchive
from featurestore.training.history import WantedView
from tests import oracle
from tests.factories import source_spec
from tests.oracle import Message, SourceParams, Verdict
from tests.shard.history import Case, accepted_frame
from tests.strategies import COLUMNS, Stream

GENERATION = "g"


def write_archive(root: Path, stream: Stream, params: SourceParams, *, segment_events: int = 50) -> list[Verdict]:
    """The accepted events of a stream as a worker archives them; the verdicts, partition after partition."""
    archive = SourceArchive(root, "events", GENERATION, segment_events=segment_events)
    messages = [message for partition in stream for message in partition]
    verdicts = oracle.judge(messages, params)
    judged = {(m.partition, m.offset): v for m, v in zip(messages, verdicts, strict=True)}
    for partition in stream:
        newest = NO_TIME
        for message in partition:
            verdict = judged[(message.partition, message.offset)]
            if message.event is not None and verdict.kind != "dead":
                newest = max(newest, message.event[params.event_time_field])
            rows = [(message, verdict)] if verdict.kind == "accepted" else []
            frame = accepted_frame(rows)
            progress = PartitionProgress(message.partition, message.offset, message.offset + 1, newest)
            one = np.array([message.offset]), np.array([message.arrival_us]), np.array([100])
            dead = pl.DataFrame(schema={"_offset": pl.Int64})
            archive.append(PartitionBatch(progress, *one, frame, frame.clear(), dead))
    archive.flush()
    return verdicts


def source_of(params: SourceParams) -> SourceSpec:
    columns = tuple(ColumnSpec(name=name, dtype=dtype, nullable=null) for name, (dtype, null) in COLUMNS.items())
    spec = source_spec(out_of_orderness_us=params.ooo_us, lateness_us=params.lateness_us)
    return SourceSpec(**{name: getattr(spec, name) for name in spec.__struct_fields__} | {"columns": columns})


def wanted(case: Case, params: SourceParams) -> WantedView:
    names = tuple((feature.name, feature.name) for feature in case.view.features)
    return WantedView(case.bound, source_of(params), names)


def naive_join(
    case: Case,
    messages: Sequence[Message],
    verdicts: Sequence[Verdict],
    params: SourceParams,
    spine: pl.DataFrame,
    *,
    by_arrival: bool = False,
    known_by_us: int | None = None,
) -> list[dict[str, Any]]:
    """Row by row what the oracle says; spine: join keys and `t` (µs)."""
    arrived = {(m.partition, m.offset): m.arrival_us for m in messages}
    applied = oracle.applied_events(case.view, messages, verdicts, params)
    rows = []
    for row in spine.iter_rows(named=True):
        key, t = tuple(row[name] for name in case.view.join_keys), row["t"]
        events = []
        for event in applied.get(key, []) if None not in key else []:
            arrival = arrived[(event.partition, event.offset)]
            if (not by_arrival or arrival <= t) and (known_by_us is None or arrival <= known_by_us):
                events.append(event)
        rows.append({name: value for name, (value, _) in oracle.online_row(case.view, events, t).items()})
    return rows


def assert_same_values(expected: Sequence[dict[str, Any]], found: pl.DataFrame, place: str = "") -> None:
    """Counts, text and integers exactly; floats within 1e-9 of the sizes that these streams have."""
    assert found.height == len(expected)
    for number, (naive, row) in enumerate(zip(expected, found.iter_rows(named=True), strict=True)):
        for name, value in naive.items():
            mine = row[name]
            if isinstance(value, float) and isinstance(mine, float):
                assert mine == value or abs(mine - value) <= 1e-6 * max(1.0, abs(value)), (
                    place,
                    number,
                    name,
                    value,
                    mine,
                )
            else:
                assert mine == value, (place, number, name, value, mine)
