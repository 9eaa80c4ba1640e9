"""The shards of one source in one worker process: when each commits, and the way of the outbox to the offline store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import structlog

from featurestore.compile.bind import BoundView
from featurestore.config import Settings
from featurestore.durations import format_instant
from featurestore.observability import Metrics
from featurestore.offline.completeness import CompletenessBoard
from featurestore.offline.snapshots import OutboxEntry, SnapshotDataset, SnapshotWriter
from featurestore.online import layout
from featurestore.online.rocks import RocksMemory
from featurestore.online.shard_store import RocksShardStore
from featurestore.online.steps import whole_step
from featurestore.online.synced import note_sizes
from featurestore.shard.processor import CommitReport, ShardProcessor
from featurestore.shard.protocol import ShardBatch
from featurestore.worker.plan import SourcePlan

log = structlog.get_logger()

OUTBOX_ROWS = 100_000
"""Snapshot rows that make a write of the outbox due at once; fewer wait some seconds for company."""

COMPLETE_EVERY_S = 5.0
"""How often the completeness markers follow the watermarks, when no snapshot rows are written anyway."""

FULL_BATCH_EVENTS = 100_000
"""A shard commits early when it has buffered so many events."""


class ShardSlot:
    """One shard in this process: its store, its processor, and when it commits next."""

    def __init__(self, shard: int, store: RocksShardStore, processor: ShardProcessor, interval_s: float) -> None:
        self.shard = shard
        self.store = store
        self.processor = processor
        self.interval_s = interval_s
        self.due_at = time.monotonic() + interval_s

    def next_commit(self) -> datetime:
        """Wall-clock time of the next commit, as bytewax wants it."""
        return datetime.now(timezone.utc) + timedelta(seconds=max(0.0, self.due_at - time.monotonic()))


class SourceHost:
    """All shards of one source that bytewax routed to this process."""

    def __init__(
        self,
        plan: SourcePlan,
        views: Sequence[BoundView],
        settings: Settings,
        metrics: Metrics,
        *,
        run_id: str,
        process: int,
    ) -> None:
        self._plan = plan
        self._views = views
        self._settings = settings
        self._metrics = metrics
        self._process = process
        self._memory = RocksMemory()
        self._slots: dict[int, ShardSlot] = {}
        self._data_dir = Path(settings.store.data_dir)
        folder, offline = layout.source_dir(self._data_dir, plan.source.name), self._data_dir / "offline"
        writer_id = f"{plan.incarnation}-{run_id}-{process}"
        self._snapshots = SnapshotWriter(offline, folder / "outbox" / f"process-{process}", writer_id, OUTBOX_ROWS)
        versions = [(view.spec.name, view.version) for view in plan.views]
        self._completeness = CompletenessBoard(offline, folder / "completeness", run_id, process, plan.shards, versions)
        self._published: dict[int, dict[str, int]] = {}
        self._published_at = time.monotonic()

    @property
    def shards(self) -> int:
        """How many shards the source's store has, over all processes."""
        return self._plan.shards

    def open_shard(self, shard: int) -> ShardSlot:
        """The slot of a shard, opened at its first batch."""
        slot = self._slots.get(shard)
        if slot is None:
            path = layout.shard_dir(self._data_dir, self._plan.source.name, shard)
            store = RocksShardStore(path, self._memory, fsync=self._settings.store.fsync == "commit")
            processor = ShardProcessor(
                self._views,
                self._plan.generation,
                sorted(self._plan.resume),
                store,
                {view.reference: view.initial for view in self._plan.views},
            )
            self._collect(shard, store)
            slot = ShardSlot(shard, store, processor, self._settings.worker.commit_interval_s)
            # Spread over the interval, so that commits of many shards do not come in one burst.
            slot.due_at = time.monotonic() + slot.interval_s * (shard + 1) / self._plan.shards
            self._slots[shard] = slot
        return slot

    def receive(self, slot: ShardSlot, batches: Sequence[ShardBatch]) -> None:
        """Hand batches to a shard, and commit when it is time or the shard is full."""
        for batch in batches:
            slot.processor.receive(batch)
            if slot.processor.buffered_events >= FULL_BATCH_EVENTS:
                self.commit(slot)
        self.commit_if_due(slot)

    def commit_if_due(self, slot: ShardSlot) -> None:
        """Commit when the commit interval has passed."""
        if time.monotonic() >= slot.due_at:
            self.commit(slot)

    def commit(self, slot: ShardSlot, *, close_windows: bool = False) -> None:
        """Commit one shard, and write the outbox when enough has gathered."""
        now = time.monotonic()
        slot.due_at = now + slot.interval_s
        began = time.perf_counter()
        report = slot.processor.commit(close_windows=close_windows)
        if report is not None:
            self._observe(report, time.perf_counter() - began, slot.shard)
            self._collect(slot.shard, slot.store)
        if self._snapshots.due(now) or now - self._published_at >= COMPLETE_EVERY_S:
            self.write_outbox()

    def write_outbox(self) -> None:
        """Write gathered snapshot rows to the offline store, forget them in the shards, and say what is final now."""
        self._published_at = time.monotonic()
        # Every commit's rows were gathered with it: once they are in files, all that these lines cover is.
        lines = {shard: slot.processor.lines_us() for shard, slot in self._slots.items()}
        if not self._snapshots.holds_rows and lines == self._published:
            return
        # The entries must not be lost by a power cut once a file shows their rows.
        self._sync()
        with whole_step(self._data_dir):
            written = self._snapshots.write()
            for shard, sequences in written.items():
                self._slots[shard].store.drop_outbox(sequences)
            self._snapshots.done()
            if lines != self._published:
                self._completeness.publish(lines)
                self._published = lines

    def close(self) -> None:
        """Write what is left in the outbox and release the shards."""
        for slot in self._slots.values():
            self._collect(slot.shard, slot.store)
        self.write_outbox()
        self._sync()
        self._snapshots.close()
        for slot in self._slots.values():
            slot.store.close()
        self._slots.clear()

    def _sync(self) -> None:
        """Make the shards' logs durable, and remember how long they were."""
        sizes = {shard: slot.store.growing_sizes() for shard, slot in self._slots.items()}
        for slot in self._slots.values():
            slot.store.sync()
        if sizes:
            note_sizes(self._data_dir, self._plan.source.name, self._process, sizes)

    def _collect(self, shard: int, store: RocksShardStore) -> None:
        items = store.take_outbox()
        self._snapshots.add(
            [
                OutboxEntry(
                    shard, item.sequence, SnapshotDataset(item.view, item.version, item.window), item.rows.to_arrow()
                )
                for item in items
            ]
        )

    def _observe(self, report: CommitReport, seconds: float, shard: int) -> None:
        source = self._plan.source.name
        self._metrics.observe_commit(source, report, seconds)
        log.debug(
            "commit",
            source=source,
            shard=shard,
            events=report.events,
            rows=sum(report.rows_written.values()),
            snapshot_rows=sum(report.snapshot_rows.values()),
            duration_ms=round(seconds * 1000, 1),
            watermark={name: format_instant(us) for name, us in report.watermark_us.items() if us > 0},
        )
