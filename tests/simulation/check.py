"""Hold what a simulation left behind against the oracle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import polars as pl

from featurestore.compile.keys import encode_entities
from featurestore.offline import archive_counts, read_dead_letters, read_events, read_late, read_snapshots
from featurestore.online.reader import OnlineReader
from featurestore.shard.protocol import ViewCounts
from tests import oracle
from tests.oracle import Message, Run, SourceParams, Verdict
from tests.oracle.model import MINUTE
from tests.oracle.reads import bounds
from tests.oracle.values import scale
from tests.shard.history import Case
from tests.simulation.log import Topic
from tests.simulation.simulator import Simulation
from tests.simulation.stores import SOURCE
from tests.strategies import COLUMNS

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_US = timedelta(microseconds=1)
Rows = dict[tuple[tuple[object, ...], int], dict[str, Any]]


@dataclass(frozen=True)
class Log:
    """The messages that were read, each with the oracle's verdict.

    judged: the same with the arrivals that they were judged by.
    """

    messages: list[Message]
    judged: list[Message]
    verdicts: list[Verdict]
    params: SourceParams

    @classmethod
    def of(cls, topic: Topic, params: SourceParams, first_wall_us: Mapping[tuple[int, int], int]) -> Log:
        """first_wall_us: what the wall clock showed when each message was first judged, where it has a say."""
        messages = [m for partition in topic.stream for m in partition if m.offset < topic.end[m.partition]]
        judged = messages
        if not topic.broker_time:
            judged = [replace(m, arrival_us=first_wall_us[m.partition, m.offset]) for m in messages]
        return cls(messages, judged, oracle.judge(judged, params), params)

    def kind(self, kind: str) -> list[tuple[Message, Verdict]]:
        return [(m, v) for m, v in zip(self.messages, self.verdicts, strict=True) if v.kind == kind]


def check(
    simulation: Simulation,
    cases: Sequence[Case],
    topic: Topic,
    params: SourceParams,
    *,
    close_windows: bool = False,
    runs: Sequence[Run] = (),
) -> None:
    """Archive, counters, snapshots and online reads are what the oracle says of the log up to the topic's end.

    runs: where there were several, all of them.
    """
    log = Log.of(topic, params, simulation.first_wall_us)
    check_archive(simulation, topic, log)
    check_counts(simulation, cases, log)
    for case in cases:
        check_snapshots(simulation, case, log, close_windows=close_windows, runs=runs)
    check_reads(simulation, cases, log)


def check_archive(simulation: Simulation, topic: Topic, log: Log) -> None:
    """Every message's verdict is in the archive, exactly once, with what it was judged by."""
    accepted, late, dead = log.kind("accepted"), log.kind("late"), log.kind("dead")
    found = read_events(simulation.offline, SOURCE)
    assert _events(found) == sorted(_event(m) for m, _ in accepted)
    found = read_late(simulation.offline, SOURCE)
    assert _events(found) == sorted(_event(m) for m, _ in late)
    if late:
        judged = {(m.partition, m.offset): (v.watermark_before, v.lateness_us) for m, v in late}
        for row in found.iter_rows(named=True):
            assert (_us(row["watermark"]), row["lateness"]) == judged[row["_partition"], row["_offset"]]
    found = read_dead_letters(simulation.offline, SOURCE)
    reasons = [] if found.is_empty() else found.select("_partition", "_offset", "reason").rows()
    assert sorted(reasons) == sorted((m.partition, m.offset, v.reason) for m, v in dead)
    values = {
        (m.partition, m.offset): topic.values[p][i] for p, line in enumerate(topic.stream) for i, m in enumerate(line)
    }
    for row in found.iter_rows(named=True):
        assert row["value"] == values[row["_partition"], row["_offset"]]
    counts = archive_counts(simulation.offline, SOURCE)
    assert (counts.accepted, counts.late, counts.dead_letters, counts.duplicates, counts.read) == (
        len(accepted),
        len(late),
        oracle.dead_letters(log.verdicts),
        len(log.kind("duplicate")),
        len(log.messages),
    )


def _event(message: Message) -> tuple[Any, ...]:
    assert message.event is not None
    cells = [repr(message.event[name]) for name in COLUMNS]
    return (message.partition, message.offset, message.arrival_us, message.event["ts"], *cells)


