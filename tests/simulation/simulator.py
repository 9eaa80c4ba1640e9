"""Runs of a source in lives that end at its end or in a crash. The order of things is that of `worker/`:

resume   recover the outbox, drop what files show, first fences, resume points, archive starts
source   poll, archive, route; the archive is flushed when the source ends
shard    receive in order, at its own pace; commit; outbox to files, drop, done
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import msgspec
import polars as pl

from featurestore.batches import NO_TIME, PartitionProgress
from featurestore.compile.bind import BoundView
from featurestore.definitions.specs import ColumnSpec, SourceSpec
from featurestore.offline import ArchiveEnd, SnapshotWriter, SourceArchive, finish_recovery, read_ends, recover
from featurestore.offline.recent_ids import read_recent_ids
from featurestore.shard.processor import ShardProcessor
from featurestore.shard.protocol import Commit, Fence, ShardBatch, ViewState, fence_key
from featurestore.sources.consumer import ResumePoint, SourceReader
from featurestore.testing.crash import CrashSchedule, SimulatedCrash, never_crash
from featurestore.worker.prepare import with_archived_times
from featurestore.worker.resume import archive_starts, resume_points
from featurestore.worker.routing import Router
from tests.factories import source_spec
from tests.oracle import SourceParams
from tests.simulation.log import FakeConsumer, Portions, Topic
from tests.simulation.stores import SOURCE, MemoryStores, OutboxStore, RocksStores, Stores
from tests.strategies import COLUMNS

GENERATION = "g"


def simulated_source(params: SourceParams) -> SourceSpec:
    """The source of the card payments of `tests.strategies`."""
    columns = tuple(
        ColumnSpec(name=name, dtype=dtype, nullable=nullable, unit="us" if dtype == "Datetime" else None)
        for name, (dtype, nullable) in COLUMNS.items()
    )
    dedupe = {"dedupe_by": params.dedupe_by, "dedupe_within_us": params.dedupe_us}
    spec = source_spec(out_of_orderness_us=params.ooo_us, lateness_us=params.lateness_us)
    return msgspec.structs.replace(spec, columns=columns, max_future_us=params.max_future_us, **dedupe)


@dataclass(frozen=True)
class Habits:
    """How a process behaves that no result may depend on.

    portions: of a poll, for a fresh life; processes: that share partitions and shards; commit_share: of the batches
    a shard receives, how many make it commit; write_share: of the rounds, how many write the outbox; drain_share:
    of the lives, how many stop half way as if by a signal; segment_…, flush_…: of the archive; wall_us:
    what the wall clock may show.
    """

    portions: Portions
    processes: Sequence[int] = (1,)
    commit_share: float = 0.3
    write_share: float = 0.2
    drain_share: float = 0.0
    segment_events: int = 64
    segment_bytes: int = 4_000
    flush_interval_s: float = 3.0
    wall_us: Sequence[int] = (0,)


class Simulation:
    """A data folder and the runs on it. seed: of everything that is left to chance."""

    def __init__(
        self,
        root: Path,
        params: SourceParams,
        shards: int,
        seed: int,
        *,
        crash: CrashSchedule | None = None,
        rocks: bool = False,
    ) -> None:
        self.data_dir = root
        self.offline = root / "offline"
        self.spec = simulated_source(params)
        self.shards = shards
        self.point = crash or never_crash
        self.stores: Stores = RocksStores(root, shards, self.point) if rocks else MemoryStores(shards, self.point)
        self.lives = 0
        self.crashes: list[str] = []
        self.random = random.Random(seed)
        self.stored_starts: dict[str, Fence] = {}
        self.first_wall_us: dict[tuple[int, int], int] = {}

    def run(
        self, views: Sequence[BoundView], topic: Topic, habits: Habits, *, close_windows: bool = False
    ) -> Simulation:
        """Live until a life comes to the topic's end."""
        while True:
            self.lives += 1
            opened = self.stores.open()
            life = _Life(self, opened, views, topic, habits)
            try:
                if life.live(close_windows):
                    return self
            except SimulatedCrash as crash:
                self.crashes.append(str(crash))
            finally:
                life.close()


