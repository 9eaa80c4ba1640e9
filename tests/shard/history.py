"""Drive shards through a history of polls, crashes and restarts without Kafka, and hold the end against the oracle."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import polars as pl

from featurestore.batches import (
    ARRIVAL_TIME,
    EVENT_TIME,
    NO_TIME,
    OFFSET,
    PARTITION,
    PARTITION_WATERMARK,
    PartitionBatch,
    PartitionProgress,
    SourcePoll,
)
from featurestore.compile.bind import BoundView
from featurestore.compile.keys import encode_entities
from featurestore.compile.view import compile_view
from featurestore.compute.windows import TileIndex
from featurestore.definitions.specs import EntitySpec, FeatureSpec, JoinKeySpec, ViewSpec, WindowSpec
from featurestore.shard.processor import ShardProcessor
from featurestore.shard.protocol import Fence, ViewCounts
from featurestore.testing.crash import CrashSchedule, SimulatedCrash, never_crash
from featurestore.testing.memory_store import MemoryShardStore
from featurestore.worker.routing import Router
from tests import oracle
from tests.factories import source_spec
from tests.oracle import Feature, Message, SourceParams, Verdict, View
from tests.strategies import Stream

MINUTE = 60_000_000
GENERATION = "g"
_DTYPES = {"amount": "Float64", "quantity": "Int64", "doubled": "Float64", "merchant_id": "String", "online": "Boolean"}
_SCHEMA = {
    "card_id": pl.String,
    "merchant_id": pl.String,
    "amount": pl.Float64,
    "quantity": pl.Int64,
    "online": pl.Boolean,
    "status": pl.String,
}
WINDOWS: dict[str, tuple[WindowSpec, oracle.Window]] = {
    "10m": (WindowSpec(kind="sliding", size_us=10 * MINUTE), oracle.sliding(10 * MINUTE)),
    "1h": (WindowSpec(kind="sliding", size_us=60 * MINUTE), oracle.sliding(60 * MINUTE)),
    "tumbling": (WindowSpec(kind="tumbling", size_us=MINUTE), oracle.tumbling(MINUTE)),
    "hopping": (
        WindowSpec(kind="hopping", size_us=10 * MINUTE, every_us=MINUTE),
        oracle.hopping(10 * MINUTE, MINUTE),
    ),
    "shifted": (
        WindowSpec(kind="tumbling", size_us=5 * MINUTE, offset_us=MINUTE // 2),
        oracle.tumbling(5 * MINUTE, MINUTE // 2),
    ),
    "ever": (WindowSpec(kind="lifetime"), oracle.lifetime()),
}


@dataclass(frozen=True)
class Case:
    """One view, said to the project and to the oracle."""

    bound: BoundView
    view: View


def case(
    number: int,
    keys: tuple[str, ...],
    features: list[tuple[str, str | None, str]],
    params: SourceParams,
    *,
    filtered: bool = True,
    ttl_us: int = 0,
) -> Case:
    """A view of (function, column, window name) features by these join keys; `filtered`: approved events alone."""
    specs, told = [], []
    for function, column, window in features:
        name = f"{column or 'rows'}_{function}_{window}"
        dtype = None if column is None else _DTYPES[column]
        output = "Int64" if function == "count" else "Float64" if function in ("mean", "var", "stddev") else dtype
        output = "Int64" if function == "sum" and dtype == "Boolean" else output
        spec, naive = WINDOWS[window]
        specs.append(
            FeatureSpec(
                name=name,
                function=function,
                window=spec,
                output_dtype=output or "Int64",
                column=column,
                input_dtype=dtype,
            )
        )
        told.append(Feature(name, function, column, naive, floats=dtype == "Float64"))
    source = source_spec(out_of_orderness_us=params.ooo_us, lateness_us=params.lateness_us)
    entity = EntitySpec(name="entity", join_keys=tuple(JoinKeySpec(name=key, dtype=str(_SCHEMA[key])) for key in keys))
    view = ViewSpec(name=f"view_{number}", source="events", entities=(entity,), features=tuple(specs), ttl_us=ttl_us)
    where = pl.col("status") == "approved" if filtered else None
    bound = BoundView(compile_view(view, source, view_id=number, version=1), where, {"doubled": pl.col("amount") * 2.0})
    naive_view = View(
        keys,
        tuple(told),
        where=(lambda e: e["status"] == "approved") if filtered else None,
        derive={"doubled": lambda e: None if e["amount"] is None else e["amount"] * 2.0},
        ttl_us=ttl_us,
    )
    return Case(bound, naive_view)


@dataclass
class History:
    """A bounded run over a stream, in lives that end in crashes. shards: how many; seed: of cuts and commits.

    silences: how often a partition that has more is said to be idle, or empty where nothing was read of it.
    """

    cases: list[Case]
    stream: Stream
    params: SourceParams
    shards: int
    seed: int
    most: int = 10
    crash: CrashSchedule | None = None
    silences: float = 0.0
    lives: int = 0
    stores: list[MemoryShardStore] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._messages = [message for partition in self.stream for message in partition]
        self._verdicts = oracle.judge(self._messages, self.params)
        self._point = self.crash or never_crash
        self.stores = [MemoryShardStore(self._point) for _ in range(self.shards)]

    def run(self, *, close_windows: bool = False) -> History:
        """Live until a life comes to the end."""
        while True:
            self.lives += 1
            try:
                self._live(close_windows)
                return self
            except SimulatedCrash:
                self.stores = [store.reopen() for store in self.stores]

    def _live(self, close_windows: bool) -> None:
        views = [case.bound for case in self.cases]
        partitions = range(len(self.stream))
        initial = {view.compiled.reference: {p: Fence(0) for p in partitions} for view in views}
        processors = [ShardProcessor(views, GENERATION, partitions, store, initial) for store in self.stores]
        router = Router(views, self.shards)
        at = {p: self._resume(p, views) for p in partitions}
        told: dict[int, PartitionProgress] = {}
        while len(told) < len(partitions) or any(at[p] < len(self.stream[p]) for p in partitions):
            open_ones = [p for p in partitions if p not in told or at[p] < len(self.stream[p])]
            partition = self._random.choice(open_ones)
            count = self._random.randint(0, self.most)
            poll = self._poll(partition, at[partition], count)
            at[partition] = poll.progress[0].next_offset
            if at[partition] >= len(self.stream[partition]):
                told[partition] = poll.progress[0]
            for shard, batch in router.route(poll):
                processors[shard].receive(batch)
            self._point("between polls")
            for processor in processors:
                if self._random.random() < 0.3:
                    processor.commit()
        for processor in processors:
            processor.commit(close_windows=close_windows)

    def _resume(self, partition: int, views: list[BoundView]) -> int:
        fences = []
        for store in self.stores:
            for view in views:
                state = store.read_state(view.compiled)
                fence = state.fence(GENERATION, partition) if state else None
                fences.append(fence.next_offset if fence else 0)
        return min(fences)

    def _poll(self, partition: int, start: int, count: int) -> SourcePoll:
        messages = self.stream[partition][start : start + count]
        index = {(m.partition, m.offset): v for m, v in zip(self._messages, self._verdicts, strict=True)}
        verdicts = [index[(m.partition, m.offset)] for m in messages]
        end = start + len(messages)
        newest = self._newest(partition, end, index)
        finished = end >= len(self.stream[partition])
        state = ("empty" if newest == NO_TIME else "ended") if finished else "active"
        if not finished and self._random.random() < self.silences:
            state = "empty" if newest == NO_TIME else "idle"
        progress = PartitionProgress(partition, start, end, newest, state)
        accepted = accepted_frame([(m, v) for m, v in zip(messages, verdicts, strict=True) if v.kind == "accepted"])
        none = pl.Series([0] * len(messages), dtype=pl.Int64).to_numpy()
        batch = PartitionBatch(progress, none, none, none, accepted, accepted.clear(), accepted.clear())
        return SourcePoll((batch,), (progress,))

    def _newest(self, partition: int, end: int, index: dict[tuple[int, int], Verdict]) -> int:
        times = [
            m.event[self.params.event_time_field]
            for m in self.stream[partition][:end]
            if m.event is not None and index[(m.partition, m.offset)].kind != "dead"
        ]
        return max(times, default=NO_TIME)

    def check(self, *, close_windows: bool = False) -> None:
        """Counters, snapshot rows with their revisions, and online values are what the oracle says."""
        for case in self.cases:
            compiled, view = case.bound.compiled, case.view
            counts = ViewCounts()
            for store in self.stores:
                state = store.read_state(compiled)
                assert state is not None
                counts = counts.plus(state.counts)
            naive = oracle.view_counts(view, self._messages, self._verdicts)
            assert (counts.applied, counts.filtered, counts.null_key) == (naive.applied, naive.filtered, naive.null_key)
            expected = oracle.snapshots(view, self._messages, self._verdicts, self.params, close_windows=close_windows)
            emitted = self._emitted(case)
            for dataset in compiled.datasets:
                oracle.assert_same_rows(expected.get(dataset.name, {}), emitted.get(dataset.name, {}))
            self._check_reads(case)

    def _emitted(self, case: Case) -> dict[str, dict[object, dict[str, object]]]:
        """Rows of the highest revision by dataset; asserts that revisions have no gap and none is there twice."""
        latest: dict[str, dict[object, dict[str, object]]] = {}
        revisions: dict[object, list[int]] = {}
        for store in self.stores:
            for _, emitted in sorted(store.outbox.items()):
                if emitted.view is not case.bound.compiled and emitted.view.name != case.bound.compiled.name:
                    continue
                for row in emitted.rows.iter_rows(named=True):
                    end = round(row.pop("window_end").timestamp() * 1_000_000)
                    key = (tuple(row[name] for name in case.view.join_keys), end)
                    revisions.setdefault((emitted.dataset, key), []).append(row["revision"])
                    latest.setdefault(emitted.dataset, {})[key] = row
        for place, found in revisions.items():
            assert found == list(range(len(found))), (place, found)
        return latest

    def _check_reads(self, case: Case) -> None:
        applied = oracle.applied_events(case.view, self._messages, self._verdicts, self.params)
        if not applied:
            return
        compiled = case.bound.compiled
        newest = max(event.event_time for events in applied.values() for event in events)
        keys = sorted(
            (
                (
                    str(
                        encode_entities(
                            compiled.spec.join_keys, dict(zip(case.view.join_keys, [[k] for k in key], strict=True))
                        )[0]
                    ),
                    key,
                )
                for key in applied
            ),
            key=lambda pair: pair[0].encode(),
        )
        for as_of in (newest + 1, newest + 7 * MINUTE):
            for store in self.stores:
                rows = store.read_rows(compiled, [name for name, _ in keys])
                index = TileIndex(rows.tiles, len(keys))
                for number, (_, key) in enumerate(keys):
                    if rows.newest_us[number] == NO_TIME:
                        continue
                    entity = pl.Series([number], dtype=pl.Int64).to_numpy()
                    instant = pl.Series([as_of], dtype=pl.Int64).to_numpy()
                    for group in compiled.groups:
                        for feature, series in zip(group.features, group.read(index, entity, instant), strict=True):
                            naive = next(f for f in case.view.features if f.name == feature.name)
                            value, status = oracle.online_value(case.view, naive, applied[key], as_of)
                            if status in ("PRESENT", "NULL_VALUE"):  # the rest is the reader's to decide
                                _assert_close(value, series[0], (key, feature.name, as_of))


def _assert_close(expected: object, actual: object, place: object) -> None:
    if isinstance(expected, float) and isinstance(actual, float):
        assert abs(expected - actual) <= 1e-6 * max(1.0, abs(expected)), (place, expected, actual)
    else:
        assert expected == actual, (place, expected, actual)


def accepted_frame(rows: list[tuple[Message, Verdict]]) -> pl.DataFrame:
    """Accepted messages as a source hands them on."""
    instant = pl.Datetime("us", "UTC")
    columns = {name: [m.event[name] for m, _ in rows if m.event is not None] for name in _SCHEMA}
    frame = pl.DataFrame(columns, schema=_SCHEMA)
    return frame.with_columns(
        pl.Series(PARTITION, [m.partition for m, _ in rows], dtype=pl.Int32),
        pl.Series(OFFSET, [m.offset for m, _ in rows], dtype=pl.Int64),
        pl.Series(EVENT_TIME, [m.event["ts"] for m, _ in rows if m.event is not None], dtype=pl.Int64).cast(instant),
        pl.Series(ARRIVAL_TIME, [m.arrival_us for m, _ in rows], dtype=pl.Int64).cast(instant),
        pl.Series(
            PARTITION_WATERMARK,
            [NO_TIME if v.watermark_before is None else v.watermark_before for _, v in rows],
            dtype=pl.Int64,
        ),
    )