def _events(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    rows = []
    for row in frame.iter_rows(named=True):
        cells = [repr(_us(row[name]) if isinstance(row[name], datetime) else row[name]) for name in COLUMNS]
        times = _us(row["arrival_time"]), _us(row["event_time"])
        rows.append((row["_partition"], row["_offset"], *times, *cells))
    return sorted(rows)


def check_counts(simulation: Simulation, cases: Sequence[Case], log: Log) -> None:
    """The views' counters add up to what was archived, and nothing waits in an outbox."""
    stores = simulation.stores.open()
    try:
        for store in stores:
            assert not store.take(0), "the outbox is empty"
        for case in cases:
            counts = ViewCounts()
            for store in stores:
                state = store.read_state(case.bound.compiled)
                assert state is not None
                counts = counts.plus(state.counts)
            naive = oracle.view_counts(case.view, log.messages, log.verdicts)
            assert (counts.applied, counts.filtered, counts.null_key) == (naive.applied, naive.filtered, naive.null_key)
            known = oracle.applied_events(case.view, log.messages, log.verdicts, log.params)
            assert counts.entities == len(known)
    finally:
        for store in stores:
            store.close()


def check_snapshots(simulation: Simulation, case: Case, log: Log, *, close_windows: bool, runs: Sequence[Run]) -> None:
    """The valid row of every key and window is the oracle's; revisions have no gap, and none is there twice."""
    unsure: set[tuple[str, tuple[Any, ...], int]] = set()
    if runs:
        result = oracle.snapshots_of_runs(case.view, log.judged, log.params, runs)
        expected, unsure = result.rows, result.undetermined
    else:
        expected = oracle.snapshots(case.view, log.messages, log.verdicts, log.params, close_windows=close_windows)
    for dataset in case.bound.compiled.datasets:
        name = dataset.name
        wanted = {place: row for place, row in expected.get(name, {}).items() if (name, *place) not in unsure}
        emitted = {
            place: row for place, row in emitted_rows(simulation, case, name).items() if (name, *place) not in unsure
        }
        oracle.assert_same_rows(wanted, emitted)


def emitted_rows(simulation: Simulation, case: Case, dataset: str) -> Rows:
    """The rows of the highest revision, from the files."""
    compiled = case.bound.compiled
    frame = read_snapshots(simulation.offline, compiled.name, compiled.version, dataset)
    rows: Rows = {}
    revisions: dict[tuple[tuple[object, ...], int], list[int]] = {}
    for row in frame.iter_rows(named=True):
        end = _us(row.pop("window_end"))
        place = tuple(row[name] for name in case.view.join_keys), end
        revisions.setdefault(place, []).append(row["revision"])
        if row["revision"] == max(revisions[place]):
            rows[place] = row
    for place, found in revisions.items():
        assert sorted(found) == list(range(len(found))), (dataset, place, found)
    return rows


def check_reads(simulation: Simulation, cases: Sequence[Case], log: Log) -> None:
    """Online reads just after the newest event and later: every entity's values and statuses."""
    reader = simulation.stores.reader()
    try:
        for case in cases:
            _check_reads(reader, case, log)
    finally:
        reader.close()


def _check_reads(reader: OnlineReader, case: Case, log: Log) -> None:
    applied = oracle.applied_events(case.view, log.messages, log.verdicts, log.params)
    compiled, names = case.bound.compiled, list(case.bound.compiled.features)
    if not applied:
        return
    newest = max(events[-1].event_time for events in applied.values())
    places = list(applied)
    columns = {name: [place[i] for place in places] for i, name in enumerate(case.view.join_keys)}
    keys = [*encode_entities(compiled.spec.join_keys, columns), "never seen|0", None]
    for after in (1, 3 * MINUTE + 7, 61 * MINUTE, 3 * 60 * MINUTE):
        as_of = newest + after
        read = reader.read(compiled, keys, names, as_of)
        many = reader.read(compiled, keys * 20, names, as_of)
        for name in names:
            column = read.columns[name]
            assert many.columns[name].statuses == column.statuses * 20
            assert repr(many.columns[name].values) == repr(column.values * 20)
            assert column.statuses[-2:] == ["NOT_FOUND", "NOT_FOUND"]
        for number, place in enumerate(places):
            assert read.event_times_us[number] == applied[place][-1].event_time
            for feature in case.view.features:
                value, status = oracle.online_value(case.view, feature, applied[place], as_of)
                column = read.columns[feature.name]
                where = (compiled.name, place, feature.name, after)
                assert column.statuses[number] == status, (where, column.statuses[number], status)
                got = column.values[number]
                start, end = bounds(feature.window, as_of)
                inside = [e for e in applied[place] if (start is None or e.event_time >= start) and e.event_time < end]
                assert oracle.same(value, got, scale(feature, inside)), (where, value, got)


def whole_state(simulation: Simulation, cases: Sequence[Case]) -> dict[str, Any]:
    """What all files say, for two simulations to be compared without an oracle. Revisions may differ."""
    found: dict[str, Any] = {}
    for case in cases:
        for dataset in case.bound.compiled.datasets:
            rows = emitted_rows(simulation, case, dataset.name)
            found[f"{case.bound.compiled.name}/{dataset.name}"] = {
                place: {name: value for name, value in row.items() if name != "revision"} for place, row in rows.items()
            }
    for name, read in (("events", read_events), ("late", read_late), ("dead", read_dead_letters)):
        found[name] = Counter(map(repr, read(simulation.offline, SOURCE).rows()))
    return found


def _us(instant: datetime) -> int:
    return (instant - _EPOCH) // _US