@dataclass
class _Process:
    """One worker process: its share of the partitions and of the shards."""

    reader: SourceReader
    archive: SourceArchive
    writer: SnapshotWriter
    shards: list[int]
    ended: bool = False


class _Life:
    def __init__(
        self,
        simulation: Simulation,
        stores: list[OutboxStore],
        views: Sequence[BoundView],
        topic: Topic,
        habits: Habits,
    ) -> None:
        self._sim = simulation
        self._stores = stores
        self._views = views
        self._topic = topic
        self._habits = habits
        self._point = simulation.point
        self._random = simulation.random
        self._seconds = 0.0
        self._wall_us = 0
        self._readers: list[SourceReader] = []

    def close(self) -> None:
        """The system takes back what a dead process had open."""
        for reader in self._readers:
            reader.close()
        for store in self._stores:
            store.close()

    def live(self, close_windows: bool) -> bool:
        """Whether the topic's end was reached; False: drained before."""
        initial = {view.compiled.reference: {p: Fence(0) for p in self._topic.end} for view in self._views}
        resume, starts = self._prepare(initial)
        count = self._random.choice(self._habits.processes)
        drain_after = self._random.randint(0, 6) if self._random.random() < self._habits.drain_share else None
        processes = [self._start(number, count, resume, starts) for number in range(count)]
        self._processors = [
            ShardProcessor(self._views, GENERATION, sorted(resume), store, initial) for store in self._stores
        ]
        for process in processes:
            for shard in process.shards:
                process.writer.add(self._stores[shard].take(shard))
        router = Router(self._views, self._sim.shards)
        queues: list[deque[ShardBatch]] = [deque() for _ in self._stores]
        for number in range(count):
            progress = [
                PartitionProgress(p, fence.next_offset, fence.next_offset, fence.max_event_time_us)
                for p, fence in resume.items()
                if p % count == number
            ]
            _deliver(queues, router.announce(progress))
        rounds = 0
        while any(not process.ended for process in processes) or any(queues):
            drained = drain_after is not None and rounds >= drain_after
            rounds += 1
            self._seconds += self._random.choice((0.1, 1.0, 2.0))
            process = self._random.choice([p for p in processes if not p.ended] or processes)
            if not process.ended:
                if process.reader.finished or drained:
                    process.archive.flush()
                    process.ended = True
                else:
                    _deliver(queues, self._poll(process, router))
            for each in processes:
                self._work(each, queues)
        for process in self._random.sample(processes, count):
            for shard in process.shards:
                self._commit(process, shard, close_windows=close_windows and drain_after is None)
        for process in processes:
            self._write_outbox(process)
        return drain_after is None

    def _prepare(self, initial: Mapping[str, Mapping[int, Fence]]) -> tuple[dict[int, Fence], dict[int, Fence]]:
        """What `worker/prepare.py` does before the processes start."""
        folders = sorted((self._sim.data_dir / "outbox").glob("process-*"))
        covered: dict[int, list[int]] = {}
        for folder in folders:
            for shard, sequences in recover(self._sim.offline, folder).items():
                covered.setdefault(shard, []).extend(sequences)
        self._point("outbox recovered")
        fences: dict[int, list[Fence]] = {partition: [] for partition in self._topic.end}
        for shard, store in enumerate(self._stores):
            if covered.get(shard):
                store.drop_outbox(covered[shard])
            commit = Commit()
            for view in self._views:
                state = store.read_state(view.compiled) or ViewState()
                for partition, found in fences.items():
                    fence = state.fence(GENERATION, partition)
                    if fence is None:
                        fence = initial[view.compiled.reference][partition]
                        keyed = {**state.fences, fence_key(GENERATION, partition): fence}
                        state = msgspec.structs.replace(state, fences=keyed)
                    found.append(fence)
                commit.states.append((view.compiled, state))
            store.write(commit)
        for folder in folders:
            finish_recovery(folder)
            self._point("recovery finished")
        ends = {
            partition: Fence(end.next_offset, end.max_event_time_us)
            for partition, end in read_ends(self._sim.offline, SOURCE, GENERATION).items()
        }
        starts = archive_starts(self._sim.stored_starts, GENERATION, fences)
        self._sim.stored_starts |= {fence_key(GENERATION, p): start for p, start in starts.items()}
        self._point("starts written")
        resume = resume_points(fences, ends, starts)
        return with_archived_times(self._sim.offline, SOURCE, GENERATION, resume), starts

    def _start(self, number: int, count: int, resume: Mapping[int, Fence], starts: Mapping[int, Fence]) -> _Process:
        mine = [partition for partition in sorted(resume) if partition % count == number]
        with mock.patch(
            "featurestore.sources.consumer.make_client",
            return_value=FakeConsumer(self._topic, self._habits.portions),
        ):
            reader = SourceReader(
                self._sim.spec,
                "nowhere:9092",
                "group",
                {p: ResumePoint(resume[p].next_offset, resume[p].max_event_time_us) for p in mine},
                GENERATION,
                {p: self._topic.end[p] for p in mine},
                self._sim.data_dir / "verdicts",
                {},
                clock=lambda: self._wall_us * 1_000,
                monotonic=lambda: self._seconds,
                archived_ids=self._archived_ids,
            )
        self._readers.append(reader)
        archive = SourceArchive(
            self._sim.offline,
            SOURCE,
            GENERATION,
            starts={p: ArchiveEnd(starts[p].next_offset, starts[p].max_event_time_us) for p in mine},
            segment_events=self._habits.segment_events,
            segment_bytes=self._habits.segment_bytes,
            flush_interval_s=self._habits.flush_interval_s,
            crash_point=self._point,
        )
        writer = SnapshotWriter(
            self._sim.offline,
            self._sim.data_dir / "outbox" / f"process-{number}",
            f"store-{self._sim.lives}-{number}",
            clock=lambda: self._seconds,
            crash_point=self._point,
        )
        return _Process(reader, archive, writer, [s for s in range(self._sim.shards) if s % count == number])

    def _archived_ids(self, partition: int, point: ResumePoint) -> pl.DataFrame | None:
        spec = self._sim.spec
        assert spec.dedupe_by is not None
        end = ArchiveEnd(point.next_offset, point.max_event_time_us)
        return read_recent_ids(
            self._sim.offline, SOURCE, GENERATION, partition, spec.dedupe_by, end, spec.dedupe_within_us
        )

    def _poll(self, process: _Process, router: Router) -> list[tuple[int, ShardBatch]]:
        self._wall_us = self._random.choice(self._habits.wall_us)
        poll = process.reader.poll(0.0)
        if poll is None:
            process.archive.maybe_flush(self._seconds)
            return []
        covered = {batch.partition for batch in poll.batches}
        for batch in poll.batches:
            for offset in batch.offsets.tolist():
                self._sim.first_wall_us.setdefault((batch.partition, offset), self._wall_us)
            verdicts = len(batch.accepted), len(batch.late), len(batch.dead), len(batch.duplicates)
            assert sum(verdicts) == len(batch.offsets)
            process.archive.append(batch)
        for progress in poll.progress:
            assert progress.max_event_time_us >= NO_TIME
            if progress.partition not in covered:
                process.archive.advance(progress)
        self._point("polled")
        process.archive.maybe_flush(self._seconds)
        self._point("archived")
        return router.route(poll)

    def _work(self, process: _Process, queues: list[deque[ShardBatch]]) -> None:
        """Every shard receives some of what waits for it, and perhaps commits."""
        for shard in process.shards:
            waiting = queues[shard]
            for _ in range(self._random.randint(0, len(waiting))):
                self._processors[shard].receive(waiting.popleft())
                if self._random.random() < self._habits.commit_share:
                    self._commit(process, shard)
        if self._random.random() < self._habits.write_share:
            self._write_outbox(process)

    def _commit(self, process: _Process, shard: int, *, close_windows: bool = False) -> None:
        if self._processors[shard].commit(close_windows=close_windows) is not None:
            process.writer.add(self._stores[shard].take(shard))

    def _write_outbox(self, process: _Process) -> None:
        for shard, sequences in process.writer.write().items():
            self._stores[shard].drop_outbox(sequences)
        process.writer.done()


def _deliver(queues: list[deque[ShardBatch]], routed: Sequence[tuple[int, ShardBatch]]) -> None:
    for shard, batch in routed:
        queues[shard].append(batch)
